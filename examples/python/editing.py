"""Two programs and an operator work on one document, over plain NATS: nats-py and JSON, no library of Holdfast.

    holdfast up                                  # in another terminal; it writes the contexts that this program reads
    pip install nats-py
    python examples/python/editing.py            # in the folder where `up` was started
"""

import asyncio
import json
import os
import pathlib
import sqlite3
import uuid

import nats

CONTEXTS = pathlib.Path(os.environ.get("HOLDFAST_CONTEXTS", ".holdfast/config/nats/context"))


class Refused(Exception):
    """An error of Holdfast. `error` has `code`, `reason`, `message`, `details`, `actions` and `retryable`."""

    def __init__(self, error):
        super().__init__(f"{error['code']}/{error['reason']}: {error['message']}")
        self.error = error


class Holdfast:
    """Requests of one program. Every NATS client can do this: a subject and a JSON body."""

    def __init__(self, connection, actor):
        self.nats, self.actor = connection, actor

    @classmethod
    async def connect(cls, role, actor):
        """Connects with a context file, which has the address, the login and the prefix for replies."""
        context = json.loads((CONTEXTS / f"{role}.json").read_text())
        connection = await nats.connect(
            context["url"],
            user=context["user"],
            password=context["password"],
            inbox_prefix=context["inbox_prefix"].encode(),
        )
        return cls(connection, actor)

    async def ask(self, verb, session=None, **body):
        """Sends one request. A retry with the same `request_id` never takes a second effect, so repeat it freely."""
        subject = f"hf.default.{verb}" + (f".{session}" if session else "")
        body = {"request_id": str(uuid.uuid4()), "actor": self.actor, **body}
        for attempt in range(5):
            try:
                message = await self.nats.request(subject, json.dumps(body).encode(), timeout=5)
            except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
                await asyncio.sleep(0.1 * 2**attempt)
                continue
            reply = json.loads(message.data)
            if "error" not in reply:
                return reply
            if not reply["error"]["retryable"] or reply["error"]["code"] == "conflict":
                raise Refused(reply["error"])
            await asyncio.sleep(reply["error"].get("retry_after_ms", 100) / 1000)
        raise TimeoutError(f"{subject} was not answered")


def publish(database, text, fence):
    """Writes elsewhere, under the fence of the grant. The database refuses a holder that was overtaken."""
    changed = database.execute("UPDATE plans SET text = ?, fence = ? WHERE id = 1 AND fence <= ?", (text, fence, fence))
    return changed.rowcount == 1


async def main():
    ann = await Holdfast.connect("client", actor="ann's editor")
    bob = await Holdfast.connect("client", actor="bob's editor")
    operator = await Holdfast.connect("ops", actor="on call")
    plan = f"plan-{uuid.uuid4().hex[:8]}"

    async def tell(signal):
        event = json.loads(signal.data)
        print(f"signal: {event['type']} by {event['data'].get('actor')}")

    await ann.nats.subscribe(f"hf.default.signal.{plan}.>", cb=tell)

    # Open the session, take its lock for 30 s, and edit under the token.
    await ann.ask("session.open", id=plan, content={"body": "# Plan\n"})
    grant = await ann.ask("lock.acquire", plan, owner="ann", ttl_ms=30_000)
    edited = await ann.ask("doc.edit", plan, token=grant["lock_token"], splices=[{"at": 7, "delete": 0, "insert": "1. Ship.\n"}])
    print(f"ann edited revision {edited['revision']}")

    # A conflict explains itself.
    try:
        await bob.ask("lock.acquire", plan, owner="bob", ttl_ms=30_000)
    except Refused as refused:
        details = refused.error["details"]
        print(f"bob is refused: {details['owner']} holds it for {details['held_for_ms']} ms; can do: {refused.error['actions']}")

    # The holder also writes to a database: each grant has a fence, which only rises.
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE plans (id INTEGER PRIMARY KEY, text TEXT, fence INTEGER)")
    database.execute("INSERT INTO plans VALUES (1, '', 0)")
    print(f"ann's write to the database: {publish(database, 'by ann', grant['fence'])}")

    # An operator takes the lock over. From this moment ann's token and ann's fence are refused.
    taken = await operator.ask("admin.takeover", plan, owner="bob", reason="ann's editor hangs", ttl_ms=30_000)
    print(f"taken over from {taken['previous_owner']}")
    try:
        await ann.ask("doc.edit", plan, token=grant["lock_token"], body="too late")
    except Refused as refused:
        print(f"ann is refused: {refused.error['reason']}, the lock is {refused.error['details']['owner']}'s")
    print(f"bob's write to the database: {publish(database, 'by bob', taken['fence'])}")
    print(f"ann's late write to the database: {publish(database, 'by ann', grant['fence'])}")

    await bob.ask("doc.edit", plan, token=taken["lock_token"], fields={"status": "shipped"})
    await bob.ask("lock.release", plan, token=taken["lock_token"])
    document = await bob.ask("doc.get", plan)
    print(f"the document: {document['body']!r} {document['fields']}")

    await asyncio.sleep(1)  # the last signals
    for program in (ann, bob, operator):
        await program.nats.drain()


asyncio.run(main())
