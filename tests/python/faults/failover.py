"""A worker is killed while clients edit its sessions: how long is nobody's edit acknowledged, and is everything there?"""

import asyncio
import signal
import statistics
import time

from check import everything_is_there
from client import Client, Editor, longest_gap, milliseconds, side_by_side
from fleet import Fleet

SESSIONS, EDITORS_EACH, PAUSE = 8, 2, 0.002
TARGET = 0.250


async def run(nodes, runs):
    gaps = []
    async with Fleet(nodes, workers=3, coordinators=2) as fleet:
        for number in range(runs):
            gap, calm, edits, met, moved = await one(fleet, f"r{number}")
            gaps.append(gap)
            print(
                f"  run {number + 1}: longest gap {milliseconds(gap)}, before the kill {milliseconds(calm)}; {edits} acknowledged "
                f"edits, all there once and in order; {moved} sessions moved; clients were told {dict(met) or 'nothing'}",
                flush=True,
            )
    median = statistics.median(gaps)
    print(f"  gaps {', '.join(map(milliseconds, gaps))}; median {milliseconds(median)}, target {milliseconds(TARGET)}")
    assert median <= TARGET, f"the median gap is {milliseconds(median)}"


async def one(fleet, prefix):
    names = [f"{prefix}-s{n}" for n in range(SESSIONS)]
    client = Client(await fleet.connect())
    await side_by_side(client.insist("session.open", id=name) for name in names)
    # All on one worker, so that its end is felt by all; which one changes from run to run.
    victim = list(fleet.workers)[int(prefix[1:]) % len(fleet.workers)]
    await side_by_side(client.insist("admin.move", name, worker=victim, reason="to be killed") for name in names)
    clients = [Client(await fleet.connect()) for _ in range(EDITORS_EACH)]
    editors = [
        Editor(clients[n], name, f"e{n}", pause=PAUSE).start() for name in names for n in range(EDITORS_EACH)
    ]
    await asyncio.sleep(2)
    killed = time.monotonic()
    fleet.workers[victim].send(signal.SIGKILL)
    await asyncio.sleep(3)
    await asyncio.gather(*(editor.stop() for editor in editors))
    failed = [failure for editor in editors for failure in editor.failed]
    assert not failed, failed[:3]
    gap, calm = longest_gap(editors), longest_gap(editors, before=killed)
    edits = await everything_is_there(client, editors)
    records = [await client.insist("session.get", name) for name in names]
    moved = sum(record["owner"]["worker"] != victim for record in records)
    assert moved == SESSIONS, f"only {moved} sessions moved"
    fleet.workers[victim].child.wait()
    fleet.workers[victim].start()
    await fleet.ready()
    for one_of in [client, *clients]:
        await one_of.nats.close()
    return gap, calm, edits, sum((c.met for c in clients), start=type(client.met)()), moved
