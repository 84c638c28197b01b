"""The main path with nats-py, a client that is not ours, against the release binary started as a stranger would.

    HOLDFAST_BIN=target/release/holdfast python tests/python/main_path.py
"""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

import nats
from nats.js.errors import KeyWrongLastSequenceError

BIN = os.environ.get("HOLDFAST_BIN", "target/release/holdfast")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def not_yet(_error):
    """That nobody listens yet is what is waited for."""


class Holdfast:
    """`holdfast up` as a child process."""

    def __init__(self, folder):
        self.port, self.folder, self.docs = free_port(), folder, os.path.join(folder, "docs")
        os.makedirs(self.docs, exist_ok=True)
        self.log = open(os.path.join(folder, "up.log"), "w+")
        self.start()

    def start(self):
        command = [BIN, "up", "--port", str(self.port), "--data", os.path.join(self.folder, "data")]
        command += ["--workspace", f"main={self.docs}", "--workspace", f"readonly={self.docs}:ro"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)

    def stop(self, how=signal.SIGINT):
        self.process.send_signal(how)
        return self.process.wait(timeout=60)

    def context(self, role):
        """What `up` wrote for this role, as arguments of `nats.connect`."""
        path = os.path.join(self.folder, "data/config/nats/context", f"{role}.json")
        with open(path) as file:
            context = json.load(file)
        return {
            "servers": context["url"],
            "user": context["user"],
            "password": context["password"],
            "inbox_prefix": context["inbox_prefix"].encode(),
        }

    async def connect_as(self, role):
        return await nats.connect(allow_reconnect=False, error_cb=not_yet, **self.context(role))

    async def connect(self):
        deadline = time.monotonic() + 120
        while True:
            try:
                client = await self.connect_as("ops")
                await client.request("hf.sys.worker.list", b"{}", timeout=1)
                return client
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told at the deadline
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.log.seek(0)
                    raise SystemExit(f"holdfast up did not come up: {error!r}\n{self.log.read()}")
                await asyncio.sleep(0.05)


class Client:
    """Requests as any program would make them."""

    def __init__(self, connection):
        self.nats = connection

    async def raw(self, subject, body):
        return await self.nats.request(subject, body, timeout=20)

    async def ask(self, verb, session="", **body):
        subject = f"hf.default.{verb}" + (f".{session}" if session else "")
        message = await self.raw(subject, json.dumps(body).encode())
        reply = json.loads(message.data)
        assert ("error" in reply) == bool((message.headers or {}).get("Nats-Service-Error-Code")), reply
        return reply

    async def ok(self, verb, session="", **body):
        reply = await self.ask(verb, session, **body)
        assert "error" not in reply, reply
        return reply

    async def refused(self, reason, verb, session="", **body):
        error = (await self.ask(verb, session, **body))["error"]
        assert error["reason"] == reason, error
        return error


async def sessions_locks_and_takeover(client):
    first = await client.ok("session.open", id="s1")
    assert first["created"] and first["state"] == "active", first
    grant = await client.ok("lock.acquire", "s1", owner="client-a", ttl_ms=30000)
    await client.ok("doc.edit", "s1", token=grant["lock_token"], body="hello")
    refusal = await client.refused("lock_held", "lock.acquire", "s1", owner="client-b")
    assert refusal["details"]["owner"] == "client-a" and refusal["details"]["expires_in_ms"] > 0, refusal
    await client.ok("admin.takeover", "s1", owner="ops", reason="stuck")
    await client.refused("stale_token", "doc.edit", "s1", token=grant["lock_token"], body="late")
    assert (await client.ok("doc.get", "s1"))["body"] == "hello"


