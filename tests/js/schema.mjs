// Whether the schemas are true, by validators that others wrote:
//
//   cd tests/js && npm install --no-package-lock && HOLDFAST_BIN=../../target/debug/holdfast node schema.mjs
//
// 1. Each golden file is what its schema says, and stops being so when a member is spoilt.
// 2. `holdfast schema --asyncapi` is a valid AsyncAPI document.
// 3. Each reply, error and signal of a running fleet is what its schema says, and so is what the micro service reports.

import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { Parser } from "@asyncapi/parser";
import { connect } from "@nats-io/transport-node";
import Ajv2020 from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

const here = fileURLToPath(new URL(".", import.meta.url));
const bin = process.env.HOLDFAST_BIN ?? join(here, "../../target/debug/holdfast");
const golden = join(here, "../../protocol/tests/golden");

const contract = JSON.parse(execFileSync(bin, ["schema"], { encoding: "utf8", maxBuffer: 1 << 24 }));
const schemas = contract.$defs;
// Annotations of ours are no mistakes; a misspelt keyword would be.
const ajv = addFormats(new Ajv2020({ allErrors: true, strictTypes: false, strictRequired: false }));
const validators = Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, ajv.compile(schema)]));

function complaints(name, value) {
  if (!validators[name]) return `there is no schema ${name}`;
  return validators[name](value) ? null : ajv.errorsText(validators[name].errors, { dataVar: name });
}

function must(condition, what) {
  if (!condition) throw new Error(what);
}

function fits(name, value, what) {
  const why = complaints(name, value);
  must(why === null, `${what}: ${why}\n${JSON.stringify(value)}`);
}

function fitsNot(name, value, what) {
  must(complaints(name, value) !== null, `${what} should not fit ${name}: ${JSON.stringify(value)}`);
}

/** The schema of a golden file: `reply/doc.get.diverged.json` is of `reply.doc.get`. */
function schemaOf(folder, file, value) {
  const words = file.split(".");
  switch (folder) {
    case "error":
    case "record":
      return folder;
    case "signal":
      return `signal.${value.type.split(".")[1]}`;
    case "act":
      return `act.${words[0]}`;
    default:
      return `${folder}.${words[0]}.${words[1]}`;
  }
}

function checkGolden() {
  const seen = new Set();
  let files = 0;
  for (const folder of ["request", "reply", "error", "record", "signal", "act"]) {
    for (const file of readdirSync(join(golden, folder))) {
      const value = JSON.parse(readFileSync(join(golden, folder, file), "utf8"));
      const name = schemaOf(folder, file, value);
      fits(name, value, `${folder}/${file}`);
      for (const member of schemas[name].required ?? []) {
        const { [member]: _, ...rest } = value;
        fitsNot(name, rest, `${folder}/${file} without ${member}`);
      }
      for (const member of Object.keys(value)) {
        const isObject = value[member] !== null && typeof value[member] === "object" && !Array.isArray(value[member]);
        const spoilt = { ...value, [member]: isObject ? 7 : { no: [1] } };
        fitsNot(name, spoilt, `${folder}/${file} with another ${member}`);
      }
      const more = { ...value, more_than_known: 1 };
      if (folder === "request" || folder === "record") fitsNot(name, more, `${folder}/${file} with an unknown member`);
      else fits(name, more, `${folder}/${file}, whose readers ignore unknown members,`);
      seen.add(name);
      files += 1;
    }
  }
  const unseen = Object.keys(schemas).filter((name) => !seen.has(name));
  must(unseen.length === 0, `no golden file is of ${unseen}`);
  console.log(`${files} golden files fit their schemas, and do not when they are spoilt`);
}

