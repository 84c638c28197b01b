"""What a client that floods costs its neighbours: their rate beside the flood, as a share of their rate without.

usage: HOLDFAST_BIN=target/release/holdfast python tests/python/flood.py [SECONDS]

One server, one coordinator, two workers (`holdfast up --insecure --workers 2`). A neighbour edits its own session and takes and releases its
own lock, one request after the other. A flooding client keeps many requests under way on another session. Rates are taken
in turn, without and with the flood, and compared as medians; both sides use the same two cores, so part of a loss is the
processor's. The flood is bounded in number and in time.
"""

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import nats

SECONDS = float(sys.argv[1]) if len(sys.argv) == 2 else 2.0
ROUNDS = 5
PORT = int(os.environ.get("HOLDFAST_FLOOD_PORT", "14422"))


async def connect():
    return await nats.connect(f"nats://127.0.0.1:{PORT}", max_outstanding_pings=100)


async def ask(client, verb, id, body, timeout=20):
    subject = f"hf.default.{verb}.{id}" if id else f"hf.default.{verb}"
    return json.loads((await client.request(subject, json.dumps(body).encode(), timeout=timeout)).data)


async def neighbour(client, seconds):
    """Edits and lock cycles a second."""
    begin, done = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        grant = await ask(client, "lock.acquire", "quiet", {"owner": "neighbour"})
        assert "lock_token" in grant, grant
        edited = await ask(client, "doc.edit", "quiet", {"token": grant["lock_token"], "body": str(done)})
        assert "revision" in edited, edited
        released = await ask(client, "lock.release", "quiet", {"token": grant["lock_token"]})
        assert released.get("released"), released
        done += 1
    return done / (time.monotonic() - begin)


class Flood:
    """Keeps `width` requests under way until it is stopped."""

    def __init__(self, client, width, subject, body):
        self.client, self.width, self.subject, self.body = client, width, subject, body
        self.reasons, self.stopped, self.sent = {}, False, 0

    async def one(self):
        while not self.stopped:
            self.sent += 1
            try:
                reply = json.loads((await self.client.request(self.subject, self.body, timeout=10)).data)
                reason = reply.get("error", {}).get("reason", "ok")
            except Exception as error:  # a refusal of the server's is an outcome of a flood too
                reason = type(error).__name__
                await asyncio.sleep(0.01)
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
            if reason == "mailbox_full":
                # As the answer asks for (retry_after_ms), a fifth of it: a flood is no polite client.
                await asyncio.sleep(0.05)

    async def run(self):
        await asyncio.gather(*(self.one() for _ in range(self.width)))


async def measure(name, width, subject, body):
    """In a process of its own, so that the flood does not share the neighbour's event loop."""
    quiet = await connect()
    alone, beside, reasons = [], [], {}
    for _ in range(ROUNDS):
        alone.append(await neighbour(quiet, SECONDS))
        flooder = subprocess.Popen([sys.executable, __file__, "--flood", str(width), subject, body], stdout=subprocess.PIPE)
        await asyncio.sleep(0.5)
        beside.append(await neighbour(quiet, SECONDS))
        flooder.send_signal(signal.SIGTERM)
        for reason, count in json.loads(flooder.communicate()[0] or b"{}").items():
            reasons[reason] = reasons.get(reason, 0) + count
    await quiet.close()
    assert reasons, "there was no flood"
    share = statistics.median(beside) / statistics.median(alone)
    print(f"{name:<46} {statistics.median(alone):7.0f}/s {statistics.median(beside):7.0f}/s  {share:4.2f}  {reasons}", flush=True)


async def flood(width, subject, body):
    client = await connect()
    kinds = {"edit": json.dumps({"body": "x" * 500_000}), "large": "x" * (7 * 1024 * 1024), "padded": " " * 1_000_000 + "{}"}
    flooding = Flood(client, width, subject, kinds.get(body, body).encode())
    running = asyncio.ensure_future(flooding.run())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.wait([running, asyncio.ensure_future(stop.wait())], timeout=60, return_when=asyncio.FIRST_COMPLETED)
    flooding.stopped = True
    print(json.dumps(flooding.reasons))
    os._exit(0 if sys.stdout.flush() is None else 1)


async def main():
    binary = os.environ.get("HOLDFAST_BIN", "target/release/holdfast")
    with tempfile.TemporaryDirectory() as data:
        up = subprocess.Popen(
            [binary, "up", "--insecure", "--port", str(PORT), "--data", data, "--workers", "2"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        try:
            for attempt in range(200):
                try:
                    client = await connect()
                    await ask(client, "session.open", "", {"id": "quiet"}, timeout=2)
                    break
                except Exception:
                    await asyncio.sleep(0.1)
            await ask(client, "session.open", "", {"id": "hot"})
            await ask(client, "lock.acquire", "hot", {"owner": "holder"})
            print(f"{'flood':<46} {'alone':>9} {'beside':>9}  share  what the flood got")
            await measure("64 refused acquires under way", 64, "hf.default.lock.acquire.hot", '{"owner": "w"}')
            await measure("2,000 waiting acquires", 2000, "hf.default.lock.acquire.hot", '{"owner": "w", "wait_ms": 60000}')
            await measure("64 reads of one session under way", 64, "hf.default.doc.get.hot", "{}")
            await measure("4,000 reads of one session under way", 4000, "hf.default.doc.get.hot", "{}")
            await measure("16 bodies of 1 MB of white space under way", 16, "hf.default.doc.get.hot", "padded")
            await measure("4 messages of 7 MB under way", 4, "hf.default.doc.get.hot", "large")
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(timeout=30)


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--flood":
        asyncio.run(flood(int(sys.argv[2]), sys.argv[3], sys.argv[4]))
    else:
        asyncio.run(main())