async def a_release_hands_the_lock_over(client):
    """With nats-py: the next waiter has the lock in the write of the release, and both are told and kept in this order."""
    heard, kept = [], []

    async def hear(message):
        heard.append(json.loads(message.data))

    signals = await client.nats.subscribe("hf.default.signal.s9.lock.*", cb=hear)
    await client.ok("session.open", id="s9")
    first = await client.ok("lock.acquire", "s9", owner="ann")
    waits = [asyncio.create_task(client.ok("lock.acquire", "s9", owner=f"w{n}", wait_ms=10_000, ttl_ms=60_000)) for n in range(2)]
    await asyncio.sleep(0.5)  # both are in the line
    before = await client.ok("session.get", "s9")
    released = await client.ok("lock.release", "s9", token=first["lock_token"], request_id="release-s9")
    second = await asyncio.wait_for(waits[0], 2)
    assert released["lock_revision"] == first["lock_revision"] + 1, released
    assert second["lock_revision"] == first["lock_revision"] + 2 and second["fence"] == before["revision"], second
    assert not waits[1].done(), "one lock, one holder"
    again = await client.ok("lock.release", "s9", token=first["lock_token"], request_id="release-s9")
    assert again == released, again
    await client.refused("stale_token", "lock.release", "s9", token=first["lock_token"])
    await client.ok("lock.release", "s9", token=second["lock_token"])
    third = await asyncio.wait_for(waits[1], 2)
    assert third["fence"] > second["fence"], third
    for _ in range(100):
        if sum(signal["type"] == "holdfast.lock.acquired.v1" for signal in heard) == 3:
            break
        await asyncio.sleep(0.02)
    commits = [signal for signal in heard if "conflict" not in signal["type"]]
    told = [(signal["type"].split(".")[2], signal["data"]["lock_revision"]) for signal in commits]
    acquired, freed = "acquired", "released"
    assert told == [(acquired, 1), (freed, 2), (acquired, 3), (freed, 4), (acquired, 5)], told
    await signals.unsubscribe()
    await asyncio.sleep(1)  # what the contract allows
    for sequence in range(1, 10_000):
        answer = await client.nats.request("$JS.API.STREAM.MSG.GET.HF_SIGNALS", json.dumps(
            {"seq": sequence, "next_by_subj": "hf.default.signal.s9.lock.*"}).encode(), timeout=2)
        message = json.loads(answer.data).get("message")
        if message is None:
            break
        if kept and message["seq"] == kept[-1][0]:
            continue
        kept.append((message["seq"], json.loads(base64.b64decode(message["data"]))["id"]))
    ids = [id for _, id in kept]
    assert [signal["id"] for signal in commits] == [id for id in ids if id.startswith("KV_sessions:")], (commits, ids)


async def bad_input_is_answered(client):
    for body, reason in [
        (b"{", "bad_json"),
        (b"\xff\xfe", "bad_json"),
        (b"[]", "bad_value"),
        (b"[" * 100000 + b"]" * 100000, "bad_value"),
        (b'{"id":"a","nope":1}', "unknown_field"),
        (b'{"id":7}', "bad_value"),
        (b'{"id":"a b"}', "invalid_session_id"),
        (b'{"path":"../x"}', "path_escape"),
    ]:
        error = json.loads((await client.raw("hf.default.session.open", body)).data)["error"]
        assert error["reason"] == reason, (body[:40], error)
    error = json.loads((await client.raw("hf.default.session.frobnicate", b"{}")).data)["error"]
    assert error["code"] == "invalid_params", error


async def break_glass_is_honoured_by_the_next_write(client):
    heard = []

    async def hear(message):
        heard.append(message.subject)

    await client.nats.subscribe("hf.default.signal.s2.lock.changed", cb=hear)
    await client.ok("session.open", id="s2")
    grant = await client.ok("lock.acquire", "s2", owner="client-a")
    bucket = await client.nats.jetstream().key_value("sessions")
    entry = await bucket.get("default.s2")
    record = json.loads(entry.value)
    assert grant["lock_token"] not in entry.value.decode(), "a token is stored"
    record["lock"] = None
    record["lock_revision"] += 1
    try:
        await bucket.update("default.s2", b"{}", last=entry.revision - 1)
        raise AssertionError("an old revision was taken")
    except KeyWrongLastSequenceError:
        pass
    await bucket.update("default.s2", json.dumps(record).encode(), last=entry.revision)
    await client.refused("not_locked", "doc.edit", "s2", token=grant["lock_token"], body="late")
    deadline = time.monotonic() + 10
    while not heard and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert heard, "the hand edit was not announced"
    filtered = await client.raw("$JS.API.STREAM.INFO.KV_sessions", json.dumps({"subjects_filter": "$KV.sessions.>"}).encode())
    keys = json.loads(filtered.data)["state"]["subjects"]
    assert "$KV.sessions.default.s2" in keys and all(key.startswith("$KV.sessions.default.") for key in keys), keys


