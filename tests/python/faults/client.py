"""A client that insists: it asks with one `request_id` until there is an answer that counts. And editors, that keep doing so.

Every edit puts a mark of its own in front of the body, so that the body is the history of the session, latest first, and a
mark's place in it must be the revision that was acknowledged.
"""

import asyncio
import collections
import json
import time
import uuid

from nats.errors import Error as NatsError

# What a client may be told while something is away; anything else is a broken promise.
PASSING = {"unavailable", "unknown_outcome", "busy"}
AGAIN = 0.02


class Refused(Exception):
    """A final no."""

    def __init__(self, error):
        super().__init__(error["message"])
        self.code, self.reason, self.error = error["code"], error["reason"], error


class Client:
    """Requests over one connection."""

    def __init__(self, connection, attempt=6.0):
        self.nats, self.attempt = connection, attempt
        self.met = collections.Counter()

    async def once(self, verb, session="", namespace="default", **body):
        """Asks once. `Refused` for an error."""
        subject = f"hf.{namespace}.{verb}" + (f".{session}" if session else "")
        message = await self.nats.request(subject, json.dumps(body).encode(), timeout=self.attempt)
        reply = json.loads(message.data)
        if "error" in reply:
            raise Refused(reply["error"])
        return reply

    async def insist(self, verb, session="", within=90.0, **body):
        """Asks with one `request_id` until there is a yes. What came before that is counted in `met`."""
        if verb not in ("session.get", "doc.get", "worker.list"):
            body.setdefault("request_id", str(uuid.uuid4()))
        deadline = time.monotonic() + within
        while True:
            try:
                return await self.once(verb, session, **body)
            except Refused as refused:
                self.met[f"{refused.code}/{refused.reason}"] += 1
                if refused.code not in PASSING or time.monotonic() > deadline:
                    raise
            except NatsError as error:
                self.met[type(error).__name__] += 1
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(AGAIN)


async def side_by_side(jobs, width=64):
    """Runs all coroutines, `width` at a time, and returns what they returned."""
    gate = asyncio.Semaphore(width)

    async def one(job):
        async with gate:
            return await job

    return await asyncio.gather(*(one(job) for job in jobs))


class Editor:
    """Edits one session again and again, one edit after the other, until told to stop."""

    def __init__(self, client, session, name, token=None, pause=0.0, insists=True):
        self.client, self.session, self.name, self.token = client, session, name, token
        self.pause, self.insists = pause, insists
        # (mark, revision, when it was acknowledged)
        self.acknowledged = []
        # Edits whose outcome was never told, because the editor was stopped or refused.
        self.open = []
        self.failed = []
        self.number = 0
        self.stopping = asyncio.Event()
        self.task = None

    def start(self):
        self.task = asyncio.create_task(self._run())
        return self

    async def stop(self):
        """Ends after the edit that is under way."""
        self.stopping.set()
        await self.task

    async def _run(self):
        while not self.stopping.is_set():
            await self.edit()
            await asyncio.sleep(self.pause)

    async def edit(self):
        self.number += 1
        mark = f"{self.name}:{self.number};"
        body = {"splices": [{"at": 0, "delete": 0, "insert": mark}], "request_id": f"{self.session}/{mark}"}
        if self.token:
            body["token"] = self.token
        self.open.append(mark)
        try:
            ask = self.client.insist if self.insists else self.client.once
            reply = await ask("doc.edit", self.session, **body)
        except (Refused, NatsError) as error:
            self.failed.append((mark, error))
            if self.insists:
                self.stopping.set()
            return None
        self.open.pop()
        self.acknowledged.append((mark, reply["revision"], time.monotonic()))
        return reply


def longest_gap(editors, before=float("inf")):
    """The longest time in which some session had no acknowledged edit, though somebody was editing it."""
    times = collections.defaultdict(list)
    for editor in editors:
        times[editor.session].extend(at for _, _, at in editor.acknowledged if at < before)
    gaps = []
    for of_session in times.values():
        of_session.sort()
        gaps += [later - earlier for earlier, later in zip(of_session, of_session[1:])]
    return max(gaps, default=0.0)


def milliseconds(seconds):
    return f"{seconds * 1000:.0f} ms"
