"""Runs deploy/compose.yaml as a whole, and the main path through it as a client and as an operator.

    python tests/python/compose.py

It needs a container engine, `docker compose` or docker-compose 1.29, the image `holdfast`, nats-py, and a HOLDFAST_BIN
that makes the passwords. Every wait has a limit, and the containers are removed at the end.
"""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import nats

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.abspath(os.environ.get("HOLDFAST_BIN", "target/release/holdfast"))
PROJECT = f"holdfast-test-{os.getpid()}"
UP_SECONDS = 240


def compose_command():
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    # 1.29 reads `deploy.replicas` in this mode only.
    return ["docker-compose", "--compatibility"]


class Compose:
    """The services of compose.yaml as a project of their own."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        data = os.path.join(folder, "data")
        home = {**os.environ, "HOME": folder, "XDG_STATE_HOME": folder}
        command = [BIN, "credentials", "--data", data, "--nats", f"nats://127.0.0.1:{self.port}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=home, timeout=30)
        self.contexts = os.path.join(data, "config/nats/context")
        self.env_file = os.path.join(data, "credentials.env")
        # docker-compose 1.29 does not know `name`; the project's name is given by an option anyway.
        text = open(os.path.join(ROOT, "deploy/compose.yaml")).read()
        self.file = os.path.join(folder, "compose.yaml")
        with open(self.file, "w") as file:
            file.write(re.sub(r"^name: .*\n", "", text, flags=re.MULTILINE))
        self.base = compose_command() + ["--project-name", PROJECT, "--file", self.file]
        self.base += ["--project-directory", os.path.join(ROOT, "deploy")]

    def call(self, *words, env_file=True, seconds=60):
        options = ["--env-file", self.env_file] if env_file else []
        variables = {**os.environ, "HOLDFAST_PORT": str(self.port)}
        return subprocess.run(
            self.base + options + list(words), env=variables, timeout=seconds, capture_output=True, text=True
        )

    def ids(self, service):
        done = self.call("ps", "--quiet", service)
        return done.stdout.split()

    def connect_arguments(self, role):
        with open(os.path.join(self.contexts, f"{role}.json")) as file:
            context = json.load(file)
        return {
            "servers": context["url"],
            "user": context["user"],
            "password": context["password"],
            "inbox_prefix": context["inbox_prefix"].encode(),
        }


def inspect(container):
    done = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True, timeout=30)
    return json.loads(done.stdout)[0]


def health(container):
    return inspect(container)["State"].get("Health", {}).get("Status", "none")


def wait_for(what, holds, seconds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.5)


async def ask(client, subject, **body):
    reply = await client.request(subject, json.dumps(body).encode(), timeout=20)
    return json.loads(reply.data)


async def expected(_error):
    """That the server refuses a client is what is tried."""


async def main_path(compose):
    client = await nats.connect(error_cb=expected, **compose.connect_arguments("client"))
    ops = await nats.connect(**compose.connect_arguments("ops"))
    opened = await ask(client, "hf.default.session.open", id="s1")
    assert opened["created"], opened
    grant = await ask(client, "hf.default.lock.acquire.s1", owner="client-a")
    taken = await ask(ops, "hf.default.admin.takeover.s1", owner="ops", reason="stuck")
    assert taken["previous_owner"] == "client-a", taken
    late = await ask(client, "hf.default.doc.edit.s1", token=grant["lock_token"], body="late")
    assert late["error"]["reason"] == "stale_token", late
    # A file goes into the shared volume, which belongs to the image's user.
    opened = await ask(client, "hf.default.session.open", path="b.md")
    edited = await ask(client, f"hf.default.doc.edit.{opened['id']}", body="text")
    saved = await ask(client, f"hf.default.doc.save.{opened['id']}")
    assert "error" not in edited and "error" not in saved, (edited, saved)
    try:
        await ask(client, "hf.default.admin.takeover.s1", owner="me", reason="no")
        raise AssertionError("a client reached an operator's request")
    except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
        pass
    workers = await ask(ops, "hf.sys.worker.list")
    assert len(workers["workers"]) == 2, workers
    await client.close()
    await ops.close()


def hardened(compose):
    """What compose.yaml and the image promise about each container of ours."""
    for service in ("coordinator", "worker"):
        containers = compose.ids(service)
        assert len(containers) == 2, (service, containers)
        for container in containers:
            seen = inspect(container)
            assert seen["HostConfig"]["ReadonlyRootfs"] and seen["HostConfig"]["CapDrop"] == ["ALL"], seen["HostConfig"]
            assert seen["Config"]["User"] == "10001:10001", seen["Config"]["User"]
            assert health(container) == "healthy", container


def nats_away(compose):
    """The health check tells a part without NATS, and one that has it again; nothing is started again for it."""
    (coordinator, *_) = compose.ids("coordinator")
    started = inspect(coordinator)["State"]["StartedAt"]
    servers = ["nats-1", "nats-2", "nats-3"]
    assert compose.call("kill", *servers).returncode == 0
    wait_for("a coordinator without NATS is unhealthy", lambda: health(coordinator) == "unhealthy", 90)
    assert compose.call("start", *servers).returncode == 0
    wait_for("a coordinator is healthy again", lambda: health(coordinator) == "healthy", 90)
    assert inspect(coordinator)["State"]["StartedAt"] == started


def main():
    with tempfile.TemporaryDirectory() as folder:
        compose = Compose(folder)
        refused = compose.call("up", "--detach", env_file=False)
        assert refused.returncode != 0 and "--env-file .holdfast/credentials.env" in refused.stderr, refused
        try:
            begun = time.monotonic()
            up = compose.call("up", "--detach", "--no-build", seconds=UP_SECONDS)
            assert up.returncode == 0, up.stderr
            workers = compose.ids("worker")
            wait_for("the workers are healthy", lambda: all(health(worker) == "healthy" for worker in workers), 60)
            print(f"compose: all healthy after {time.monotonic() - begun:.0f} s")
            hardened(compose)
            asyncio.run(asyncio.wait_for(main_path(compose), 60))
            print("compose: main path of a client and an operator")
            nats_away(compose)
            print("compose: unhealthy without NATS, healthy with it again")
        except BaseException:
            print(compose.call("logs", "--tail", "20").stdout, file=sys.stderr)
            raise
        finally:
            compose.call("down", "--volumes", "--timeout", "5", seconds=120)


if __name__ == "__main__":
    if not shutil.which("docker"):
        sys.exit("there is no docker here")
    main()
