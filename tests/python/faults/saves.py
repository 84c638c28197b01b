"""Workers are killed, and paused, while clients save: is the file always whole, never older than what was acknowledged?"""

import asyncio
import random
import signal
import time

from client import Client, side_by_side
from fleet import Fleet

SESSIONS, KILLS, PAUSES, FILLER = 4, 10, 4, "x" * 48_000


def text(number):
    """Large enough to be written in parts; its number at both ends."""
    return f"{number} {FILLER} {number}"


class Saver:
    """Edits and saves one file again and again, and reads it as anybody could."""

    def __init__(self, fleet, client, name):
        self.client, self.name, self.file = client, name, fleet.docs / name
        self.sent = self.saved = self.reads = 0
        self.over = False

    async def save(self):
        self.sent += 1
        await self.client.insist("doc.edit", self.id, body=text(self.sent))
        await self.client.insist("doc.save", self.id)
        self.saved = self.sent

    async def write(self):
        while not self.over:
            await self.save()

    async def read(self):
        while not self.over:
            self.look()
            await asyncio.sleep(0.002)

    def look(self):
        saved = self.saved
        if saved == 0 and not self.file.exists():
            return
        found = self.file.read_text()
        first, _, last = found.partition(" ")[0], None, found.rpartition(" ")[2]
        assert found == text(first) and first == last, f"{self.name} is torn: {found[:20]}…{found[-20:]}"
        assert saved <= int(first) <= self.sent, f"{self.name} has {first}; {saved} was acknowledged, {self.sent} sent"
        self.reads += 1


async def run(nodes, _runs):
    async with Fleet(nodes, workers=3, coordinators=2) as fleet:
        client = Client(await fleet.connect())
        savers = [Saver(fleet, Client(await fleet.connect()), f"s{n}.md") for n in range(SESSIONS)]
        for saver in savers:
            saver.id = (await client.insist("session.open", path=saver.name))["id"]
        began = time.monotonic()
        tasks = [asyncio.create_task(job) for saver in savers for job in (saver.write(), saver.read())]
        disturb = asyncio.create_task(disturbed(fleet, client, savers))
        await asyncio.wait([disturb, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for saver in savers:
            saver.over = True
        await asyncio.gather(*tasks, disturb)
        for saver in savers:
            document = await client.insist("doc.get", saver.id)
            assert not document["dirty"] and not document.get("diverged"), (document["dirty"], document.get("diverged"))
            assert document["body"] == text(saver.saved) == saver.file.read_text(), saver.name
        strays = [entry.name for entry in fleet.docs.iterdir() if entry.name.startswith(".")]
        assert not strays, strays
        met = sum((saver.client.met for saver in savers), start=type(client.met)())
        print(
            f"  {KILLS} kills and {PAUSES} pauses in {time.monotonic() - began:.0f} s: {sum(s.saved for s in savers)} saves "
            f"acknowledged, {sum(s.reads for s in savers)} times read whole and not too old; clients were told {dict(met) or 'nothing'}",
            flush=True,
        )


async def disturbed(fleet, client, savers):
    for _ in range(KILLS):
        await asyncio.sleep(random.uniform(0.1, 0.6))
        session = await client.insist("session.get", random.choice(savers).id)
        if session["owner"]:
            worker = fleet.workers[session["owner"]["worker"]]
            await worker.end(signal.SIGKILL)
            await asyncio.sleep(0.3)
            worker.start()
            await fleet.ready()
    for _ in range(PAUSES):
        await asyncio.sleep(random.uniform(0.1, 0.4))
        saver = random.choice(savers)
        session = await client.insist("session.get", saver.id)
        worker = fleet.workers[session["owner"]["worker"]]
        await worker.pause()
        # Whatever it was in the middle of, others go on, and it comes back to it.
        await side_by_side(client.insist("admin.move", s.id, reason="paused") for s in savers)
        await asyncio.sleep(0.5)
        worker.send(signal.SIGCONT)
        await asyncio.sleep(0.5)
