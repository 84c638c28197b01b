"""`holdfast top` in a real terminal (tmux), against a secure `holdfast up`.

Needs tmux. HOLDFAST_BIN names the command (default: target/release/holdfast).
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

BIN = os.path.abspath(os.environ.get("HOLDFAST_BIN", "target/release/holdfast"))
SOON = 60.0


class Terminal:
    """A tmux server of its own, with one window of 80 columns and 24 lines."""

    def __init__(self, folder, environment):
        self.base = ["tmux", "-f", "/dev/null", "-S", str(folder / "tmux.sock")]
        shell = ["new-session", "-d", "-x", "80", "-y", "24", "-s", "t", "sh"]
        subprocess.run(self.base + shell, cwd=folder, env=environment, check=True)
        # Some shells give root a prompt of their own, whatever the environment says.
        self.type("PS1='ready> '", "Enter")

    def type(self, *keys):
        subprocess.run(self.base + ["send-keys", "-t", "t", *keys], check=True)

    def say(self, text):
        subprocess.run(self.base + ["send-keys", "-t", "t", "-l", text], check=True)

    def screen(self):
        return subprocess.run(self.base + ["capture-pane", "-p", "-t", "t"], check=True, capture_output=True, text=True).stdout

    def shows(self, text, deadline=SOON):
        """Waits until the screen has the text, and returns how long that took."""
        begin = time.monotonic()
        while text not in self.screen():
            if time.monotonic() - begin > deadline:
                sys.exit(f"waited for {text!r} on this screen:\n{self.screen()}")
            time.sleep(0.05)
        return time.monotonic() - begin

    def close(self):
        subprocess.run(self.base + ["kill-server"], check=False)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start_up(folder, environment):
    command = [BIN, "up", "--port", str(free_port()), "--grace", "3s"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "Holdfast is up." in line:
            return process
    sys.exit("up did not start")


def top_process(folder):
    """The process id of `holdfast top` in `folder`."""
    for entry in pathlib.Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if arguments[1:2] == [b"top"] and os.readlink(entry / "cwd") == str(folder):
                return int(entry.name)
        except OSError:
            pass
    sys.exit("top does not run")


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder).resolve()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "HOLDFAST_"))}
        environment |= {"USER": "ann", "PS1": "ready> ", "TERM": "screen"}
        if server := os.environ.get("HOLDFAST_NATS_SERVER"):
            environment["HOLDFAST_NATS_SERVER"] = server

        def ask(*arguments):
            done = subprocess.run([BIN, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
            return done.returncode, done.stdout

        up = start_up(folder, environment)
        terminal = Terminal(folder, environment)
        try:
            check(folder, terminal, ask)
        finally:
            terminal.close()
            up.send_signal(signal.SIGTERM)
            up.wait(timeout=20)


def check(folder, terminal, ask):
    terminal.say(f"'{BIN}' top")
    terminal.type("Enter")
    terminal.shows("1 workers  0 sessions  0 locks")

    ask("session", "open", "s1", "--body", "x")
    took = terminal.shows("1 sessions")
    print(f"a session is shown after {took:.1f} s")
    token = ask("lock", "acquire", "s1", "--owner", "stuck-job", "--token-only")[1].strip()
    terminal.shows("lock.acquired")
    terminal.shows("1 locks")
    print(terminal.screen())

    terminal.type("t")
    terminal.shows("stuck-job loses it at once")
    terminal.say("it is stuck")
    terminal.type("Enter")
    terminal.shows("y does it, n does nothing")
    assert json.loads(ask("session", "get", "s1", "--json")[1])["lock"]["owner"] == "stuck-job", "nothing happened yet"
    terminal.type("y")
    terminal.shows("ann has the lock of s1")
    assert json.loads(ask("session", "get", "s1", "--json")[1])["lock"]["owner"] == "ann"
    assert ask("doc", "edit", "s1", "--body", "late", "--token", token)[0] == 3, "the old holder is fenced"
    terminal.type("Enter")
    terminal.shows("lock.taken_over")
    print("a takeover with a reason and a yes took the lock")

    terminal.type("Tab", "Tab", "d")
    terminal.shows("Drain worker")
    terminal.say("new disk")
    terminal.type("Enter", "y")
    terminal.shows("is draining")
    terminal.type("Enter")
    terminal.shows("w1               draining")
    terminal.type("d")
    terminal.shows("take sessions again")
    terminal.say("done")
    terminal.type("Enter", "y")
    terminal.shows("is ready")
    terminal.type("Enter")
    terminal.shows("w1               ready")
    print("a worker was drained and undrained")

    server = int((folder / ".holdfast/nats/nats-server.pid").read_text())
    os.kill(server, signal.SIGSTOP)
    terminal.shows("nothing can be read")
    os.kill(server, signal.SIGCONT)
    terminal.shows("1 workers  1 sessions")
    print("it says that NATS is away, and goes on when it is back")

    for name, end in [("q", lambda: terminal.type("q")), ("Ctrl-C", lambda: terminal.type("C-c")),
                      ("SIGTERM", lambda: os.kill(top_process(folder), signal.SIGTERM))]:
        end()
        terminal.shows("ready> ")
        assert "Events" not in terminal.screen(), terminal.screen()
        terminal.say("stty -a | grep -c ' echo '; echo status $?")
        terminal.type("Enter")
        terminal.shows("status 0")
        terminal.type("C-l")
        print(f"{name} ends it, and the terminal is as before")
        terminal.say(f"clear; '{BIN}' top")
        terminal.type("Enter")
        terminal.shows("1 workers  1 sessions")
    terminal.type("q")


main()
