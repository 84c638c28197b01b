"""10,000 edits on one session: does its log stay short, and is the session quickly back from it?"""

import asyncio
import json
import statistics
import time

from check import STREAM, everything_is_there
from client import Client, Editor, Refused, milliseconds
from fleet import Fleet

EDITS, EDITORS, BODY_LIMIT = 10_000, 8, 512 * 1024
MESSAGES, ACTIVATION, ACTIVATIONS = 64, 0.050, 15


async def run(nodes, _runs):
    async with Fleet(nodes, workers=2, coordinators=2) as fleet:
        client = Client(await fleet.connect())
        await many_edits(fleet, client)
        await large_body(fleet, client, "plain", "x", BODY_LIMIT - 4096)
        # Six bytes each in JSON: three MiB are a while on their way, to the worker and to the client.
        await large_body(fleet, client, "escaped", "\x01", BODY_LIMIT - 4096, within=ACTIVATION * 5)
        await client.nats.close()


class Sampler:
    """Looks again and again how many messages a session's log has."""

    def __init__(self, fleet, session):
        self.fleet, self.subject, self.samples = fleet, f"hf.log.default.{session}", []

    async def __aenter__(self):
        self.connection = await self.fleet.connect()
        self.task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await self.connection.close()

    async def _run(self):
        ask = json.dumps({"subjects_filter": self.subject}).encode()
        while True:
            reply = await self.connection.request(f"$JS.API.STREAM.INFO.{STREAM}", ask, timeout=10)
            self.samples.append((json.loads(reply.data)["state"].get("subjects") or {}).get(self.subject, 0))
            await asyncio.sleep(0.005)

    def most(self):
        assert len(self.samples) > 10, "the log was hardly looked at"
        most = max(self.samples)
        assert most < MESSAGES, f"{self.subject} had {most} messages"
        return most


async def many_edits(fleet, client):
    await client.insist("session.open", id="long")
    clients = [Client(await fleet.connect()) for _ in range(2)]
    editors = [Editor(clients[n % 2], "long", f"e{n}") for n in range(EDITORS)]

    async def edit(editor):
        for _ in range(EDITS // EDITORS):
            await editor.edit()

    begin = time.monotonic()
    async with Sampler(fleet, "long") as sampler:
        await asyncio.gather(*(edit(editor) for editor in editors))
    took = time.monotonic() - begin
    assert not any(editor.failed for editor in editors), [editor.failed[:2] for editor in editors]
    edits = await everything_is_there(client, editors)
    assert edits == EDITS // EDITORS * EDITORS, f"{edits} acknowledged edits"
    print(f"  {edits} edits in {took:.1f} s; at most {sampler.most()} messages in {len(sampler.samples)} looks", flush=True)
    await activations(client, "long", "after that")
    for one_of in clients:
        await one_of.nats.close()


async def activations(client, session, what, within=ACTIVATION):
    """Passivates and asks, some times. The first request is what activates the session; the second shows what asking costs."""
    firsts, seconds = [], []
    for _ in range(ACTIVATIONS):
        await client.insist("admin.reclaim", max_idle_ms=0)
        record = await client.once("session.get", session)
        assert record["state"] == "passive", record
        for times in (firsts, seconds):
            begin = time.monotonic()
            await client.once("doc.get", session)
            times.append(time.monotonic() - begin)
    first, second = statistics.median(firsts), statistics.median(seconds)
    text = ", ".join(f"{value * 1000:.0f}" for value in firsts)
    print(f"  first doc.get {what}: median {milliseconds(first)} of {text}; a later one: {milliseconds(second)}", flush=True)
    assert first <= within, f"activation takes {milliseconds(first)}"


async def large_body(fleet, client, name, character, size, within=ACTIVATION):
    """A body near its limit, edited until it was compacted some times."""
    await client.insist("session.open", id=name)
    length = 0
    while length < size:
        # A request is at most 1 MiB of JSON.
        part = min(size - length, 128 * 1024)
        await client.insist("doc.edit", name, splices=[{"at": length, "delete": 0, "insert": character * part}])
        length += part
    begin, refused = time.monotonic(), {}
    async with Sampler(fleet, name) as sampler:
        for number in range(200):
            splice = {"at": number, "delete": 1, "insert": "e"}
            try:
                await client.once("doc.edit", name, splices=[splice], request_id=f"{name}-{number}")
            except Refused as error:
                refused[error.reason] = refused.get(error.reason, 0) + 1
                await client.insist("doc.edit", name, splices=[splice], request_id=f"{name}-{number}")
    took = time.monotonic() - begin
    document = await client.insist("doc.get", name, consistency="linearizable")
    assert document["body"] == "e" * 200 + character * (size - 200), "the body is not what was written"
    assert set(refused) <= {"snapshot_pending"}, refused
    print(
        f"  {name} body of {size >> 10} KiB: 200 edits in {took:.1f} s, at most {sampler.most()} messages; refused: {refused}",
        flush=True,
    )
    over = {"splices": [{"at": 0, "delete": 0, "insert": "y" * 8192}]}
    try:
        await client.once("doc.edit", name, **over)
        raise AssertionError("a body over the limit was taken")
    except Refused as error:
        assert error.reason == "body_too_large", error.error
    await activations(client, name, f"of the {name} body", within)
