//! A client and its coordinator in one: requests with retries, routed to the session's owner; locks by compare-and-set.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::error::{Code, Reason};
use holdfast_protocol::internal::Hint;
use holdfast_protocol::record::{EventType, State};
use holdfast_protocol::reply::Grant;
use holdfast_protocol::request::{Acquire, Takeover};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, RequestId, Revision, SessionRecord};
use holdfast_rules::{Asked as LockAsked, Decision, acquire, release, takeover};
use holdfast_store::LEASE_TTL;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Dice;
use super::world::{Asked, Attempt, Noted, Outcome, Told, World};
use crate::letter::{Answer, Call};

pub(super) struct Client {
    number: u64,
    world: Arc<World>,
    dice: Dice,
    made: u64,
    /// The token of its last grant, good or not.
    token: Option<String>,
    /// The document's revision, as far as it knows.
    revision: u64,
    /// The record, as far as its coordinator knows.
    record: Option<Hint>,
    /// What it asked before, to be asked again.
    asked: Vec<(Verb, RequestId, Value)>,
}

impl Client {
    pub(super) fn new(number: u64, world: Arc<World>, dice: Dice) -> Self {
        Self { number, world, dice, made: 0, token: None, revision: 0, record: None, asked: Vec::new() }
    }

    pub(super) async fn work(mut self, requests: u64) {
        for _ in 0..requests {
            match self.dice.below(100) {
                0..=39 => self.change().await,
                40..=49 => self.read().await,
                50..=57 => self.again().await,
                58..=67 => self.acquire().await,
                68..=75 => self.release().await,
                76..=78 => self.take_over().await,
                79..=83 => self.renew().await,
                84..=85 => self.touch().await,
                86..=89 => self.pause(3000).await,
                _ => self.pause(20).await,
            }
        }
    }

