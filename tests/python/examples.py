"""Runs the examples as a stranger would, against a secure `holdfast up`, and checks what they print.

    HOLDFAST_BIN=target/release/holdfast python tests/python/examples.py [python] [typescript] [rust]

Python needs nats-py in this interpreter, TypeScript needs node and the npm registry, Rust builds a crate.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("HOLDFAST_BIN", "target/release/holdfast")).resolve()
TYPESCRIPT = REPOSITORY / "examples/typescript"

# What every example must print, in this order; signals come in between.
STORY = [
    r"ann edited revision 1$",
    r"bob is refused: ann holds it for \d+ ms; can do: .*wait.*takeover",
    r"ann's write to the database: true$",
    r"taken over from ann$",
    r"ann is refused: stale_token, the lock is bob's$",
    r"bob's write to the database: true$",
    r"ann's late write to the database: false$",
    r"the document: .# Plan\\n1\. Ship\.\\n. \{.*status.*shipped.*\}$",
]
SIGNALS = ["session.opened", "lock.acquired", "doc.edited", "lock.conflict", "lock.taken_over", "lock.released"]


def commands():
    """The command of each example, and its folder."""
    return {
        "python": [[sys.executable, REPOSITORY / "examples/python/editing.py"]],
        "typescript": [
            ["npm", "install", "--silent", "--no-package-lock", "--prefix", TYPESCRIPT],
            ["npm", "run", "--silent", "check", "--prefix", TYPESCRIPT],
            ["node", TYPESCRIPT / "dist/editing.js"],
        ],
        "rust": [["cargo", "run", "--quiet", "--package", "holdfast-example-editing"]],
    }


def check(name, output):
    rest = output.splitlines()
    for line in STORY:
        found = next((n for n, said in enumerate(rest) if re.search(line, said, re.IGNORECASE)), None)
        assert found is not None, f"{name} did not print {line!r} in its place:\n{output}"
        rest = rest[found + 1 :]
    for event in SIGNALS:
        assert f"signal: holdfast.{event}.v1" in output, f"{name} heard no {event}:\n{output}"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(folder):
    """Whether a worker is listed, by a command that finds what `up` wrote."""
    listed = subprocess.run([BIN, "worker", "list", "--json", "--timeout", "2s"], cwd=folder, capture_output=True)
    return listed.returncode == 0 and json.loads(listed.stdout)["workers"]


def main():
    wanted = sys.argv[1:] or list(commands())
    with tempfile.TemporaryDirectory() as folder:
        with open(pathlib.Path(folder) / "up.log", "w+") as log:
            up = subprocess.Popen([BIN, "up", "--port", str(free_port())], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
            try:
                deadline = time.monotonic() + 120
                while not answers(folder):
                    assert up.poll() is None and time.monotonic() < deadline, "holdfast up did not come up"
                    time.sleep(0.1)
                contexts = pathlib.Path(folder) / ".holdfast/config/nats/context"
                for name in wanted:
                    begun = time.monotonic()
                    for command in commands()[name]:
                        done = subprocess.run(
                            [str(part) for part in command],
                            cwd=REPOSITORY,
                            env={**os.environ, "HOLDFAST_CONTEXTS": str(contexts)},
                            capture_output=True,
                            text=True,
                            timeout=600,
                        )
                        assert done.returncode == 0, f"{name}: {command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
                    check(name, done.stdout)
                    print(f"ok {name} ({time.monotonic() - begun:.0f} s)", flush=True)
            except AssertionError as failure:
                log.seek(0)
                sys.exit(f"{failure}\nthe log of holdfast up:\n{log.read()}")
            finally:
                up.send_signal(signal.SIGINT)
                up.wait(timeout=60)


main()