async function checkAsyncapi() {
  const text = execFileSync(bin, ["schema", "--asyncapi"], { encoding: "utf8", maxBuffer: 1 << 24 });
  const { document, diagnostics } = await new Parser().parse(text);
  const errors = diagnostics.filter((diagnostic) => diagnostic.severity === 0);
  must(errors.length === 0 && document, `AsyncAPI: ${JSON.stringify(errors, null, 1)}`);
  const broken = JSON.parse(text);
  delete broken.channels["session.open"];
  const after = await new Parser().parse(JSON.stringify(broken));
  must(after.diagnostics.some((diagnostic) => diagnostic.severity === 0), "the parser accepts a dangling reference");
  const operations = document.operations().all().length;
  console.log(`the AsyncAPI document has ${operations} operations on ${document.channels().all().length} channels`);
}

function freePort() {
  return new Promise((done) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => done(port));
    });
  });
}

async function until(what, seconds, look) {
  const deadline = Date.now() + seconds * 1000;
  let last;
  while (Date.now() < deadline) {
    try {
      const found = await look();
      if (found) return found;
    } catch (error) {
      last = error;
    }
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`${what} did not happen within ${seconds} s: ${last ?? ""}`);
}

/** Asks every verb and checks every answer. */
async function checkFleet() {
  const folder = mkdtempSync(join(tmpdir(), "holdfast-schema-"));
  const data = join(folder, "data");
  const up = spawn(bin, ["up", "--port", String(await freePort()), "--data", data, "--workers", "2"], {
    stdio: ["ignore", "ignore", "inherit"],
    cwd: folder,
  });
  const ended = new Promise((done) => up.on("exit", done));
  try {
    const context = await until("`holdfast up`", 60, () =>
      JSON.parse(readFileSync(join(data, "config/nats/context/ops.json"), "utf8")),
    );
    const nc = await until("a connection", 60, () =>
      connect({ servers: context.url, user: context.user, pass: context.password, inboxPrefix: context.inbox_prefix }),
    );
    await askEverything(nc);
    await nc.close();
  } finally {
    up.kill("SIGINT");
    await ended;
    rmSync(folder, { recursive: true, force: true });
  }
}