    async fn pause(&mut self, up_to_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.dice.below(up_to_ms))).await;
    }

    fn id(&self) -> RequestId {
        RequestId::parse(&format!("c{}-{}", self.number, self.made)).unwrap()
    }

    async fn change(&mut self) {
        self.made += 1;
        let text = format!("<{}-{}>", self.number, self.made);
        let (verb, mut body) = match self.dice.below(10) {
            0 => (Verb::DocUndo, json!({})),
            1 => (Verb::DocRedo, json!({})),
            2 => (Verb::DocEdit, json!({ "body": text })),
            3 => (Verb::DocEdit, json!({ "fields": { (text): self.made, "a": null } })),
            4 => (Verb::DocEdit, json!({ "splices": [{ "at": self.dice.below(30), "delete": 1, "insert": "é" }] })),
            _ => (Verb::DocEdit, json!({ "splices": [{ "at": 0, "delete": 0, "insert": text }] })),
        };
        if self.dice.percent(20) {
            body["expected_revision"] = self.revision.into();
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.dice.percent(90)) {
            body["token"] = token.as_str().into();
        }
        let id = self.id();
        if self.dice.percent(80) {
            body["request_id"] = id.as_str().into();
        }
        self.asked.push((verb, id.clone(), body.clone()));
        self.ask(verb, id, body).await;
    }

    /// The same request once more.
    async fn again(&mut self) {
        let recent = self.asked.len().min(5) as u64;
        if recent > 0 {
            let back = usize::try_from(1 + self.dice.below(recent)).unwrap();
            let (verb, id, body) = self.asked[self.asked.len() - back].clone();
            self.ask(verb, id, body).await;
        }
    }

    async fn read(&mut self) {
        self.made += 1;
        let consistency = if self.dice.percent(50) { "linearizable" } else { "local" };
        self.ask(Verb::DocGet, self.id(), json!({ "consistency": consistency })).await;
    }

    async fn renew(&mut self) {
        if let Some(token) = self.token.clone() {
            self.made += 1;
            self.ask(Verb::LockRenew, self.id(), json!({ "token": token })).await;
        }
    }

    async fn touch(&mut self) {
        self.made += 1;
        self.ask(Verb::SessionTouch, self.id(), json!({})).await;
    }

    /// Reads until there is an answer.
    pub(super) async fn must_read(&mut self) {
        for _ in 0..5 {
            self.made += 1;
            if let Outcome::Done(_) = self.ask(Verb::DocGet, self.id(), json!({"consistency": "linearizable"})).await {
                return;
            }
        }
        panic!("the session cannot be read without any fault: {:?}", self.world.peek().await);
    }

    async fn ask(&mut self, verb: Verb, id: RequestId, body: Value) -> Outcome {
        let began_at = self.world.memory.last_sequence();
        let (told_before, told_long_before) = {
            let notes = self.world.notes.lock().unwrap();
            (notes.told(Duration::ZERO), notes.told(LEASE_TTL))
        };
        let linearizable = body["consistency"] == "linearizable";
        let token = body["token"].as_str().map(str::to_owned);
        let (outcome, life) = self.route(verb, &id, body.to_string().into()).await;
        if let Outcome::Done(reply) = &outcome {
            let reply: Value = serde_json::from_str(reply).unwrap();
            self.revision = reply["revision"].as_u64().unwrap_or(self.revision);
        }
        let mut notes = self.world.notes.lock().unwrap();
        if (verb != Verb::DocGet || linearizable && life.is_some()) && matches!(outcome, Outcome::Done(_)) {
            // A late copy of a change may be answered by a later life than the one that has it.
            let (life, request_id) = (life.filter(|_| linearizable), id.clone());
            notes.told.push(Told { at: Instant::now(), life, request_id, revision: self.revision });
        }
        let fresh = notes.requests.len();
        let place = *notes.by_id.entry(id.clone()).or_insert(fresh);
        if place == fresh {
            let noted = Noted { client: self.number, verb, token, linearizable, attempts: Vec::new() };
            notes.requests.push((id, noted));
        }
        let attempt = Attempt { began_at, told_before, told_long_before, life, outcome: outcome.clone() };
        notes.requests[place].1.attempts.push(attempt);
        outcome
    }

    /// To the owner, wherever it is; and for which life of the session it was said to be.
    async fn route(&mut self, verb: Verb, id: &RequestId, payload: Bytes) -> (Outcome, Option<u64>) {
        for attempt in 0..6 {
            let Some(hint) = self.known_record(attempt > 0).await else {
                self.pause(200).await;
                continue;
            };
            if hint.record.state == State::Closed {
                // A no is decided on a fresh read.
                match self.known_record(true).await {
                    Some(hint) if hint.record.state == State::Closed && attempt == 0 => {
                        let error = Error::new(Reason::NoSession, "there is none");
                        return (Outcome::Refused(Box::new(error)), None);
                    }
                    _ => self.pause(200).await,
                }
                continue;
            }
            let Some(node) = self.world.node_of(&hint.record) else {
                self.place(&hint).await;
                continue;
            };
            let life = self.dice.percent(70).then_some(hint.record.log_after);
            let ask = Asked { payload: payload.clone(), revision: hint.revision, request_id: id.clone(), life };
            match node.ask(&self.world.key, Call::Verb(verb), ask).await {
                Some(Answer::Done(reply)) => {
                    return (Outcome::Done(String::from_utf8(reply.to_vec()).unwrap()), life);
                }
                // An agent that answered *moved* before may have written a frame, whose outcome nobody knows.
                Some(Answer::Refused(error)) if error.reason == Reason::NoSession && attempt > 0 => break,
                Some(Answer::Refused(error)) => return (Outcome::Refused(error), life),
                Some(Answer::Moved) => {}
                None => break,
            }
        }
        // An agent that answers *moved* may have written a frame before, whose outcome it does not know.
        (Outcome::Unknown, None)
    }

    /// From the cache most of the time, unless it must be `fresh`.
    async fn known_record(&mut self, fresh: bool) -> Option<Hint> {
        if fresh || self.record.is_none() || self.dice.percent(30) {
            let read = self.world.read_record().await.ok()??;
            if self.record.as_ref().is_none_or(|known| known.revision < read.revision) {
                self.record = Some(read);
            }
        }
        self.record.clone()
    }

    /// Gives the session to somebody who is there.
    async fn place(&mut self, hint: &Hint) {
        let node = self.world.any_node();
        if let Ok(given) = self.world.give_to(hint, &node, EventType::SessionActivated).await {
            self.record = Some(given.clone());
            if self.dice.percent(70) {
                self.world.activate(&node, given).await;
            }
        }
    }

    /// Decides on the record and writes it, as a coordinator does.
    async fn decide<T>(
        &mut self,
        decide: impl Fn(&SessionRecord, Revision, &LockAsked<'_>) -> Decision<T>,
    ) -> Option<T> {
        let (request_id, nonce, secret) =
            (RequestId::made(self.world.fresh()), self.world.fresh(), self.world.secret.clone());
        let asked =
            LockAsked { request_id: &request_id, by_caller: false, actor: None, at: "now", nonce, secret: &secret };
        for attempt in 0..3 {
            let hint = self.known_record(attempt > 0).await?;
            if hint.record.state == State::Closed {
                continue;
            }
            match decide(&hint.record, hint.revision, &asked) {
                Decision::Unchanged(reply) | Decision::Note { reply, .. } => return Some(reply),
                Decision::Refuse(_) => {}
                Decision::Commit { next, reply } => {
                    if let Ok(written) = self.world.write_record(hint.revision, &next).await {
                        self.record = Some(written.clone());
                        self.tell(written).await;
                        return Some(reply);
                    }
                }
            }
        }
        None
    }

    /// Sometimes the owner is told of the new record, sometimes not.
    async fn tell(&mut self, hint: Hint) {
        if self.dice.percent(50)
            && let Some(node) = self.world.node_of(&hint.record)
        {
            let ask = self.world.plain_ask(hint.revision);
            let (world, call) = (self.world.clone(), Call::Hint(Box::new(hint)));
            self.world.tasks.spawn(async move { node.ask(&world.key, call, ask).await });
        }
    }

    fn hold(&mut self, grant: Option<&Grant>) {
        if let Some(grant) = grant {
            self.token = Some(grant.lock_token.to_string());
        }
    }

    async fn acquire(&mut self) {
        let ttl_ms = self.dice.percent(50).then(|| 1000 + self.dice.below(2000));
        let acquire: Acquire =
            serde_json::from_value(json!({ "owner": format!("c{}", self.number), "ttl_ms": ttl_ms })).unwrap();
        let grant = self.decide(|record, at, asked| acquire::acquire(record, at, &acquire, asked)).await;
        self.hold(grant.as_ref());
    }

    async fn release(&mut self) {
        let Some(token) = self.token.clone() else { return };
        if self.decide(|record, at, asked| release::release(record, at, &token, asked)).await.is_some()
            && self.dice.percent(70)
        {
            self.token = None;
        }
    }

    async fn take_over(&mut self) {
        let takeover = json!({ "owner": format!("c{}", self.number), "reason": "stuck" });
        let takeover: Takeover = serde_json::from_value(takeover).unwrap();
        let taken = self.decide(|record, at, asked| takeover::takeover(record, at, &takeover, asked)).await;
        self.hold(taken.as_ref().map(|taken| &taken.grant));
    }
}

/// Whether a refusal says that the change was not made.
pub(super) fn is_definite(error: &Error) -> bool {
    error.code != Code::UnknownOutcome
}
