//! One run: a fleet, actors, faults; then all is well again, and everything must come to rest.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use holdfast_protocol::frame::Frame;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Revision, SessionKey, SessionRecord};
use holdfast_store::Rollup;
use holdfast_store::chance::Dice;
use holdfast_store::memory::Accepted;
use holdfast_store::net::{Kept, Published};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::actor::{Caller, Saboteur, operate, work};
use crate::fleet::Fleet;
use crate::history::Seen;
use crate::plan::Plan;
use crate::simulate;
use crate::world::World;

/// How long everything has to come to rest: leases of locks and workers, waits, and repeated deliveries.
const REST: Duration = Duration::from_secs(40);

/// One revision of a record.
#[derive(Clone, Debug)]
pub struct Revised {
    /// When it was accepted.
    pub at: Duration,
    /// Which.
    pub revision: Revision,
    /// Whether somebody wrote it by hand.
    pub by_hand: bool,
    /// What was written; `None`: the record was deleted.
    pub json: Option<Bytes>,
    /// What it says, if it parses.
    pub record: Option<SessionRecord>,
}

/// One frame of a log.
#[derive(Clone, Debug)]
pub struct Framed {
    /// When it was accepted.
    pub at: Duration,
    /// Revision of the record at that moment.
    pub fence: Revision,
    /// Its sequence.
    pub sequence: u64,
    /// Whether it replaced those before it.
    pub rollup: Rollup,
    /// What it says.
    pub frame: Frame,
}

/// What was written of one session, in commit order.
#[derive(Clone, Debug)]
pub enum Written {
    /// A revision of its record.
    Record(Box<Revised>),
    /// A frame of its log.
    Frame(Box<Framed>),
}

/// All that is known of a run.
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// What the clients saw.
    pub seen: Seen,
    /// What was written, by session.
    pub sessions: BTreeMap<SessionKey, Vec<Written>>,
    /// What the net took.
    pub published: Vec<Published>,
    /// What the stream of signals has.
    pub kept: Vec<Kept>,
    /// What the stream of acts has.
    pub acts: Vec<Kept>,
    /// When the last fault had ended.
    pub healed: Duration,
}

/// Runs the fleet of `seed`.
///
/// # Errors
/// When a fleet does not start, or a log has what is no frame.
pub fn run(seed: u64) -> Result<Run> {
    simulate(seed, go(Plan::new(seed)))
}

async fn go(plan: Plan) -> Result<Run> {
    let begun = Instant::now();
    let seed = plan.seed;
    let mut dice = Dice::new(seed);
    let fork = |dice: &mut Dice| Dice::new(dice.roll());
    let fleet = Fleet::start(seed, plan.coordinators, plan.workers).await?;
    let world = World::new(fleet.net.clone(), fleet.memory.clone(), plan);

    let mut clients = JoinSet::new();
    for n in 1..=world.plan.clients {
        let caller = Caller::new(&format!("a{n}"), &world, fork(&mut dice));
        clients.spawn(work(caller, world.plan.requests));
    }
    let mut others = JoinSet::new();
    if world.plan.operators {
        others.spawn(operate(Caller::new("op", &world, fork(&mut dice))));
    }
    let saboteur = Saboteur::new(&world, fleet, fork(&mut dice));
    let done = async {
        while let Some(ended) = clients.join_next().await {
            ended.context("a client failed")?;
        }
        world.end();
        anyhow::Ok(())
    };
    let (done, saboteur) = tokio::join!(biased; done, saboteur.meddle());
    done?;
    let saboteur = saboteur?;
    while let Some(ended) = others.join_next().await {
        ended.context("an operator failed")?;
    }
    let healed = world.now();
    world.history.note(healed, "no more faults");
    sleep(REST).await;
    finish(&world, fork(&mut dice)).await;
    sleep(Duration::from_secs(5)).await;

    let mut sessions: BTreeMap<SessionKey, Vec<Written>> = BTreeMap::new();
    for (at, accepted) in world.memory.timeline() {
        let (key, written) = read(at - begun, accepted)?;
        sessions.entry(key).or_default().push(written);
    }
    let (net, seen) = (&saboteur.fleet.net, world.history.all());
    Ok(Run { seed, seen, sessions, published: net.published(), kept: net.kept(), acts: net.acts(), healed })
}

/// The last requests: each session can be opened, read, changed and closed.
async fn finish(world: &std::sync::Arc<World>, dice: Dice) {
    let mut last = Caller::new("last", world, dice);
    for n in 1..=world.plan.workers {
        last.ask(Verb::WorkerUndrain, &format!("w{n}"), json!({ "reason": "the end" })).await;
    }
    for n in 1..=world.plan.configs.len() {
        let id = format!("s{n}");
        last.ask(Verb::SessionOpen, &id, json!({ "id": id })).await;
        last.ask(Verb::AdminUnlock, &id, json!({ "reason": "the end" })).await;
        let grant = last.ask(Verb::LockAcquire, &id, json!({ "owner": "last" })).await;
        let token = match &grant {
            crate::client::Reply::Done(grant) => grant["lock_token"].clone(),
            _ => json!(null),
        };
        let body = json!({ "body": "the end", "token": token });
        last.ask(Verb::DocEdit, &id, body).await;
        last.ask(Verb::DocGet, &id, json!({ "consistency": "linearizable" })).await;
        last.ask(Verb::SessionClose, &id, json!({ "token": token })).await;
    }
}

fn read(at: Duration, accepted: Accepted) -> Result<(SessionKey, Written)> {
    Ok(match accepted {
        Accepted::Record(stored) => {
            let record = stored.value.as_ref().and_then(|json| SessionRecord::from_json(json, &stored.key).ok());
            let by_hand = stored.write_id.is_none();
            let revised = Revised { at, revision: stored.revision, by_hand, json: stored.value, record };
            (stored.key, Written::Record(Box::new(revised)))
        }
        Accepted::Frame { key, fence, sequence, value, rollup, .. } => {
            let frame = Frame::from_json(&value, &key).context("a log has what is no frame")?;
            (key, Written::Frame(Box::new(Framed { at, fence, sequence, rollup, frame })))
        }
    })
}
