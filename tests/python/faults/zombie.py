"""A worker is paused in the middle of edits, its locks are taken over, others edit, it wakes up: it must not write a thing."""

import asyncio
import collections
import signal
import time

from check import Journal, everything_is_there
from client import Client, Editor, Refused, milliseconds, side_by_side
from fleet import Fleet, until

SESSIONS, QUEUED = 4, 10


async def run(nodes, runs):
    async with Fleet(nodes, workers=2, coordinators=2) as fleet:
        connection = await fleet.connect()
        async with Journal(connection) as journal:
            for number in range(runs):
                # Waiting for the lease takes ten seconds, and is the same each time.
                for way in [relocked, taken_over, moved, failed_over][: 4 if number < 2 else 3]:
                    await one(fleet, journal, f"{way.__name__}{number}".replace("_", "-"), way)
        await connection.close()


async def relocked(client, name):
    """The paused worker stays the owner, and wakes under a record that was changed."""
    await client.insist("admin.unlock", name, reason="w1 hangs")
    return await client.insist("lock.acquire", name, owner="new")


async def taken_over(client, name):
    """An operator takes the lock over; that moves the session too, because its worker is silent."""
    return await client.insist("admin.takeover", name, owner="new", reason="w1 hangs")


async def moved(client, name):
    """An operator moves the session, and then takes the lock over."""
    await client.insist("admin.move", name, worker="w2", reason="w1 hangs")
    return await taken_over(client, name)


async def failed_over(client, name):
    """Nobody moves the session: it goes once the worker's lease stands still."""
    await client.insist("admin.unlock", name, reason="w1 hangs")
    grant = await client.insist("lock.acquire", name, owner="new")
    await client.insist("session.touch", name)
    return grant


async def all_with_w1(client, names):
    """Moves them there. A coordinator that does not know yet that w1 is back may take them away again."""
    await side_by_side(client.insist("admin.move", name, worker="w1", reason="to be paused") for name in names)
    await asyncio.sleep(1)
    records = await side_by_side(client.insist("session.get", name) for name in names)
    return all(record["owner"]["worker"] == "w1" for record in records)


async def one(fleet, journal, prefix, way):
    zombie = fleet.workers["w1"]
    names = [f"{prefix}-s{n}" for n in range(SESSIONS)]
    client, old, new = [Client(await fleet.connect(), attempt=12) for _ in range(3)]
    await side_by_side(client.insist("session.open", id=name) for name in names)
    grants = [await client.insist("lock.acquire", name, owner="old") for name in names]
    tokens = [grant["lock_token"] for grant in grants]
    olds = [Editor(old, name, "old", token).start() for name, token in zip(names, tokens)]
    await until("sessions to stay with w1", lambda: all_with_w1(client, names))

    await zombie.pause()
    # These lie in front of the paused worker, with a token that was good when they were sent.
    queued = [Editor(old, name, f"queued{n}", token, insists=False) for n in range(QUEUED) for name, token in zip(names, tokens)]
    asking = [asyncio.create_task(editor.edit()) for editor in queued]
    await asyncio.sleep(0.2)
    begin = time.monotonic()
    taken = await side_by_side(way(client, name) for name in names)
    if way is relocked:
        # Nobody else will serve the new holders; and not before the last lock has changed hands, or its old holder may still write.
        zombie.send(signal.SIGCONT)
    news = [Editor(new, name, "new", grant["lock_token"]) for name, grant in zip(names, taken)]
    took, begin = time.monotonic() - begin, time.monotonic()
    await side_by_side(editor.edit() for editor in news)
    first = time.monotonic() - begin
    for editor in news:
        editor.start()
    await asyncio.sleep(0.3)
    zombie.send(signal.SIGCONT)
    await asyncio.sleep(1)
    await asyncio.gather(*(editor.stop() for editor in news))
    await asyncio.gather(*asking)
    await asyncio.wait_for(asyncio.gather(*(editor.task for editor in olds)), 30)

    answers = collections.Counter(str(answer(error)) for editor in [*olds, *queued] for _, error in editor.failed)
    accepted = [(editor.session, editor.acknowledged) for editor in queued if editor.acknowledged]
    assert not accepted, f"edits with a token that was taken away were accepted: {accepted}"
    assert not any(editor.failed for editor in news), [editor.failed for editor in news]
    for editor in queued:
        editor.open.clear()
    messages = await journal.all()
    edits = await everything_is_there(client, [*olds, *queued, *news], messages)
    late = [sequence for sequence, subject, data in messages if prefix in subject and b"queued" in data]
    assert not late, f"edits of the paused worker are in the stream at {late}"
    await fleet.ready()
    print(
        f"  {way.__name__}: that took {milliseconds(took)}, the new holder's first edit {milliseconds(first)}; {edits} "
        f"acknowledged edits there, none of the {len(queued)} that were queued; all answered: {dict(answers)}",
        flush=True,
    )
    for one_of in [client, old, new]:
        await one_of.nats.close()


def answer(error):
    """What an old holder was told in the end. Silence is not an answer."""
    assert isinstance(error, Refused), f"no answer: {error!r}"
    assert error.code in ("conflict", "unknown_outcome", "unavailable", "busy"), error.error
    return f"{error.code}/{error.reason}"
