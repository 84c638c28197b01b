"""Everything is restarted in the middle of edits: is every session, lock and edit back? And is `up` ready with 100,000 sessions?"""

import asyncio
import json
import os
import pathlib
import shutil
import signal
import tempfile
import time

from check import everything_is_there
from client import Client, Editor, longest_gap, milliseconds, side_by_side
from fleet import BIN, NATS_BIN, SERVER_CONF, Fleet, Process, connect, free_ports, until

SESSIONS, EDITED = 200, 16
PASSIVE, READY_WITHIN = int(os.environ.get("HOLDFAST_FAULTS_PASSIVE", "100000")), 5.0


async def run(nodes, _runs):
    for how in (signal.SIGTERM, signal.SIGKILL):
        await everything(nodes, how)
    if nodes == 1:
        await up_with_many_passive_sessions()


async def everything(nodes, how):
    async with Fleet(nodes, workers=2, coordinators=2) as fleet:
        client = Client(await fleet.connect(), attempt=3)
        names = [f"s{n}" for n in range(SESSIONS)]
        await side_by_side(client.insist("session.open", id=name, content={"fields": {"name": name}}) for name in names)
        # Every second is locked; every third is passive.
        grants = {
            name: await client.insist("lock.acquire", name, owner=f"owner of {name}", **({"ttl_ms": 600_000} if n % 4 else {}))
            for n, name in enumerate(names)
            if n % 2 == 0
        }
        await client.insist("admin.reclaim", max_idle_ms=0)
        await side_by_side(client.insist("session.touch", name) for n, name in enumerate(names) if n % 3)
        await side_by_side(client.insist("doc.get", name) for n, name in enumerate(names) if n % 3)
        clients = [Client(await fleet.connect(), attempt=3) for _ in range(2)]
        editors = [
            Editor(clients[n % 2], name, "e", grants[name]["lock_token"] if name in grants else None, pause=0.002).start()
            for n, name in enumerate(names[:EDITED])
        ]
        await asyncio.sleep(2)

        parts = [*fleet.workers.values(), *fleet.coordinators.values()]
        begin = time.monotonic()
        if how == signal.SIGKILL:
            for process in [*fleet.servers, *parts]:
                process.send(how)
        for group in (fleet.workers.values(), fleet.coordinators.values(), fleet.servers):
            statuses = await asyncio.gather(*(process.end(how) for process in group))
            # nats-server says 1 when it is terminated.
            assert how == signal.SIGKILL or group is fleet.servers or not any(statuses), statuses
        ended = time.monotonic() - begin
        begin = time.monotonic()
        fleet.start_servers()
        # A part that finds no NATS at its start says so and ends; whatever keeps services running starts it again.
        await fleet.ready(parts=False)
        for part in parts:
            part.start()
        await fleet.ready()
        ready = time.monotonic() - begin
        await asyncio.sleep(3)
        await asyncio.gather(*(editor.stop() for editor in editors))
        failed = [failure for editor in editors for failure in editor.failed]
        assert not failed, failed[:3]

        edits = await everything_is_there(client, editors)
        documents = await side_by_side(client.insist("doc.get", name) for name in names)
        assert [document["fields"] for document in documents] == [{"name": name} for name in names]
        for name in names:
            record = await client.insist("session.get", name)
            assert (record["lock"] or {}).get("owner") == (f"owner of {name}" if name in grants else None), record
        valid = await side_by_side(
            client.insist("lock.validate", name, token=grant["lock_token"]) for name, grant in grants.items()
        )
        assert all(answer["valid"] for answer in valid)
        met = sum((one_of.met for one_of in clients), start=type(client.met)())
        print(
            f"  {how.name} to everything: ended in {ended:.1f} s, ready {ready:.1f} s after the start, longest gap "
            f"{longest_gap(editors):.1f} s; {SESSIONS} sessions, {len(grants)} locks and {edits} acknowledged edits are back; "
            f"clients were told {dict(met)}",
            flush=True,
        )
        for one_of in [client, *clients]:
            await one_of.nats.close()


