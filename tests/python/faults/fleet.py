"""Processes: nats-servers with deploy/nats/server.conf, one or three of them, and `holdfast` workers and coordinators.

Only processes started here are ever signalled. Every process writes a log in the fleet's folder, which is kept and named
when a scenario fails.
"""

import asyncio
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import nats

from client import Refused

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
# Holdfast's settings for nats-server, without a login.
SERVER_CONF = REPOSITORY / "deploy/nats/server.conf"
BIN = os.environ.get("HOLDFAST_BIN", str(REPOSITORY / "target/release/holdfast"))
NATS_BIN = os.environ.get("HOLDFAST_NATS_SERVER", "nats-server")
START_WITHIN = 60.0


def free_ports(count):
    """Ports that nobody listens on, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


async def until(what, condition, within=30.0, every=0.02):
    """Waits for what `condition` returns, and says what was waited for when it does not come."""
    deadline = time.monotonic() + within
    last = None
    while time.monotonic() < deadline:
        try:
            found = await condition()
            if found:
                return found
        except (nats.errors.Error, OSError, AssertionError, Refused) as error:
            last = error
        await asyncio.sleep(every)
    raise AssertionError(f"no {what} within {within} s; last error: {last!r}")


async def connect(urls, **options):
    """A connection of nats-py, which connects again by itself for ever."""

    async def quiet(_error):
        """What fails is seen by whoever asked."""

    settings = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.05, "ping_interval": 2, "error_cb": quiet}
    return await nats.connect(urls, **{**settings, **options})


class Process:
    """One child process that can be started again with the same command."""

    def __init__(self, name, command, folder, environment=None):
        self.name, self.command = name, [str(part) for part in command]
        self.log = pathlib.Path(folder) / f"{name}.log"
        self.environment = {**os.environ, **(environment or {})}
        self.child = None

    def start(self):
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, env=self.environment)

    def is_running(self):
        return self.child is not None and self.child.poll() is None

    def send(self, what):
        self.child.send_signal(what)

    async def pause(self):
        """Stops it where it is, and waits until each of its threads stands still: on a busy machine that takes a while."""
        self.send(signal.SIGSTOP)
        tasks = pathlib.Path(f"/proc/{self.child.pid}/task")

        async def stands_still():
            states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()]
            return set(states) == {"T"}

        await until(f"{self.name} to stand still", stands_still, every=0.005)

    async def end(self, how=signal.SIGTERM, within=40.0):
        """Ends it with `how` and returns its exit status."""
        if not self.is_running():
            return self.child.returncode if self.child else None
        self.send(how)
        deadline = time.monotonic() + within
        while self.child.poll() is None:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                self.child.wait()
                raise AssertionError(f"{self.name} did not end within {within} s of {how.name}")
            await asyncio.sleep(0.01)
        return self.child.returncode


class Fleet:
    """`nodes` nats-servers, some workers, some coordinators; used with `async with`."""

    def __init__(self, nodes=1, workers=2, coordinators=2):
        self.nodes = nodes
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-faults-"))
        self.docs = self.folder / "docs"
        self.docs.mkdir()
        self.connections = []
        ports = free_ports(nodes * 2)
        self.ports, routes = ports[:nodes], ports[nodes:]
        self.urls = [f"nats://127.0.0.1:{port}" for port in self.ports]
        self.servers = [self._server(number, routes) for number in range(nodes)]
        self.workers = {f"w{n + 1}": self._part("worker", f"w{n + 1}") for n in range(workers)}
        self.coordinators = {f"c{n + 1}": self._part("coordinator", f"c{n + 1}") for n in range(coordinators)}

    def _server(self, number, routes):
        name = f"n{number + 1}"
        command = [NATS_BIN, "-c", SERVER_CONF, "-a", "127.0.0.1", "-p", self.ports[number]]
        command += ["-n", name, "-sd", self.folder / name]
        if self.nodes > 1:
            command += ["--cluster_name", "holdfast", "--cluster", f"nats://127.0.0.1:{routes[number]}"]
            command += ["--routes", ",".join(f"nats://127.0.0.1:{route}" for route in routes)]
        return Process(name, command, self.folder)

    def _part(self, kind, name):
        # Each begins with another server, as a fleet's processes would.
        start = sum(map(ord, name)) % self.nodes
        urls = ",".join(self.urls[start:] + self.urls[:start])
        command = [BIN, kind, "--nats", urls]
        if kind == "worker":
            command += ["--name", name, "--workspace", f"main={self.docs}"]
        return Process(name, command, self.folder, {"RUST_LOG": os.environ.get("RUST_LOG", "info"), "NO_COLOR": "1"})

    async def __aenter__(self):
        try:
            self.start_servers()
            await self.ready(parts=False)
            for part in [*self.coordinators.values(), *self.workers.values()]:
                part.start()
            await self.ready()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def __aexit__(self, kind, error, trace):
        for connection in self.connections:
            if not connection.is_closed:
                await connection.close()
        for process in [*self.workers.values(), *self.coordinators.values(), *self.servers]:
            if process.is_running():
                process.send(signal.SIGCONT)
                await process.end(signal.SIGKILL)
        if error is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"logs are in {self.folder}", flush=True)

    def start_servers(self):
        for server in self.servers:
            if not server.is_running():
                server.start()

    async def connect(self, **options):
        """A connection to any of the servers, which ends with the fleet."""
        connection = await connect(self.urls, **options)
        self.connections.append(connection)
        return connection

    async def ready(self, parts=True, within=START_WITHIN):
        """Waits until JetStream answers and, with `parts`, all workers that run are listed by a coordinator."""
        running = {name for name, worker in self.workers.items() if worker.is_running()}

        async def jetstream():
            connection = await self.connect(allow_reconnect=False, connect_timeout=1)
            try:
                return await connection.jetstream(timeout=1).account_info()
            finally:
                await connection.close()

        async def fleet():
            return running <= {worker["worker"] for worker in await self.listed()}

        await until("JetStream", jetstream, within)
        if parts and running:
            await until("fleet", fleet, within)

    async def listed(self):
        """The workers that a coordinator lists."""
        connection = await self.connect(allow_reconnect=False, connect_timeout=1)
        try:
            reply = await connection.request("hf.sys.worker.list", b"{}", timeout=2)
            return json.loads(reply.data).get("workers", [])
        finally:
            await connection.close()

    async def leader(self, connection, stream="KV_sessions"):
        """The nats-server that leads `stream`."""
        info = await connection.jetstream().stream_info(stream)
        return next(server for server in self.servers if server.name == info.cluster.leader)