async function askEverything(nc) {
  const asked = new Set();
  const signals = { session: 0, lock: 0, doc: 0 };
  const wrong = [];
  nc.subscribe("hf.*.signal.>", {
    callback: (_, message) => {
      const group = message.subject.split(".")[4];
      signals[group] += 1;
      const why = complaints(`signal.${group}`, message.json());
      if (why) wrong.push(`${message.subject}: ${why}`);
    },
  });

  async function ask(verb, tail, body, namespace = "default") {
    const target = verb.startsWith("worker.") || verb === "admin.rotate_secret" ? "sys" : namespace;
    const subject = ["hf", target, verb, ...(tail ? [tail] : [])].join(".");
    fits(`request.${verb}`, body, `the request ${verb}`);
    const answer = await nc.request(subject, JSON.stringify(body), { timeout: 15_000 });
    const reply = answer.json();
    if (answer.headers?.get("Nats-Service-Error-Code")) {
      fits("error", reply, `the error of ${verb}`);
      return { error: reply.error };
    }
    fits(`reply.${verb}`, reply, `the reply to ${verb}`);
    asked.add(verb);
    return reply;
  }

  async function refused(verb, tail, body, reason) {
    const { error } = await ask(verb, tail, body);
    must(error?.reason === reason, `${verb} should be refused as ${reason}: ${JSON.stringify(error)}`);
  }

  const open = { path: "notes/plan.md", config: { on_idle: "passivate", idle_timeout_ms: 60_000 }, actor: "schema" };
  const file = await until("the fleet", 60, async () => {
    const opened = await ask("session.open", null, open);
    if (opened.error) throw new Error(opened.error.message);
    return opened.id;
  });
  await ask("session.open", null, { id: "s1", content: { body: "a", fields: { deep: { list: [1, null] } } } });
  await ask("session.get", "s1", {});
  await ask("session.list", null, { limit: 10 });
  await ask("session.touch", "s1", {});
  const grant = await ask("lock.acquire", "s1", { owner: "ann", ttl_ms: 60_000 });
  const token = grant.lock_token;
  await ask("lock.validate", "s1", { token });
  await ask("lock.renew", "s1", { token });
  await refused("lock.acquire", "s1", { owner: "bob" }, "lock_held");
  await refused("doc.edit", "s1", { body: "b" }, "lock_held");
  await ask("doc.edit", "s1", { token, body: "b", fields: { title: "t" } });
  await ask("doc.edit", "s1", { token, splices: [{ at: 0, delete: 1, insert: "ü" }], expected_revision: 1 });
  await refused("doc.edit", "s1", { token, body: "c", expected_revision: 0 }, "revision_mismatch");
  await ask("doc.undo", "s1", { token });
  await ask("doc.redo", "s1", { token });
  await ask("doc.get", "s1", { consistency: "linearizable" });
  await ask("admin.takeover", "s1", { owner: "ops", reason: "schemas" });
  await refused("lock.renew", "s1", { token }, "stale_token");
  await ask("admin.preview", "s1", {});
  await ask("admin.unlock", "s1", { reason: "schemas" });
  await ask("lock.acquire", "s1", { owner: "ann" });
  await ask("admin.unlock", "s1", { reason: "schemas" });
  const again = await ask("lock.acquire", "s1", { owner: "ann" });
  await ask("lock.release", "s1", { token: again.lock_token });
  await ask("doc.edit", file, { body: "text" });
  await ask("doc.save", file, {});
  await ask("doc.load", file, {});
  await refused("doc.save", "s1", {}, "no_file");
  await ask("admin.move", "s1", { reason: "schemas" });
  const { workers } = await ask("worker.list", null, {});
  must(workers.length === 2, JSON.stringify(workers));
  await ask("worker.drain", workers[0].worker, { reason: "schemas" });
  await ask("worker.undrain", workers[0].worker, { reason: "schemas" });
  await ask("admin.reclaim", null, { max_idle_ms: 3_600_000 });
  await ask("admin.rotate_secret", null, { reason: "schemas" });
  await ask("session.close", "s1", {});
  await refused("session.get", "nobody", {}, "no_session");

  const verbs = Object.keys(schemas).filter((name) => name.startsWith("reply.")).map((name) => name.slice(6));
  const unasked = verbs.filter((verb) => !asked.has(verb));
  must(unasked.length === 0, `no reply was seen of ${unasked}`);
  await until("signals of each group", 20, () => Object.values(signals).every((count) => count > 0));
  must(wrong.length === 0, wrong.join("\n"));
  console.log(`replies of ${verbs.length} verbs and ${Object.values(signals).reduce((a, b) => a + b)} signals fit`);

  await checkServices(nc, verbs, workers);
}

/** What the micro services report: the schemas of each endpoint, and that each worker answers under its own name. */
async function checkServices(nc, verbs, workers) {
  const info = (await nc.request("$SRV.INFO.holdfast", "", { timeout: 10_000 })).json();
  must(info.endpoints.length === verbs.length, `${info.endpoints.length} endpoints`);
  for (const endpoint of info.endpoints) {
    const verb = endpoint.name.replace("-", ".");
    const same = (text, name) => JSON.stringify(JSON.parse(text)) === JSON.stringify(schemas[name]);
    must(same(endpoint.metadata.request_schema, `request.${verb}`), `request_schema of ${verb}`);
    must(same(endpoint.metadata.response_schema, `reply.${verb}`), `response_schema of ${verb}`);
  }
  const stats = (await nc.request("$SRV.STATS.holdfast", "", { timeout: 10_000 })).json();
  const errors = stats.endpoints.filter((endpoint) => endpoint.num_errors > 0);
  must(errors.length === 0, `conflicts are no errors of the service: ${JSON.stringify(errors)}`);
  const found = new Set();
  for await (const pong of await nc.requestMany("$SRV.PING.holdfast-worker", "", { maxMessages: 2, maxWait: 10_000 })) {
    found.add(pong.json().metadata.worker);
  }
  must(workers.every(({ worker }) => found.has(worker)), `workers that answer: ${[...found]}`);
  console.log(`${info.endpoints.length} endpoints have their schemas, and ${found.size} workers answer as services`);
}

checkGolden();
await checkAsyncapi();
await checkFleet();
