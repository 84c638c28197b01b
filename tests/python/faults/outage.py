"""NATS itself loses a leader, a node, all nodes, while clients edit: do sessions stay where they are, and is everything there?"""

import asyncio
import collections
import signal
import time

from check import everything_is_there
from client import Client, Editor, longest_gap, side_by_side
from fleet import Fleet, until

SESSIONS, PAUSE = 8, 0.005
# What clients may be told, beside what the contract has for an outage: by NATS, while nobody could be reached.
ALLOWED = ("unavailable/", "unknown_outcome/", "busy/")
BY_NATS = {"NoRespondersError", "TimeoutError", "ConnectionClosedError", "ConnectionReconnectingError", "FlushTimeoutError"}


async def run(nodes, _runs):
    steps = [leader_lost, leader_lost, follower_lost, leader_paused, all_terminated, all_killed]
    async with Fleet(nodes, workers=3, coordinators=2) as fleet:
        client = Client(await fleet.connect(), attempt=6)
        names = [f"s{n}" for n in range(SESSIONS)]
        await side_by_side(client.insist("session.open", id=name) for name in names)
        earlier = []
        for number, step in enumerate(steps if nodes == 3 else steps[-2:]):
            await during(fleet, client, names, earlier, f"{step.__name__}{number}", step)
        await client.nats.close()


async def leader_lost(fleet, client):
    """The leader of the sessions' stream is killed, and comes back."""
    leader = await fleet.leader(client.nats)
    await lost_and_back([leader], signal.SIGKILL)


async def follower_lost(fleet, client):
    leader = await fleet.leader(client.nats)
    await lost_and_back([next(server for server in fleet.servers if server is not leader)], signal.SIGKILL)


async def leader_paused(fleet, client):
    """It does not answer, and its connections stay."""
    leader = await fleet.leader(client.nats)
    await leader.pause()
    await asyncio.sleep(5)
    leader.send(signal.SIGCONT)


async def all_terminated(fleet, _client):
    await lost_and_back(fleet.servers, signal.SIGTERM)


async def all_killed(fleet, _client):
    await lost_and_back(fleet.servers, signal.SIGKILL)


async def lost_and_back(servers, how):
    for server in servers:
        server.send(how)
    await asyncio.gather(*(server.end(how) for server in servers))
    await asyncio.sleep(3)
    for server in servers:
        server.start()


async def owners(client, names):
    records = [await client.insist("session.get", name) for name in names]
    return [(record["owner"]["worker"], record["owner"]["boot"]) for record in records]


async def during(fleet, client, names, earlier, what, step):
    before = await owners(client, names)
    clients = [Client(await fleet.connect(), attempt=2) for _ in range(4)]
    editors = [Editor(clients[n % 4], name, what, pause=PAUSE).start() for n, name in enumerate(names)]
    await asyncio.sleep(1)
    begin = time.monotonic()
    await step(fleet, client)
    back = time.monotonic()

    async def all_go_on():
        return all(editor.acknowledged and editor.acknowledged[-1][2] > back for editor in editors)

    await until("edit of every session after the outage", all_go_on, within=60)
    resumed = time.monotonic() - back
    await asyncio.sleep(3)
    await asyncio.gather(*(editor.stop() for editor in editors))
    failed = [failure for editor in editors for failure in editor.failed]
    assert not failed, failed[:3]
    earlier.extend(editors)
    edits = await everything_is_there(client, earlier)
    after = await owners(client, names)
    met = sum((one_of.met for one_of in clients), start=collections.Counter())
    strange = [told for told in met if told not in BY_NATS and not told.startswith(ALLOWED)]
    moved = [(name, was, now) for name, was, now in zip(names, before, after) if was != now]
    print(
        f"  {what}: {back - begin:.0f} s of outage, edits of all sessions {resumed:.1f} s after it, longest gap "
        f"{longest_gap(editors):.1f} s; {len(moved)} sessions moved; {edits} acknowledged edits there; told: {dict(met)}",
        flush=True,
    )
    assert not strange, f"told what an outage does not explain: {strange}"
    assert not moved, f"moved though their workers lived: {moved}"
    for one_of in clients:
        await one_of.nats.close()