async def up_with_many_passive_sessions():
    """`holdfast up` over the data of many passive sessions, which are made by opening and reclaiming them."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-up-"))
    data, port = folder / "data", free_ports(1)[0]
    url = f"nats://127.0.0.1:{port}"
    up = Process("up", [BIN, "up", "--insecure", "--port", port, "--data", data], folder, {"HOLDFAST_NATS_SERVER": NATS_BIN})
    try:
        await fill(folder, data, url, port)
        for how in (signal.SIGTERM, signal.SIGKILL):
            took, first = await ready_and_first(up, url)
            print(
                f"  `up` with {PASSIVE} passive sessions: answers after {took:.2f} s; first doc.get of one {milliseconds(first)}",
                flush=True,
            )
            assert took <= READY_WITHIN, f"ready after {took:.2f} s"
            server = int((data / "nats" / "nats-server.pid").read_text())
            await up.end(how)
            # The nats-server notices that its `up` is gone, and ends too.
            await until("end of nats-server", lambda: is_gone(server))
        took, _ = await ready_and_first(up, url)
        print(f"  and after SIGKILL of all of it: {took:.2f} s", flush=True)
        assert took <= READY_WITHIN, f"ready after {took:.2f} s"
    finally:
        if up.is_running():
            await up.end(signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)


async def is_gone(process):
    stat = pathlib.Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


async def fill(folder, data, url, port):
    """Opens and reclaims sessions through `up --nats`, on a nats-server that need not flush each write for that."""
    settings = SERVER_CONF.read_text().replace("sync_interval: always", 'sync_interval: "1m"')
    (folder / "fast.conf").write_text(settings)
    (data / "nats").mkdir(parents=True)
    command = [NATS_BIN, "-c", folder / "fast.conf", "-a", "127.0.0.1", "-p", port, "-n", "holdfast", "-sd", data / "nats"]
    server, up = Process("fill", command, folder), Process("up-fill", [BIN, "up", "--nats", url, "--data", data], folder)
    server.start()
    begin = time.monotonic()
    try:
        await until("nats-server", lambda: connect(url, allow_reconnect=False))
        up.start()
        await until("up", lambda: answering(url))
        connection = await connect(url)
        client = Client(connection, attempt=30)
        for first in range(0, PASSIVE, 5000):
            names = [f"p{n}" for n in range(first, min(first + 5000, PASSIVE))]
            await side_by_side((client.insist("session.open", id=name, content={"body": name}) for name in names), 256)
            await client.insist("admin.reclaim", max_idle_ms=0)
        info = json.loads((await connection.request("$JS.API.STREAM.INFO.KV_sessions", b"{}")).data)
        print(
            f"  {PASSIVE} sessions opened and reclaimed in {time.monotonic() - begin:.0f} s: {info['state']['messages']} "
            f"messages, {info['state']['bytes'] >> 20} MiB",
            flush=True,
        )
        await connection.close()
    finally:
        for process in (up, server):
            if process.is_running():
                await process.end(signal.SIGTERM)


async def answering(url):
    connection = await connect(url, allow_reconnect=False, connect_timeout=1)
    try:
        reply = await connection.request("hf.sys.worker.list", b"{}", timeout=1)
        return json.loads(reply.data).get("workers")
    finally:
        await connection.close()


async def ready_and_first(up, url):
    begin = time.monotonic()
    up.start()
    await until("up", lambda: answering(url), within=60)
    took = time.monotonic() - begin
    connection = await connect(url)
    client, begin = Client(connection), time.monotonic()
    document = await client.once("doc.get", f"p{PASSIVE // 2}")
    first = time.monotonic() - begin
    assert document["body"] == f"p{PASSIVE // 2}", document
    await connection.close()
    return took, first
