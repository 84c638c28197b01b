// Two programs and an operator work on one document.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { type Grant, Holdfast, Refused } from "./holdfast.js";

/** A row of a database, for the example: it refuses a writer whose fence is smaller than the one stored beside it. */
class Row {
  text = "";
  private fence = 0;

  write(text: string, fence: number): boolean {
    if (fence < this.fence) return false;
    [this.text, this.fence] = [text, fence];
    return true;
  }
}

/** The refusal of `request`, which must be refused. */
async function refusal(request: Promise<unknown>): Promise<Refused> {
  try {
    await request;
  } catch (error) {
    if (error instanceof Refused) return error;
    throw error;
  }
  throw new Error("it was not refused");
}

const ann = await Holdfast.connect("client", "ann's editor");
const bob = await Holdfast.connect("client", "bob's editor");
const operator = await Holdfast.connect("ops", "on call");
const plan = `plan-${randomUUID().slice(0, 8)}`;

ann.nats.subscribe(`hf.default.signal.${plan}.>`, {
  callback: (_error, signal) => {
    const event = signal.json<{ type: string; data: { actor?: string } }>();
    console.log(`signal: ${event.type} by ${event.data.actor}`);
  },
});

// Open the session, take its lock for 30 s, and edit under the token.
await ann.ask("session.open", null, { id: plan, content: { body: "# Plan\n" } });
const grant = await ann.ask<Grant>("lock.acquire", plan, { owner: "ann", ttl_ms: 30_000 });
const edited = await ann.ask<{ revision: number }>("doc.edit", plan, {
  token: grant.lock_token,
  splices: [{ at: 7, delete: 0, insert: "1. Ship.\n" }],
});
console.log(`ann edited revision ${edited.revision}`);

// A conflict explains itself.
const held = await refusal(bob.ask("lock.acquire", plan, { owner: "bob", ttl_ms: 30_000 }));
const { owner, held_for_ms } = held.error.details;
console.log(`bob is refused: ${owner} holds it for ${held_for_ms} ms; can do: ${held.error.actions.join(", ")}`);

// The holder also writes to a database: each grant has a fence, which only rises.
const row = new Row();
console.log(`ann's write to the database: ${row.write("by ann", grant.fence)}`);

// An operator takes the lock over. From this moment ann's token and ann's fence are refused.
const taken = await operator.ask<Grant & { previous_owner: string }>("admin.takeover", plan, {
  owner: "bob",
  reason: "ann's editor hangs",
  ttl_ms: 30_000,
});
console.log(`taken over from ${taken.previous_owner}`);
const stale = await refusal(ann.ask("doc.edit", plan, { token: grant.lock_token, body: "too late" }));
console.log(`ann is refused: ${stale.error.reason}, the lock is ${stale.error.details.owner}'s`);
console.log(`bob's write to the database: ${row.write("by bob", taken.fence)}`);
console.log(`ann's late write to the database: ${row.write("by ann", grant.fence)}`);

await bob.ask("doc.edit", plan, { token: taken.lock_token, fields: { status: "shipped" } });
await bob.ask("lock.release", plan, { token: taken.lock_token });
const document = await bob.ask<{ body: string; fields: object }>("doc.get", plan, {});
console.log(`the document: ${JSON.stringify(document.body)} ${JSON.stringify(document.fields)}`);

await sleep(1000); // the last signals
for (const program of [ann, bob, operator]) await program.nats.drain();