async def a_program_of_another_account_may_do_its_part_only(holdfast, operator):
    """As role `client`: over a service import, which the operator's requests take too."""
    client = Client(await holdfast.connect_as("client"))
    heard = []

    async def hear(message):
        heard.append(json.loads(message.data))

    await client.nats.subscribe("hf.default.signal.s4.lock.*", cb=hear)
    await client.nats.flush()
    await client.ok("session.open", id="s4")
    grant = await client.ok("lock.acquire", "s4", owner="a", ttl_ms=60_000)

    # Nobody can tell over an import whether a waiting client has gone, so its lock needs a lease.
    error = await client.refused("bad_value", "lock.acquire", "s4", owner="b", wait_ms=5_000)
    assert error["details"]["field"] == "wait_ms", error
    waiting = asyncio.create_task(client.ok("lock.acquire", "s4", owner="b", wait_ms=10_000, ttl_ms=60_000))
    await asyncio.sleep(0.2)
    assert not waiting.done(), "it did not wait"
    await client.ok("lock.release", "s4", token=grant["lock_token"])
    second = await waiting
    assert second["fence"] > grant["fence"], (grant, second)

    # What it may not do has no effect: the requests of operators, forged signals, the buckets.
    for subject in ["hf.default.admin.takeover.s4", "hf.default.signal.s4.lock.taken_over", "$KV.sessions.default.s4"]:
        try:
            await client.nats.request(subject, json.dumps({"owner": "thief", "reason": "x"}).encode(), timeout=0.5)
            raise AssertionError(f"{subject} was answered")
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            pass
    assert (await client.ok("lock.validate", "s4", token=second["lock_token"]))["owner"] == "b"

    # Signals and the record name who asked as nats-server knows it, whatever the request claims.
    body = json.dumps({"owner": "ops", "reason": "stuck", "actor": "on call"}).encode()
    forged = {"Nats-Request-Info": json.dumps({"acc": "HOLDFAST", "user": "coordinator"})}
    await operator.nats.request("hf.default.admin.takeover.s4", body, timeout=20, headers=forged)
    deadline = time.monotonic() + 10
    while not any(signal["type"].endswith("taken_over.v1") for signal in heard) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    taken = next(signal["data"] for signal in heard if signal["type"].endswith("taken_over.v1"))
    assert (taken["actor"], taken["actor_proven"]) == ("on call", "OPS/ops"), taken
    acquired = next(signal["data"] for signal in heard if signal["type"].endswith("acquired.v1"))
    assert acquired["actor_proven"] == "APP/client", acquired
    bucket = await operator.nats.jetstream().key_value("sessions")
    assert json.loads((await bucket.get("default.s4")).value)["event"]["actor_proven"] == "OPS/ops"
    await client.refused("stale_token", "doc.edit", "s4", token=second["lock_token"], body="late")
    await client.nats.close()


async def the_micro_service_shows_itself(client):
    info = json.loads((await client.raw("$SRV.INFO.holdfast", b"")).data)
    subjects = {endpoint["subject"] for endpoint in info["endpoints"]}
    assert info["name"] == "holdfast" and "hf.*.lock.acquire.*" in subjects and len(subjects) == 24, info
    stats = json.loads((await client.raw("$SRV.STATS.holdfast", b"")).data)
    acquired = next(e for e in stats["endpoints"] if e["subject"] == "hf.*.lock.acquire.*")
    # A refusal is no error of the service.
    assert acquired["num_requests"] >= 2 and acquired["num_errors"] == 0, acquired


