//! One agent at a time, in a world without chance: what it answers, when it leaves, and what it survives.

mod commit;
mod crash;
mod idle;
mod lease;
mod leave;
mod lives;
mod mailbox;
mod memory;
mod owner;
mod pace;
mod reach;
mod recovery;
mod save;
mod world;

use std::sync::Arc;

use holdfast_protocol::error::Reason;
use holdfast_protocol::internal::{Activate, Hint};
use holdfast_protocol::record::EventType;
use holdfast_protocol::reply::Grant;
use holdfast_protocol::request::{Acquire, Takeover};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{RequestId, Revision, SessionRecord};
use holdfast_rules::{Asked as LockAsked, Decision, acquire, takeover};
use serde_json::{Value, json};

use crate::letter::{Answer, Call};
use world::{Asked, Node, Opening, World};

fn asked(world: &World, body: &Value, revision: Revision) -> Asked {
    let plain = world.plain_ask(revision);
    let request_id = body["request_id"].as_str().map(|id| RequestId::parse(id).unwrap());
    Asked { payload: body.to_string().into(), request_id: request_id.unwrap_or(plain.request_id), ..plain }
}

/// A request as a coordinator relays it that knows `revision` of the record.
async fn ask_knowing(world: &World, node: &Node, verb: Verb, body: &Value, revision: Revision) -> Option<Answer> {
    node.ask(&world.key, Call::Verb(verb), asked(world, body, revision)).await
}

async fn ask(world: &World, node: &Node, verb: Verb, body: Value) -> Option<Answer> {
    ask_knowing(world, node, verb, &body, Revision(0)).await
}

async fn done(world: &World, node: &Node, verb: Verb, body: Value) -> Value {
    match ask(world, node, verb, body).await {
        Some(Answer::Done(reply)) => serde_json::from_slice(&reply).unwrap(),
        other => panic!("{verb} was answered {other:?}"),
    }
}

async fn refused(world: &World, node: &Node, verb: Verb, body: Value) -> Reason {
    match ask(world, node, verb, body).await {
        Some(Answer::Refused(error)) => error.reason,
        other => panic!("{verb} was answered {other:?}"),
    }
}

/// An edit that puts `text` in front.
fn edit(text: &str) -> Value {
    json!({ "splices": [{ "at": 0, "delete": 0, "insert": text }] })
}

async fn body(world: &World, node: &Node) -> String {
    done(world, node, Verb::DocGet, json!({})).await["body"].as_str().unwrap().to_owned()
}

async fn record(world: &World) -> SessionRecord {
    world.peek().await.unwrap()
}

async fn hint(world: &World) -> Hint {
    world.read_record().await.unwrap().unwrap()
}

/// Takes or takes over the lock, and tells nobody.
async fn grant<T>(
    world: &World,
    decide: impl FnOnce(&SessionRecord, Revision, &LockAsked<'_>) -> Decision<T>,
) -> (T, Hint) {
    let known = hint(world).await;
    let (request_id, nonce) = (RequestId::made(world.fresh()), world.fresh());
    let asked = LockAsked {
        request_id: &request_id,
        by_caller: false,
        actor: None,
        actor_proven: None,
        at: "now",
        nonce,
        secret: &world.secret,
    };
    match decide(&known.record, known.revision, &asked) {
        Decision::Commit { next, reply } => (reply, world.write_record(known.revision, &next).await.unwrap()),
        _ => panic!("the lock is not free"),
    }
}

async fn acquire(world: &World, owner: &str, ttl_ms: Option<u64>) -> (Grant, Hint) {
    let acquire: Acquire = serde_json::from_value(json!({ "owner": owner, "ttl_ms": ttl_ms })).unwrap();
    grant(world, |record, at, asked| acquire::acquire(record, at, &acquire, asked)).await
}

async fn take_over(world: &World, owner: &str) -> (Grant, Hint) {
    let takeover: Takeover = serde_json::from_value(json!({ "owner": owner, "reason": "stuck" })).unwrap();
    let (taken, hint) = grant(world, |record, at, asked| takeover::takeover(record, at, &takeover, asked)).await;
    (taken.grant, hint)
}

async fn tell(world: &World, node: &Node, hint: Hint) {
    let ask = world.plain_ask(hint.revision);
    node.ask(&world.key, Call::Hint(Box::new(hint)), ask).await;
}

/// Gives the session to `node`; its owner is not told.
async fn give(world: &World, node: &Node) -> Hint {
    let known = hint(world).await;
    let given = world.give_to(&known, node, EventType::SessionMoved).await.unwrap();
    let activated = world.activate(node, given.clone()).await;
    assert!(matches!(activated, Some(Answer::Done(_))), "{activated:?}");
    given
}

/// Tells `node` once more what the session begins with.
async fn activate_with(world: &World, node: &Node, content: Value) -> Option<Answer> {
    let ask = world.plain_ask(Revision(0));
    let activate = Activate {
        hint: hint(world).await,
        created: false,
        content: Some(serde_json::from_value(content).unwrap()),
        request_id: ask.request_id.clone(),
    };
    node.ask(&world.key, Call::Activate(Box::new(activate)), ask).await
}

/// Starts asking, and lets everything run until it waits for the storage.
async fn begin_asking(world: &Arc<World>, node: &Arc<Node>, call: Call, body: Value) -> Pending {
    let ask = asked(world, &body, Revision(0));
    let (world, node, tasks) = (world.clone(), node.clone(), world.tasks.clone());
    let pending = tasks.spawn(async move { node.ask(&world.key, call, ask).await });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    pending
}

type Pending = tokio::task::JoinHandle<Option<Answer>>;

async fn world() -> (Arc<World>, Arc<Node>) {
    world_of(Opening::default()).await
}

async fn world_of(opening: Opening) -> (Arc<World>, Arc<Node>) {
    let world = World::new(opening).await;
    let node = world.node(0);
    (world, node)
}
