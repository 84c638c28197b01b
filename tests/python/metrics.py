"""The dashboard and the alerts against a running fleet and a real Prometheus.

    HOLDFAST_BIN=target/release/holdfast HOLDFAST_NATS_SERVER=nats-server STUCK_WORKER=target/debug/stuck-worker \
        python tests/python/metrics.py

First nothing is broken: each query of `deploy/grafana/holdfast.json` must return something, and no alert of
`deploy/alerts/holdfast.yaml` may fire. Then what each alert watches is broken, and the alert must fire; once it is
whole again, the alert must end. The rules are those of the file with shorter times, so that this takes minutes.
Needs the program `prometheus` (Debian has a package of that name), nats-py, and the program `stuck-worker` of the
crate `tests`.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "faults"))

import nats  # noqa: E402
from fleet import BIN, REPOSITORY, Fleet, Process, free_ports, until  # noqa: E402

RULES = REPOSITORY / "deploy/alerts/holdfast.yaml"
DASHBOARD = REPOSITORY / "deploy/grafana/holdfast.json"
STUCK_WORKER = os.environ.get("STUCK_WORKER", str(REPOSITORY / "target/debug/stuck-worker"))
# How long an alert may take to fire after its cause, and to end after it.
FIRES_WITHIN, ENDS_WITHIN = 60.0, 90.0


def shortened(rules):
    """The rules with short times."""
    rules = re.sub(r"for: \d+[sm]", "for: 2s", rules)
    rules = rules.replace("[5m]", "[15s]")
    assert "holdfast_relay_lag_seconds > 30" in rules
    return rules.replace("holdfast_relay_lag_seconds > 30", "holdfast_relay_lag_seconds > 4")


class Watched(Fleet):
    """A fleet whose parts serve metrics, and the Prometheus that reads them."""

    def __init__(self):
        self.metrics = dict(zip(["c1", "c2", "w1", "w2", "stuck"], free_ports(5), strict=True))
        self.prometheus_port = free_ports(1)[0]
        super().__init__(nodes=1, workers=2, coordinators=2)
        self.stuck = Process("stuck", [STUCK_WORKER, self.urls[0], self.metrics["stuck"]], self.folder)
        self.prometheus = self._prometheus()

    def _part(self, kind, name):
        part = super()._part(kind, name)
        part.command += ["--metrics", str(self.metrics[name])]
        return part

    def _prometheus(self):
        targets = [f"127.0.0.1:{self.metrics[name]}" for name in ("c1", "c2", "w1", "w2")]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "900ms", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": "holdfast", "static_configs": [{"targets": targets}]},
                # Not always there, so its absence is not an alert.
                {"job_name": "stuck", "static_configs": [{"targets": [f"127.0.0.1:{self.metrics['stuck']}"]}]},
            ],
        }
        (self.folder / "prometheus.yml").write_text(json.dumps(config))
        (self.folder / "rules.yaml").write_text(shortened(RULES.read_text()))
        command = ["prometheus", f"--config.file={self.folder}/prometheus.yml"]
        command += [f"--storage.tsdb.path={self.folder}/tsdb", f"--web.listen-address=127.0.0.1:{self.prometheus_port}"]
        return Process("prometheus", command, self.folder)

    async def __aexit__(self, kind, error, trace):
        for process in (self.prometheus, self.stuck):
            if process.is_running():
                await process.end(signal.SIGKILL)
        return await super().__aexit__(kind, error, trace)

    async def ask(self, path, **parameters):
        """What Prometheus answers."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"

        def read():
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]

        return await asyncio.to_thread(read)

    async def query(self, expression):
        return (await self.ask("query", query=expression))["result"]

    async def firing(self):
        """The names of the alerts that fire."""
        alerts = (await self.ask("alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def fires(self, alert):
        begun = time.monotonic()

        async def is_firing():
            return alert in await self.firing()

        await until(f"alert {alert}", is_firing, FIRES_WITHIN, every=0.5)
        print(f"  {alert} fires after {time.monotonic() - begun:.0f} s", flush=True)

    async def ends(self, *alerts):
        async def none_is_firing():
            return not set(alerts) & await self.firing()

        await until(f"end of {', '.join(alerts)}", none_is_firing, ENDS_WITHIN, every=0.5)


class Traffic:
    """A few clients that open, lock, edit and read all the time. What is refused while something is broken is theirs."""

    def __init__(self, fleet):
        self.fleet, self.tasks = fleet, []

    async def __aenter__(self):
        self.nats = await self.fleet.connect()
        self.tasks = [asyncio.create_task(self.client(number)) for number in range(4)]
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def request(self, verb, session, body, timeout=2):
        subject = f"hf.default.{verb}" + (f".{session}" if session else "")
        with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError):
            return json.loads((await self.nats.request(subject, json.dumps(body).encode(), timeout=timeout)).data)

    async def client(self, number):
        turn = 0
        while True:
            turn += 1
            session = f"s{number}"
            await self.request("session.open", "", {"id": session})
            granted = await self.request("lock.acquire", session, {"owner": f"client-{number}"})
            await self.request("lock.acquire", session, {"owner": "another"})
            token = (granted or {}).get("lock_token")
            for edit in range(5):
                await self.request("doc.edit", session, {"body": f"{turn}.{edit}", "token": token})
            await self.request("doc.get", session, {})
            if token:
                await self.request("lock.release", session, {"token": token})
            # A new session each time, for placements, and its end.
            await self.request("session.open", "", {"id": f"n{number}-{turn}"})
            await self.request("session.close", f"n{number}-{turn}", {})
            await asyncio.sleep(0.05)


def queries():
    """The queries of the dashboard, by the title of their panel."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "15s")


async def each_query_returns_something(fleet):
    asked = 0
    for title, expression in queries():
        async def returns(expression=expression):
            found = await fleet.query(expression)
            return any(sample["value"][1] != "NaN" for sample in found)

        await until(f"answer to {title!r}: {expression}", returns, 30.0, every=0.5)
        asked += 1
    assert asked > 30, asked
    print(f"each of {asked} queries of the dashboard returns something", flush=True)


async def down(fleet, _traffic):
    await fleet.workers["w2"].pause()
    await fleet.fires("HoldfastDown")
    fleet.workers["w2"].send(signal.SIGCONT)
    await fleet.ends("HoldfastDown")


async def failover(fleet, traffic):
    # Its sessions must be asked for before its lease ends or somebody starts it again; the traffic does that.
    async def has_sessions():
        return await fleet.query('sum(holdfast_worker_sessions{worker="w2",stage="serving"}) > 0')

    for number in range(8):
        await traffic.request("session.open", "", {"id": f"kept{number}"})
    await until("sessions on w2", has_sessions)
    await fleet.workers["w2"].end(signal.SIGKILL)
    for number in range(8):
        await traffic.request("doc.edit", f"kept{number}", {"body": "x"})
    await fleet.fires("HoldfastFailover")
    fleet.workers["w2"].start()
    await fleet.ready()
    await fleet.ends("HoldfastFailover", "HoldfastDown")


async def nats_away(fleet, _traffic):
    await fleet.servers[0].end(signal.SIGKILL)
    await fleet.fires("HoldfastNatsAway")
    fleet.start_servers()
    await fleet.ready()
    await fleet.ends("HoldfastNatsAway", "HoldfastLeaseLost", "HoldfastNoWorker", "HoldfastStorageSilent")


async def nats_stands_still(fleet, _traffic):
    await fleet.servers[0].pause()
    await fleet.fires("HoldfastLeaseLost")
    await fleet.fires("HoldfastStorageSilent")
    fleet.servers[0].send(signal.SIGCONT)
    await fleet.ready()
    await fleet.ends("HoldfastLeaseLost", "HoldfastStorageSilent", "HoldfastNatsAway")


async def no_worker(fleet, traffic):
    for worker in fleet.workers.values():
        await worker.end()

    async def ask():
        while True:
            await traffic.request("session.open", "", {"id": "nowhere"}, timeout=8)

    asking = asyncio.create_task(ask())
    try:
        await fleet.fires("HoldfastNoWorker")
        await fleet.fires("HoldfastRequestsFail")
    finally:
        asking.cancel()
    for worker in fleet.workers.values():
        worker.start()
    await fleet.ready()
    await fleet.ends("HoldfastNoWorker", "HoldfastRequestsFail", "HoldfastDown", "HoldfastFailover")


async def relay_stands(fleet, _traffic):
    connection = await fleet.connect()
    await connection.jetstream().delete_stream("HF_SIGNALS")
    await fleet.fires("HoldfastRelayStands")
    # A coordinator creates the stream at its start.
    await fleet.coordinators["c1"].end()
    fleet.coordinators["c1"].start()
    await fleet.ready()
    await fleet.ends("HoldfastRelayStands", "HoldfastDown", "HoldfastRequestsFail")


async def session_stuck(fleet, traffic):
    fleet.stuck.start()

    async def is_stuck():
        await traffic.request("session.open", "", {"id": "hangs", "kind": "stuck"})
        await traffic.request("doc.edit", "hangs", {"body": ""}, timeout=0.5)
        return await fleet.query("holdfast_worker_stuck_sessions > 0")

    await until("a stuck session", is_stuck, every=0.5)
    await fleet.fires("HoldfastSessionStuck")
    await fleet.stuck.end(signal.SIGKILL)
    await fleet.ends("HoldfastSessionStuck", "HoldfastRequestsFail", "HoldfastFailover")


async def workspace_unusable(fleet, _traffic):
    away = fleet.docs.with_name("away")
    fleet.docs.rename(away)
    await fleet.fires("HoldfastWorkspaceUnusable")
    away.rename(fleet.docs)
    await fleet.ends("HoldfastWorkspaceUnusable")


async def busy(fleet, traffic):
    async def flood():
        body = {"body": "x" * 1000}
        while True:
            await asyncio.gather(*(traffic.request("doc.edit", "flooded", body) for _ in range(1500)))

    await traffic.request("session.open", "", {"id": "flooded"})
    flooding = asyncio.create_task(flood())
    try:
        await fleet.fires("HoldfastBusy")
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
    await fleet.ends("HoldfastBusy", "HoldfastRequestsFail")


async def commits_slow(fleet, _traffic):
    async def brake():
        while True:
            fleet.servers[0].send(signal.SIGSTOP)
            await asyncio.sleep(1.0)
            fleet.servers[0].send(signal.SIGCONT)
            await asyncio.sleep(0.3)

    braking = asyncio.create_task(brake())
    try:
        await fleet.fires("HoldfastCommitsSlow")
    finally:
        braking.cancel()
        await asyncio.gather(braking, return_exceptions=True)
        fleet.servers[0].send(signal.SIGCONT)
    await fleet.ends("HoldfastCommitsSlow", "HoldfastRequestsFail", "HoldfastFailover")


BREAKS = {
    "HoldfastDown": down,
    "HoldfastFailover": failover,
    "HoldfastWorkspaceUnusable": workspace_unusable,
    "HoldfastSessionStuck": session_stuck,
    "HoldfastBusy": busy,
    "HoldfastCommitsSlow": commits_slow,
    "HoldfastRelayStands": relay_stands,
    "HoldfastNoWorker": no_worker,
    "HoldfastRequestsFail": no_worker,
    "HoldfastNatsAway": nats_away,
    "HoldfastLeaseLost": nats_stands_still,
    "HoldfastStorageSilent": nats_stands_still,
}


async def main():
    named = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert named == set(BREAKS), f"alerts without a test, or tests without an alert: {named ^ set(BREAKS)}"
    only = set(sys.argv[1:]) or named
    async with Watched() as fleet:
        fleet.prometheus.start()
        async with Traffic(fleet) as traffic:
            await until("Prometheus", lambda: fleet.ask("status/buildinfo"), 30.0, every=0.2)
            await each_query_returns_something(fleet)
            await asyncio.sleep(10)
            firing = await fleet.firing()
            assert not firing, f"alerts fire on a healthy fleet: {firing}"
            print("no alert fires on a healthy fleet", flush=True)
            done = set()
            for alert, break_it in BREAKS.items():
                if alert in only and break_it not in done:
                    done.add(break_it)
                    # So that what fires now fires for what is broken now.
                    await fleet.ends(*named)
                    print(f"{break_it.__name__}:", flush=True)
                    await break_it(fleet, traffic)
    print("all alerts fire when they should, and end", flush=True)


if __name__ == "__main__":
    for program in ("prometheus", STUCK_WORKER, BIN):
        if not shutil.which(program):
            sys.exit(f"the program {program} is not there")
    print(subprocess.run(["prometheus", "--version"], capture_output=True, text=True).stdout.splitlines()[0])
    asyncio.run(main())
