"""A worker with 1,000 live sessions is drained, 50 of them being edited: how long does it take, and does any request fail?"""

import asyncio
import signal
import time

from check import everything_is_there
from client import Client, Editor, longest_gap, milliseconds, side_by_side
from fleet import Fleet, until

SESSIONS, EDITED, PAUSE = 1000, 50, 0.02


async def run(nodes, _runs):
    async with Fleet(nodes, workers=3, coordinators=2) as fleet:
        client = Client(await fleet.connect())
        names = [f"s{n}" for n in range(SESSIONS)]
        await side_by_side(client.insist("session.open", id=name, content={"fields": {"n": 1}}) for name in names)
        await all_to_w1(client, names)
        # Editors of earlier steps: what they were told must stay true.
        editors = []
        await watched(fleet, client, names, editors, "sys.worker.drain", drained_by_request)
        await client.once("worker.undrain", "w1", namespace="sys", reason="back")
        # Its lease says so in a moment; until then the other coordinator may say that it is draining.
        await until("w1 to take sessions", lambda: client.once("admin.move", names[0], worker="w1", reason="back"))
        await all_to_w1(client, names)
        await watched(fleet, client, names, editors, "SIGTERM", drained_by_signal)
        # On a cluster, NATS drops what is between two servers for a member of a queue group that leaves: clients ask again.
        await watched(fleet, client, names, editors, "SIGTERM to a coordinator", coordinator_leaves, insists=nodes > 1)
        await client.nats.close()


async def all_to_w1(client, names):
    await side_by_side((client.insist("admin.move", name, worker="w1", reason="as if alone") for name in names), 16)


async def hosted(client, worker):
    """How many records say that `worker` has the session. `worker.list` is two seconds behind."""
    listed = await client.once("session.list", worker=worker, limit=1000)
    return len(listed["sessions"])


async def drained_by_request(_fleet, client):
    before = await hosted(client, "w1")
    assert before == SESSIONS, f"w1 has {before} sessions"
    begin = time.monotonic()
    left = (await client.once("worker.drain", "w1", namespace="sys", reason="new disk"))["sessions_left"]

    async def is_empty():
        nonlocal left
        left = (await client.once("worker.drain", "w1", namespace="sys", reason="new disk"))["sessions_left"]
        return left == 0

    await until("end of the drain", is_empty, within=60, every=0.05)
    took = time.monotonic() - begin
    assert await hosted(client, "w1") == 0, "records name w1 still"
    return took


async def drained_by_signal(fleet, client):
    before = await hosted(client, "w1")
    assert before == SESSIONS, f"w1 has {before} sessions"
    begin = time.monotonic()
    status = await fleet.workers["w1"].end(signal.SIGTERM)
    took = time.monotonic() - begin
    assert status == 0, f"the worker ended with {status}"
    assert await hosted(client, "w1") == 0, "records name w1 still"
    return took


async def coordinator_leaves(fleet, _client):
    begin = time.monotonic()
    status = await fleet.coordinators["c1"].end(signal.SIGTERM)
    assert status == 0, f"the coordinator ended with {status}"
    return time.monotonic() - begin


async def watched(fleet, client, names, earlier, what, act, insists=False):
    """Does `act` while sessions are edited. Unless clients insist, every single request must be answered with a yes."""
    clients = [Client(await fleet.connect(), attempt=2 if insists else 6) for _ in range(4)]
    prefix = what.replace(" ", "-")
    editors = [
        Editor(clients[n % 4], name, prefix, pause=PAUSE, insists=insists)
        for n, name in enumerate(names[:: SESSIONS // EDITED])
    ]
    for editor in editors:
        editor.start()
    await asyncio.sleep(1)
    took = await act(fleet, client)
    await asyncio.sleep(1)
    await asyncio.gather(*(editor.stop() for editor in editors))
    failed = [failure for editor in editors for failure in editor.failed]
    requests = sum(editor.number for editor in editors)
    assert not failed, f"{len(failed)} of {requests} requests failed, such as {failed[:3]}"
    gap, met = longest_gap(editors), sum((one_of.met for one_of in clients), start=type(client.met)())
    earlier.extend(editors)
    edits = await everything_is_there(client, earlier)
    bodies = await side_by_side(client.insist("doc.get", name) for name in names)
    assert all(document["fields"] == {"n": 1} for document in bodies), "a session lost its fields"
    print(
        f"  {what}: {took:.2f} s; {requests} requests of {len(editors)} clients, 0 failed, asked again after "
        f"{dict(met) or 'nothing'}; longest gap of one session {milliseconds(gap)}; {edits} acknowledged edits there",
        flush=True,
    )
    for one_of in clients:
        await one_of.nats.close()

