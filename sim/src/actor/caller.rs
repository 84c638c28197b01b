//! Asking: a request under its own id, retries where it was not answered, and late copies on purpose.

use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::WorkerName;
use holdfast_protocol::subject::{Root, Target, Verb};
use holdfast_store::chance::Dice;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::client::{Client, Reply};
use crate::history::{Copy, Outcome, Request};
use crate::plan::place;
use crate::world::{World, key};

/// How long an answer is waited for, beside the wait for a lock: the coordinator's own time for a request and some.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);
/// How many times a request is sent at most.
const TRIES: u32 = 4;

/// Whoever asks.
pub struct Caller {
    /// Its name.
    pub name: String,
    /// Its chances.
    pub dice: Dice,
    /// Where it is.
    pub world: Arc<World>,
    client: Client,
    connections: u64,
    made: u64,
    /// What it asked, to be asked again.
    asked: Vec<usize>,
}

/// A request that is being made.
pub(crate) struct Asking {
    pub(crate) verb: Verb,
    /// The session or worker, where the subject names one.
    pub(crate) target: String,
    pub(crate) body: Value,
}

impl Caller {
    /// Somebody new with a connection of its own.
    pub fn new(name: &str, world: &Arc<World>, dice: Dice) -> Self {
        let client = Client::new(world.net.connect(name));
        let (name, world) = (name.to_owned(), world.clone());
        Self { name, dice, world, client, connections: 1, made: 0, asked: Vec::new() }
    }

    /// Waits for a while.
    pub async fn pause(&mut self, most: Duration) {
        let ms = u64::try_from(most.as_millis()).unwrap_or(u64::MAX).max(1);
        sleep(Duration::from_millis(self.dice.below(ms))).await;
    }

    fn note(&mut self, asking: Asking) -> usize {
        self.made += 1;
        let Asking { verb, target, mut body } = asking;
        let id = format!("{}-{}", self.name, self.made);
        body["request_id"] = json!(id);
        let request = Request { id, client: self.name.clone(), verb, session: target, body, attempts: Vec::new() };
        let number = self.world.history.request(request);
        self.asked.push(number);
        number
    }

    fn subject(verb: Verb, target: &str) -> String {
        let root = Root::default();
        match verb.target() {
            Target::Session => root.session_request(verb, &key(target)),
            Target::Namespace => root.namespace_request(verb, &key("s1").namespace),
            Target::Worker => root.sys_request(verb, WorkerName::parse(target).ok().as_ref()),
            Target::Fleet => root.sys_request(verb, None),
        }
    }

    /// Makes a request, and makes it again while it is not answered for good.
    pub(crate) async fn ask(&mut self, verb: Verb, target: &str, body: Value) -> Reply {
        let number = self.note(Asking { verb, target: target.to_owned(), body });
        let mut reply = if self.dice.happens(80) { self.twice(number).await } else { self.send(number).await };
        for _ in 1..TRIES {
            if !reply.is_retryable() || self.dice.happens(150) {
                break;
            }
            let most = if self.dice.happens(200) { 5_000 } else { 400 };
            self.pause(Duration::from_millis(most)).await;
            reply = self.send(number).await;
        }
        reply
    }

    /// Makes a request and goes away while it waits.
    pub(crate) async fn ask_and_leave(&mut self, verb: Verb, target: &str, body: Value, after: Duration) {
        let number = self.note(Asking { verb, target: target.to_owned(), body });
        let is_killed = self.dice.happens(500);
        let (copy, answered) = {
            let Some((copy, mut pending)) = self.begin(number).await else { return };
            let answered = timeout(after, pending.answer(PATIENCE)).await;
            if answered.is_err() && is_killed {
                self.client.process().kill();
            }
            (copy, answered)
        };
        let outcome = answered.map_or(Outcome::Left, Outcome::Answered);
        if outcome == Outcome::Left {
            self.world.history.note(self.world.now(), format!("{} leaves while it waits", self.name));
            if is_killed {
                self.connections += 1;
                self.client = Client::new(self.world.net.connect(&format!("{}.{}", self.name, self.connections)));
            }
        }
        self.world.history.ended(copy, self.world.now(), outcome);
    }

    /// One of its last requests once more.
    pub(crate) async fn again(&mut self) {
        let recent = self.asked.len().min(8);
        if recent > 0 {
            let back = 1 + place(&mut self.dice, recent);
            let number = self.asked[self.asked.len() - back];
            self.send(number).await;
        }
    }

    /// Two copies of one request, the second one before the first is answered.
    async fn twice(&mut self, number: usize) -> Reply {
        let pause = Duration::from_millis(self.dice.below(1_500));
        let late = async {
            sleep(pause).await;
            self.send(number).await
        };
        let (first, second) = tokio::join!(biased; self.send(number), late);
        if matches!(first, Reply::Done(_)) { first } else { second }
    }

    async fn begin(&self, number: usize) -> Option<(Copy, crate::client::Pending)> {
        let (subject, body) = self
            .world
            .history
            .look(number, |request| (Self::subject(request.verb, &request.session), request.body.clone()));
        // Time passes between two requests; a fresh read is one that began after the request came.
        sleep(Duration::from_millis(1)).await;
        let pending = self.client.begin(&subject, &body).await.ok()?;
        let copy = self.world.history.sent(number, self.world.now(), &pending.inbox);
        Some((copy, pending))
    }

    /// Sends a request once.
    async fn send(&self, number: usize) -> Reply {
        let Some((copy, mut pending)) = self.begin(number).await else { return Reply::Silence };
        let wait = self.world.history.look(number, |request| request.body["wait_ms"].as_u64().unwrap_or(0));
        let reply = pending.answer(PATIENCE + Duration::from_millis(wait)).await;
        drop(pending);
        self.world.history.ended(copy, self.world.now(), Outcome::Answered(reply.clone()));
        reply
    }
}
