"""Runs docs/operations.md: its commands, in its order, against an installation in which what it is about was broken.

    HOLDFAST_BIN=target/release/holdfast HOLDFAST_NATS_SERVER=nats-server python tests/python/operations.py [--section TEXT]

Three nats-servers with deploy/nats/cluster.conf, two coordinators and two workers run as processes of this machine. In
place of systemctl, ssh and the `nats` CLI are the programs of tests/python/operations. Comments of the page steer this
program:

    run                      runs the next block of commands; its exit status must be 0
    run: exit 1              must be 1
    run until: exit 0        runs it again and again until its exit status is 0, and its output fits
    prepare, break, check    calls the function of that text below
    begin, end               calls the function at once, and for its end
    apply: FILE              applies the next block, which is a diff, to the settings of every nats-server

The output must have the lines of the block `text` that follows, in this order; `…` stands for anything.
Needs nats-py.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/operations.md"
SHIMS = REPOSITORY / "tests/python/operations"
BIN = pathlib.Path(os.environ.get("HOLDFAST_BIN", "target/release/holdfast")).resolve()
NATS = shutil.which(os.environ.get("HOLDFAST_NATS_SERVER", "nats-server"))
HOSTS = ["n1", "n2", "n3"]
PARTS = ["holdfast-coordinator@1", "holdfast-coordinator@2", "holdfast-worker@w1", "holdfast-worker@w2"]
WITHIN = 90
BLOCK = re.compile(
    r"<!-- (?P<word>run until|run|prepare|break|check|begin|end|apply)(?:: (?P<text>[^>]*?))? -->"
    r"(?:\n```(?:sh|diff)\n(?P<body>.*?)```(?:\n```text\n(?P<shows>.*?)```)?)?",
    re.DOTALL,
)


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Installation:
    """Settings, passwords, units, and the shell that the commands run in."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.home, self.units, self.bin = (self.folder / name for name in ["home", "units", "bin"])
        for made in [self.home, self.bin, *(self.units / host for host in [*HOSTS, "here"])]:
            made.mkdir(parents=True)
        self.greatest_fence = 0
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "HOLDFAST_"))},
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "UNITS": str(self.units),
            "USER": "oncall",
            "NO_COLOR": "1",
        }
        self._programs()
        ports, routes = free_ports(len(HOSTS)), free_ports(len(HOSTS))
        self.url = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
        self.shell(f"holdfast credentials --nats {self.url}")
        passwords = dict(
            line.split("=", 1) for line in (self.home / ".holdfast/credentials.env").read_text().split() if "=" in line
        )
        route = f"nats-route://route:{passwords['HOLDFAST_ROUTE_PASSWORD']}@127.0.0.1:"
        for host, port, own in zip(HOSTS, ports, routes, strict=True):
            etc, store = self.etc(host), self.folder / host / "store"
            store.mkdir(parents=True)
            shutil.copytree(REPOSITORY / "deploy/nats", etc / "deploy/nats")
            shutil.copy(REPOSITORY / "nats.conf", etc)
            cluster = etc / "deploy/nats/cluster.conf"
            # One machine has the routes of all.
            text = cluster.read_text()
            assert "port: 6222" in text
            cluster.write_text(text.replace("port: 6222", f"port: {own}").replace("host: 0.0.0.0", "host: 127.0.0.1"))
            variables = {
                **passwords,
                "HOLDFAST_SERVER_NAME": host,
                "HOLDFAST_ROUTES": "[" + ", ".join(f"{route}{other}" for other in routes) + "]",
            }
            command = [NATS, "-c", cluster, "-a", "127.0.0.1", "-p", port, "-sd", store]
            self._unit(host, "nats-server", command, variables)
        for part in PARTS:
            kind, name = part.removeprefix("holdfast-").split("@")
            command = [BIN, kind, "--context", self.home / f".holdfast/config/nats/context/{kind}.json"]
            if kind == "worker":
                docs = self.folder / "docs"
                docs.mkdir(exist_ok=True)
                command += ["--name", name, "--workspace", f"main={docs}"]
            self._unit("here", part, command, {"RUST_LOG": "info"})

    def etc(self, host):
        return self.folder / host / "etc"

    def _programs(self):
        (self.bin / "holdfast").symlink_to(BIN)
        (self.bin / "nats-server").symlink_to(NATS)
        for name in ["nats", "systemctl"]:
            self._program(name, f'exec "{sys.executable}" "{SHIMS / name}" "$@"')
        # The folder of the store is one per machine.
        self._program("ssh", 'host=$1; shift; HOST=$host exec bash -c "${*//\\/var\\/lib\\/holdfast-nats/$MACHINES/$host/store}"')
        self.environment["MACHINES"] = str(self.folder)

    def _program(self, name, text):
        file = self.bin / name
        file.write_text(f"#!/usr/bin/env bash\n{text}\n")
        file.chmod(0o755)

    def _unit(self, host, name, command, environment):
        run = {"command": [str(part) for part in command], "environment": environment}
        (self.units / host / f"{name}.json").write_text(json.dumps(run))

    def shell(self, commands, exits=0, within=120):
        """Runs commands as the page's reader would. Returns what they print."""
        status, output = self.attempt(commands, within)
        assert status == exits, f"ended with {status} and not {exits}:\n{commands}\n{output}"
        return output

    def attempt(self, commands, within=120):
        environment = {**self.environment, "GREATEST_FENCE": str(self.greatest_fence)}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within,
        )
        return done.returncode, done.stdout

    def json(self, command, exits=0):
        output = self.shell(f"holdfast {command} --json --timeout 30s 2>&1", exits)
        return json.loads(output.strip().splitlines()[-1])

    def pid(self, host, unit):
        return int((self.units / host / f"{unit}.pid").read_text())

    def start(self):
        for host in HOSTS:
            self.shell(f"ssh {host} systemctl start nats-server")
        self.shell(f"systemctl start {' '.join(PARTS)}")

    def beside(self, name):
        return Alone(self, name)

    def end(self):
        """Ends what this installation started, by the ids that systemctl noted."""
        for file in self.units.glob("*/*.pid"):
            try:
                os.kill(int(file.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass

    def grant(self, session, owner, extra=""):
        """A lock's grant; its fence is noted."""
        grant = self.json(f"lock acquire {session} --owner {owner} {extra}")
        self.greatest_fence = max(self.greatest_fence, grant["fence"])
        return grant


class Steps:
    """What the page's comments call, by their text."""

    def __init__(self, installation):
        self.on = installation
        self.given = []
        self.editing = None
        self.cluster = None
        self.alone = []

    def ann_has_the_lock_of_plan(self):
        self.on.json("session open plan")
        token = self.on.grant("plan", "ann")["lock_token"]
        self.on.json(f"doc edit plan --token {token} --body kept")

    def bob_has_the_lock_of_plan(self):
        self.on.grant("plan", "bob")

    def worker_w1_is_frozen(self):
        # The session is on that worker, so that somebody misses it.
        if self._worker_of("plan") != "w1":
            self.on.shell("holdfast admin move plan --worker w1 --reason test")
        os.kill(self.on.pid("here", "holdfast-worker@w1"), signal.SIGSTOP)

    def nats_server_n3_is_killed(self):
        os.kill(self.on.pid("n3", "nats-server"), signal.SIGKILL)

    def the_coordinators_are_stopped(self):
        self.on.shell("systemctl stop holdfast-coordinator@1 holdfast-coordinator@2")

    def edits_without_a_pause(self):
        """Edits until it is called again; then each edit must have been acknowledged, and be there once."""
        if self.editing is None:
            self.on.json("session open steady")
            self.on.json("doc edit steady --body ''")
            stop, failed, edits = threading.Event(), [], []

            def edit():
                while not stop.is_set() and not failed:
                    try:
                        self.on.json("doc edit steady --splice 0:0:x")
                        edits.append(1)
                    except (AssertionError, subprocess.TimeoutExpired, ValueError) as error:
                        failed.append(error)

            thread = threading.Thread(target=edit)
            thread.start()
            self.editing = (stop, failed, edits, thread)
            return
        stop, failed, edits, thread = self.editing
        stop.set()
        thread.join()
        assert not failed, f"after {len(edits)} edits: {failed[0]}"
        body = self.on.json("doc get steady")["body"]
        assert body == "x" * len(edits), f"{len(edits)} edits were acknowledged, and {len(body)} are there"
        print(f"    {len(edits)} edits without a failure", flush=True)

    def sessions_before_the_backup(self):
        """One that ann has, and one that was held before."""
        for session in ["held", "free"]:
            self.on.json(f"session open {session}")
            token = self._granted(session, "ann")
            self.on.json(f"doc edit {session} --token {token} --body before")
        self.on.json(f"lock release free --token {token}")
        # A lock of a session that no worker has is granted on the record as it is.
        self.on.json("session open idle")
        self.on.json("admin reclaim --max-idle 1ms")
        state = self.on.json("record get idle")["record"]["state"]
        assert state == "passive", state

    def ann_bob_and_others_go_on_after_the_backup(self):
        """Locks that the backup does not know, or knows as held by somebody else."""
        taken = self.on.json("admin takeover held --owner bob --reason test")
        self.on.greatest_fence = max(self.on.greatest_fence, taken["fence"])
        self.given.append(("held", taken["lock_token"]))
        self.on.json("session open later")
        for turn in range(5):
            for session in ["free", "later"]:
                token = self._granted(session, f"client-{turn}")
                self.on.json(f"doc edit {session} --token {token} --body after-{turn}")
                self.on.json(f"lock release {session} --token {token}")
        self._granted("free", "carol")
        refused = self.on.shell("holdfast restore repair --at-least 1 --reason test --yes 2>&1", exits=2)
        assert "these parts run" in refused and "w1" in refused, refused
        token = self._granted("idle", "carol")
        self.on.json(f"lock release idle --token {token}")
        print(f"    fences up to {self.on.greatest_fence} were given", flush=True)

    def all_disks_are_lost(self):
        self.on.shell(f"systemctl stop {' '.join(PARTS)}")
        for host in HOSTS:
            self.on.shell(f"ssh {host} systemctl kill --signal=SIGKILL nats-server; ssh {host} systemctl stop nats-server")
        for host in HOSTS:
            self.on.shell(f"ssh {host} rm -rf /var/lib/holdfast-nats/jetstream")
        for host in HOSTS:
            self.on.shell(f"ssh {host} systemctl start nats-server")

    def one_machine(self):
        """`holdfast up` in a folder of its own, until it is called again."""
        if self.cluster is None:
            self.cluster, self.on = self.on, self.on.beside("alone")
            self.on.up()
        else:
            self.on, self.cluster = self.cluster, None

    def alone_goes_on_after_the_backup(self):
        self.on.up()
        self.alone = [self._granted("alone", "ann")]
        self.on.json(f"lock release alone --token {self.alone[0]}")
        self.alone.append(self._granted("alone", "bob"))
        self.on.down()

    def alone_gets_no_fence_again(self):
        self.on.up()
        before = self.on.greatest_fence
        for token in self.alone:
            self.on.json(f"doc edit alone --token {token} --body late", exits=3)
        fence = self.on.grant("alone", "carol")["fence"]
        assert fence > before, f"fence {fence}, and {before} was given before"
        self.on.down()

    def a_repair_is_cut_off(self):
        repair = f"holdfast restore repair --at-least {self.on.greatest_fence} --margin 100000 --reason test --yes"
        status, output = self.on.attempt(f"timeout --signal=KILL 1 {repair}")
        assert status in (137, -signal.SIGKILL), f"it was done in a second: {output}"
        checks = self.on.json("restore check", exits=1)["checks"]
        assert any(check["name"] == "repair" for check in checks), checks

    def no_fence_comes_again_and_every_old_token_is_stale(self):
        before = self.on.greatest_fence
        assert self.on.json("doc get held")["body"] == "before", "the document is the one of the backup"
        self.on.json("session open later")
        # Without a request before it that would write the record.
        granted = self.on.grant("idle", "dora")["fence"]
        assert granted > before, f"idle got fence {granted}, and {before} was given before"
        for session, token in self.given:
            refusal = self.on.json(f"doc edit {session} --token {token} --body late", exits=3)
            assert refusal["error"]["reason"] in ("stale_token", "not_locked"), refusal
        for session in ["held", "free", "later", "plan", "steady"]:
            self.on.json(f"session open {session}")
            fence = self.on.grant(session, "dora")["fence"]
            assert fence > before, f"{session} got fence {fence}, and {before} was given before"
        for session, token in self.given:
            refusal = self.on.json(f"doc edit {session} --token {token} --body late", exits=3)
            assert refusal["error"]["reason"] == "stale_token", refusal

    def _worker_of(self, session):
        return self.on.json(f"record get {session}")["record"]["owner"]["worker"]

    def _granted(self, session, owner):
        """The token of a new grant; it must be useless after the backup is restored."""
        token = self.on.grant(session, owner)["lock_token"]
        self.given.append((session, token))
        return token


class Alone(Installation):
    """A folder in which `holdfast up` runs."""

    def __init__(self, beside, name):  # noqa: super() makes another one
        self.folder = beside.folder / name
        self.home, self.units = self.folder / "home", self.folder / "units"
        self.home.mkdir(parents=True)
        self.units.mkdir()
        self.greatest_fence = 0
        self.process = None
        self.environment = {**beside.environment, "PORT": str(free_ports(1)[0]), "HOLDFAST_NATS_SERVER": NATS}

    def up(self):
        with open(self.folder / "up.log", "ab") as log:
            self.process = subprocess.Popen(
                [BIN, "up", "--port", self.environment["PORT"]], cwd=self.home, env=self.environment, stdout=log, stderr=log
            )
        (self.home / "up.pid").write_text(str(self.process.pid))
        # It is waited for, so that its id is free when it ends.
        threading.Thread(target=self.process.wait, daemon=True).start()
        run(self, {"word": "run until", "text": "", "body": "holdfast status", "shows": "all is well"})

    def end(self):
        """Ends what still runs."""
        if self.process and self.process.poll() is None:
            self.down()

    def down(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


def name_of(text):
    return re.sub(r"\W+", "_", text)


def fits(shown, output):
    """The first line of `shown` that `output` does not have in its place."""
    lines = iter(output.splitlines())
    for wanted in shown.splitlines():
        pattern = ".*".join(map(re.escape, wanted.split("…")))
        if not any(re.match(pattern, line) for line in lines):
            return wanted
    return None


def run(installation, found):
    exits = int(found["text"].removeprefix("exit ")) if found["text"] else 0
    deadline = time.monotonic() + (WITHIN if found["word"] == "run until" else 0)
    while True:
        status, output = installation.attempt(found["body"])
        missing = fits(found["shows"] or "", output)
        if status == exits and missing is None:
            return
        if time.monotonic() >= deadline:
            what = f"ended with {status} and not {exits}" if status != exits else f"does not show {missing!r}"
            raise AssertionError(f"{what}:\n{found['body']}\n{output}")
        time.sleep(0.5)


def apply(installation, file, diff):
    for host in HOSTS:
        path = installation.etc(host) / file
        text = path.read_text()
        before = "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] in " -")
        after = "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] in " +")
        assert text.count(before) == 1, f"the diff does not fit to {file}:\n{before}"
        path.write_text(text.replace(before, after))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--section", action="append", help="only sections whose title has this text; may be repeated")
    arguments = parser.parse_args()
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    with tempfile.TemporaryDirectory(prefix="holdfast-operations-") as folder:
        installation = Installation(folder)
        steps = Steps(installation)
        done = 0
        try:
            installation.start()
            run(installation, {"word": "run until", "text": "", "body": "holdfast status", "shows": "all is well"})
            for section in sections:
                title = section.splitlines()[0]
                if arguments.section and not any(text.lower() in title.lower() for text in arguments.section):
                    continue
                begun = time.monotonic()
                for found in BLOCK.finditer(section):
                    match found["word"]:
                        case "run" | "run until":
                            run(steps.on, found)
                        case "apply":
                            apply(installation, found["text"], found["body"])
                        case _:
                            getattr(steps, name_of(found["text"]))()
                    done += 1
                print(f"ok {title} ({time.monotonic() - begun:.0f} s)", flush=True)
            unused = re.findall(r"^```sh", PAGE.read_text(), re.MULTILINE)
            marked = [found for found in BLOCK.finditer(PAGE.read_text()) if found["word"].startswith("run")]
            assert len(unused) == len(marked), "a block of commands has no comment that runs it"
            assert arguments.section or done >= 40, f"the page has {done} steps only"
        except BaseException:
            kept = tempfile.mkdtemp(prefix="holdfast-operations-failed-")
            shutil.copytree(installation.units, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.json"))
            print(f"logs are in {kept}", flush=True)
            raise
        finally:
            steps.on.end()
            installation.end()


main()
