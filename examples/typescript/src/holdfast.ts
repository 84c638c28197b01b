// Requests of one program, over plain NATS: a subject and a JSON body. No library of Holdfast is needed.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, errors, type NatsConnection } from "@nats-io/transport-node";

export interface HoldfastError {
  code: string;
  reason: string;
  message: string;
  retryable: boolean;
  retry_after_ms?: number;
  details: Record<string, unknown>;
  actions: string[];
  request_id: string;
}

/** A refusal: `error` says who, since when, until when, and what can be done. */
export class Refused extends Error {
  constructor(readonly error: HoldfastError) {
    super(`${error.code}/${error.reason}: ${error.message}`);
  }
}

export interface Grant {
  session_id: string;
  owner: string;
  lock_token: string;
  lock_revision: number;
  ttl_ms: number | null;
  /** Rises with every grant of this session: the fencing token for what is written elsewhere. */
  fence: number;
}

/** A context file, as `holdfast up` and the `nats` CLI write it. */
interface Context {
  url: string;
  user: string;
  password: string;
  inbox_prefix: string;
}

const CONTEXTS = process.env.HOLDFAST_CONTEXTS ?? ".holdfast/config/nats/context";

export class Holdfast {
  private constructor(readonly nats: NatsConnection, private readonly actor: string) {}

  /** Connects with the context file of a role: `client` for programs, `ops` for operators. */
  static async connect(role: string, actor: string): Promise<Holdfast> {
    const context = JSON.parse(readFileSync(join(CONTEXTS, `${role}.json`), "utf8")) as Context;
    const nats = await connect({
      servers: context.url,
      user: context.user,
      pass: context.password,
      inboxPrefix: context.inbox_prefix,
    });
    return new Holdfast(nats, actor);
  }

  /** Sends one request. A retry with the same `request_id` never takes a second effect, so it may be repeated. */
  async ask<Reply>(verb: string, session: string | null, members: object): Promise<Reply> {
    const subject = session === null ? `hf.default.${verb}` : `hf.default.${verb}.${session}`;
    const body = JSON.stringify({ request_id: randomUUID(), actor: this.actor, ...members });
    for (let attempt = 0; attempt < 5; attempt++) {
      let reply: Reply & { error?: HoldfastError };
      try {
        reply = (await this.nats.request(subject, body, { timeout: 5000 })).json();
      } catch (error) {
        if (!(error instanceof errors.TimeoutError || error instanceof errors.RequestError)) throw error;
        await sleep(100 * 2 ** attempt);
        continue;
      }
      if (!reply.error) return reply;
      if (!reply.error.retryable || reply.error.code === "conflict") throw new Refused(reply.error);
      await sleep(reply.error.retry_after_ms ?? 100);
    }
    throw new Error(`${subject} was not answered`);
  }
}