async def a_file_is_edited_saved_and_watched(holdfast, client):
    heard = []

    async def hear(message):
        heard.append(json.loads(message.data))

    def write(text):
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)

    async def hear_of(kind):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for signal_ in heard:
                if signal_["type"] == f"holdfast.doc.{kind}.v1":
                    heard.clear()
                    return signal_["data"]
            await asyncio.sleep(0.01)
        raise AssertionError(f"doc.{kind} was not announced: {heard}")

    path = os.path.join(holdfast.docs, "plan.md")
    write("---\n# kept\ntitle: 'Plan'   # too\ndue: 2026-12-01\nsize: 1.602176634e-19\n---\nbody\r\nlast")
    session = await client.ok("session.open", path="./x/..//plan.md", actor="nats-py")
    assert session["path"] == "plan.md" and session["id"].startswith("file-"), session
    await client.nats.subscribe(f"hf.default.signal.{session['id']}.doc.*", cb=hear)
    await client.nats.flush()
    await client.ok("doc.edit", session["id"], fields={"title": "Plan B"}, splices=[{"at": 0, "delete": 4, "insert": "text"}])
    saved = await client.ok("doc.save", session["id"], request_id="save-1")
    with open(path, "rb") as file:
        text = file.read()
    expected = b"---\n# kept\ntitle: Plan B   # too\ndue: 2026-12-01\nsize: 1.602176634e-19\n---\ntext\r\nlast"
    assert text == expected and saved["bytes"] == len(text), text
    assert await client.ok("doc.save", session["id"], request_id="save-1") == saved
    write("theirs")
    diverged = await hear_of("diverged")
    assert diverged["error"]["reason"] == "disk_diverged", diverged
    assert diverged["error"]["details"]["expected_digest"] == saved["digest"], diverged
    await client.ok("doc.edit", session["id"], body="mine")
    await client.refused("disk_diverged", "doc.save", session["id"])
    await client.refused("unsaved_changes", "doc.load", session["id"])
    await client.refused("unsaved_changes", "session.close", session["id"])
    loaded = await client.ok("doc.load", session["id"], discard=True)
    assert (loaded["body"], loaded["fields"], loaded["dirty"]) == ("theirs", {}, False), loaded
    readonly = await client.ok("session.open", path="plan.md", workspace="readonly")
    await client.refused("workspace_denied", "doc.save", readonly["id"])
    await client.refused("path_escape", "session.open", path="/etc/passwd")
    await client.refused("no_workspace", "session.open", path="a.md", workspace="elsewhere")


async def everything_is_there_after_a_restart(holdfast, client, how):
    await client.ok("session.open", id="kept")
    grant = await client.ok("lock.acquire", "kept", owner=f"client-{how}")
    edited = await client.ok("doc.edit", "kept", token=grant["lock_token"], body=f"before {how}")
    await client.nats.close()
    code = holdfast.stop(how)
    assert how == signal.SIGKILL or code == 0, f"up ended with {code}"
    holdfast.start()
    client = Client(await holdfast.connect())
    document = await client.ok("doc.get", "kept")
    assert document["body"] == f"before {how}" and document["revision"] == edited["revision"], document
    await client.ok("lock.release", "kept", token=grant["lock_token"])
    return client


async def main():
    with tempfile.TemporaryDirectory() as folder:
        holdfast = Holdfast(folder)
        try:
            client = Client(await holdfast.connect())
            for step in [
                sessions_locks_and_takeover,
                a_release_hands_the_lock_over,
                bad_input_is_answered,
                break_glass_is_honoured_by_the_next_write,
                the_micro_service_shows_itself,
            ]:
                await step(client)
                print(f"ok {step.__name__}", flush=True)
            await a_program_of_another_account_may_do_its_part_only(holdfast, client)
            print("ok a_program_of_another_account_may_do_its_part_only", flush=True)
            await a_file_is_edited_saved_and_watched(holdfast, client)
            print("ok a_file_is_edited_saved_and_watched", flush=True)
            for how in [signal.SIGTERM, signal.SIGKILL]:
                client = await everything_is_there_after_a_restart(holdfast, client, how)
                print(f"ok everything_is_there_after_{how.name}", flush=True)
            await client.nats.close()
        except Exception:  # noqa: BLE001 - its log tells more than its trace
            traceback.print_exc()
            holdfast.log.seek(0)
            sys.exit(f"the log of holdfast up:\n{holdfast.log.read()}")
        finally:
            if holdfast.process.poll() is None:
                holdfast.stop()


asyncio.run(main())
