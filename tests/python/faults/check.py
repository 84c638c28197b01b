"""What must be true after whatever was done: of the documents as clients read them, and of the stream as it stands.

- Every acknowledged edit is in the document exactly once, at the place that its revision says; no edit is there twice.
- Every frame in the stream was written by the activation that owned the session at that point of the stream.
- The log, replayed by this reader and not by our own code, has the revision and the answers that clients were given.
"""

import collections
import json
import re

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError
from nats.errors import TimeoutError as NatsTimeout

STREAM = "KV_sessions"
MARK = re.compile(r"[^;]*;")


async def read_stream(connection, subject=">"):
    """All messages of the stream, in its order: (sequence, subject, bytes)."""
    jetstream = connection.jetstream(timeout=10)
    info = await jetstream.stream_info(STREAM)
    settings = ConsumerConfig(
        ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, mem_storage=True, num_replicas=1, inactive_threshold=60
    )
    for attempt in range(4):
        try:
            puller = await jetstream.pull_subscribe(subject, stream=STREAM, config=settings)
            break
        except NatsTimeout:
            # A cluster that has just lost a server may have nobody to make a consumer for a while.
            if attempt == 3:
                raise
    left = (await puller.consumer_info()).num_pending
    messages = []
    while left > 0:
        try:
            batch = await puller.fetch(min(left, 256), timeout=5)
        except NatsTimeout:
            # Compaction took the rest out.
            left = (await puller.consumer_info()).num_pending
            continue
        for message in batch:
            messages.append((message.metadata.sequence.stream, message.subject, message.data))
        left = batch[-1].metadata.num_pending
        if messages[-1][0] >= info.state.last_seq:
            break
    await puller.unsubscribe()
    return messages


class Journal:
    """What the stream said while a scenario ran, with the frames that a snapshot took out since."""

    def __init__(self, connection):
        self.connection, self.messages = connection, {}

    async def __aenter__(self):
        async def keep(message):
            self.messages[message.metadata.sequence.stream] = (message.subject, message.data)

        jetstream = self.connection.jetstream(timeout=10)
        self.following = await jetstream.subscribe(">", stream=STREAM, ordered_consumer=True, cb=keep)
        return self

    async def __aexit__(self, *_):
        try:
            await self.following.unsubscribe()
        except APIError:
            pass

    async def all(self):
        """All that was seen, and all that is there now."""
        for sequence, subject, data in await read_stream(self.connection):
            self.messages[sequence] = (subject, data)
        return [(sequence, *self.messages[sequence]) for sequence in sorted(self.messages)]


def frames_of_others(messages):
    """Frames whose writer did not own the session when they were written. There must be none."""
    owner, found = {}, []
    for sequence, subject, data in messages:
        if subject.startswith("$KV.sessions."):
            key = subject.removeprefix("$KV.sessions.")
            record = json.loads(data) if data else {}
            owner[key] = (record.get("owner") or {}).get("activation")
        else:
            key = subject.removeprefix("hf.log.")
            frame = json.loads(data)
            # A record that fell out of the 64 that are kept says nothing.
            if key in owner and frame["activation"] != owner[key]:
                found.append((sequence, key, frame["activation"], owner[key]))
    return found


def replay(messages, key):
    """What the log of `key` says: number of its last op, and (request_id, reply) of its latest answers."""
    ops, answers = 0, []
    for _, subject, data in messages:
        if subject != f"hf.log.{key}":
            continue
        frame = json.loads(data)
        if snapshot := frame.get("snapshot"):
            if snapshot["ops"] >= ops:
                ops = snapshot["ops"]
                answers = [(kept["request_id"], kept["reply"]) for kept in snapshot["answered"]]
            continue
        for number, op in enumerate(frame.get("ops", []), frame["first_op"]):
            assert number <= ops + 1, f"{key}: op {number} follows op {ops}"
            if number == ops + 1:
                ops += 1
                answers.append((op["request_id"], op["reply"]))
    return ops, answers


def document_is_right(session, document, editors):
    """Compares a document with what its editors were told. Returns how many acknowledged edits it has."""
    marks = MARK.findall(document["body"])[::-1]
    assert len(marks) == document["revision"], f"{session}: {len(marks)} marks at revision {document['revision']}"
    twice = [mark for mark, count in collections.Counter(marks).items() if count > 1]
    assert not twice, f"{session}: applied twice: {twice[:5]}"
    there = set(marks)
    total = 0
    for editor in editors:
        known = {mark for mark, _, _ in editor.acknowledged}
        for mark, revision, _ in editor.acknowledged:
            place = marks[revision - 1] if revision <= len(marks) else None
            assert place == mark, f"{session}: {mark} was acknowledged at {revision}, and there is {place}"
        mine = [mark for mark in marks if mark.startswith(f"{editor.name}:")]
        numbers = [int(mark.split(":")[1][:-1]) for mark in mine]
        assert numbers == sorted(numbers), f"{session}: edits of {editor.name} are out of order"
        stray = there.intersection(mine) - known - set(editor.open)
        assert not stray, f"{session}: refused, and there: {sorted(stray)[:5]}"
        total += len(known)
    return total


async def everything_is_there(client, editors, messages=None):
    """Checks all sessions of `editors`, by asking and by reading the stream. Returns how many acknowledged edits are there."""
    sessions = collections.defaultdict(list)
    for editor in editors:
        sessions[editor.session].append(editor)
    documents = {name: await client.insist("doc.get", name, consistency="linearizable") for name in sessions}
    messages = messages if messages is not None else await read_stream(client.nats)
    others = frames_of_others(messages)
    assert not others, f"frames of somebody who was not the owner: {others[:5]}"
    total = 0
    for session, of_session in sessions.items():
        total += document_is_right(session, documents[session], of_session)
        log_is_right(session, messages, documents[session], of_session)
    return total


def log_is_right(session, messages, document, editors):
    """Compares the stored log with what clients were told."""
    _, answers = replay(messages, f"default.{session}")
    revisions = [reply["revision"] for _, reply in answers if "revision" in reply]
    last = revisions[-1] if revisions else 0
    assert last == document["revision"], f"{session}: the log ends at {last}, the document at {document['revision']}"
    told = {f"{session}/{mark}": revision for editor in editors for mark, revision, _ in editor.acknowledged}
    stored = {request: reply["revision"] for request, reply in answers if "revision" in reply}
    assert len(stored) == len(revisions), f"{session}: a request is answered twice in the log"
    oldest = min(revisions, default=0)
    for request, revision in told.items():
        if revision >= oldest:
            assert stored.get(request) == revision, f"{session}: {request} at {revision}, the log has {stored.get(request)}"
