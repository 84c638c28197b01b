//! Laws over whole lives of a record: any transitions in any order, with late copies of every request in between.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use holdfast_protocol::id::KindName;
use holdfast_protocol::record::{Lock, Owner, SessionConfig, SessionRecord, State};
use holdfast_protocol::request::{Acquire, Mode, Takeover, Unlock};
use holdfast_protocol::signal::of_event;
use holdfast_protocol::token::Secret;
use holdfast_protocol::{Activation, Boot, Error, RequestId, Revision, SessionKey, WorkerName};
use holdfast_rules::open::{Blank, OpenDecision, Wanted, created, open};
use holdfast_rules::passivate::{Cause, passivate};
use holdfast_rules::place::{fenced, placed};
use holdfast_rules::{Asked, Author, Decision, Past, acquire, close, expire, release, sweep, takeover, unlock};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

#[path = "fixture/lock.rs"]
#[allow(dead_code, reason = "one fixture for several tests")]
mod lock;

use lock::{key, secret};

/// One transition of a record.
#[derive(Clone, Copy, Debug)]
enum Act {
    Open,
    Place(u8),
    Acquire {
        who: u8,
        ttl: bool,
    },
    Rotate,
    Release,
    TakeOver,
    Unlock,
    Expire,
    TakeBack,
    Passivate(u8, bool),
    Sweep,
    Close {
        discard: bool,
    },
    Fence,
    /// A copy of one of the requests before.
    Copy(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Open),
        2 => any::<u8>().prop_map(Act::Place),
        4 => (any::<u8>(), any::<bool>()).prop_map(|(who, ttl)| Act::Acquire { who, ttl }),
        1 => Just(Act::Rotate),
        3 => Just(Act::Release),
        1 => Just(Act::TakeOver),
        1 => Just(Act::Unlock),
        1 => Just(Act::Expire),
        1 => Just(Act::TakeBack),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(cause, saved)| Act::Passivate(cause, saved)),
        1 => Just(Act::Sweep),
        1 => any::<bool>().prop_map(|discard| Act::Close { discard }),
        1 => Just(Act::Fence),
        5 => any::<u8>().prop_map(Act::Copy),
    ]
}

/// A request about a lock, as it may come again.
#[derive(Clone, Debug)]
enum Request {
    Acquire(Acquire),
    Release(String),
    TakeOver(Takeover),
    Unlock(Unlock),
}

/// What a request came to: its answer as text.
type Said = Result<String, Error>;

/// A record, all that was written of it, and all that was asked and granted.
struct Life {
    secret: Secret,
    record: SessionRecord,
    revision: Revision,
    written: Vec<SessionRecord>,
    /// Requests that took effect, with their answers.
    asked: Vec<(RequestId, Request, String)>,
    /// Every token, with the revision whose lock it is the token of.
    tokens: Vec<(String, u64)>,
    ids: u128,
}

fn owner(number: u8) -> Owner {
    Owner {
        worker: WorkerName::parse(&format!("w{}", number % 3)).unwrap(),
        boot: Boot(Uuid::nil()),
        activation: Activation(Uuid::from_u128(u128::from(number))),
        since: "2026-11-22T12:00:00Z".to_owned(),
    }
}

fn blank(expected: Revision, mark: holdfast_protocol::record::Mark, key: &SessionKey) -> SessionRecord {
    let config: SessionConfig =
        serde_json::from_value(json!({"idle_timeout_ms": 1000, "on_idle": "close", "lock": "optional"})).unwrap();
    created(
        Blank { key, file: None, kind: Default::default(), config, owner: owner(0), expected, mark, secret: 0 },
        Author::default(),
    )
}

impl Life {
    fn new() -> Self {
        let record = blank(Revision(0), Default::default(), &key());
        let written = vec![record.clone()];
        let (asked, tokens) = (Vec::new(), Vec::new());
        Self { secret: secret(), record, revision: Revision(1), written, asked, tokens, ids: 0 }
    }

    fn write(&mut self, next: SessionRecord) {
        self.revision = Revision(self.revision.0 + 1);
        self.record = next.clone();
        self.written.push(next);
    }

    /// As the record loop does: what a copy was answered comes before what would be written or refused.
    fn ask(&mut self, id: &RequestId, request: &Request) -> Result<Said, TestCaseError> {
        self.ids += 1;
        let secret = self.secret.clone();
        let asked = Asked {
            request_id: id,
            by_caller: true,
            actor: None,
            actor_proven: None,
            at: "2026-11-22T13:00:00Z",
            nonce: Uuid::from_u128(self.ids),
            secret: &secret,
        };
        let past = Past::new(self.written.clone(), self.revision);
        let (record, at) = (self.record.clone(), self.revision);
        match request {
            Request::Acquire(wants) => {
                let replay = past.grant(&asked).filter(|grant| grant.owner == wants.owner);
                self.settle(acquire::acquire(&record, at, wants, &asked), replay, |grant| grant.lock_token.to_string())
            }
            Request::Release(token) => {
                let replay = past.release(id);
                self.settle(release::release(&record, at, token, &asked), replay, |freed| {
                    freed.lock_revision.to_string()
                })
            }
            Request::TakeOver(wants) => {
                let replay = past.takeover(&asked).filter(|taken| taken.grant.owner == wants.owner);
                let decision = takeover::takeover(&record, at, wants, &asked);
                self.settle(decision, replay, |taken| taken.grant.lock_token.to_string())
            }
            Request::Unlock(wants) => {
                let replay = past.unlock(id);
                let decision = unlock::unlock(&record, at, wants, &asked);
                self.settle(decision, replay, |freed| freed.released.lock_revision.to_string())
            }
        }
    }

    fn settle<R>(
        &mut self,
        decision: Decision<R>,
        replay: Option<R>,
        text: impl Fn(&R) -> String,
    ) -> Result<Said, TestCaseError> {
        let before = self.record.clone();
        Ok(match (decision, replay) {
            (Decision::Note { next, reply }, _) => {
                prop_assert!(next.event.is_none(), "a note is announced to nobody");
                self.write(*next);
                Ok(text(&reply))
            }
            (Decision::Unchanged(reply), _) => Ok(text(&reply)),
            (Decision::Commit { .. } | Decision::Refuse(_), Some(first)) => Ok(text(&first)),
            (Decision::Commit { next, reply }, None) => {
                prop_assert_eq!(next.lock_revision, before.lock_revision + 1);
                self.write(*next);
                Ok(text(&reply))
            }
            (Decision::Refuse(refusal), None) => Err(refusal),
        })
    }

    fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        let author = Author { reason: Some("a law"), ..Author::default() };
        let is_over = self.record.state == State::Closed;
        match act {
            Act::Open => {
                let (key, kind) = (key(), KindName::default());
                let wanted = Wanted { key: &key, file: None, kind: &kind, mode: Mode::Ensure };
                let decision = open(Some(&self.record), self.revision, wanted);
                if let OpenDecision::Create { expected, mark } = decision {
                    prop_assert!(is_over);
                    self.write(blank(expected, mark, &key));
                }
            }
            Act::Place(number) if !is_over => self.write(placed(&self.record, owner(number), author)),
            Act::Acquire { who, ttl } => {
                let wants = json!({"owner": format!("c{}", who % 2), "ttl_ms": ttl.then_some(1000)});
                self.first(Request::Acquire(serde_json::from_value(wants).unwrap()))?;
            }
            Act::Rotate => {
                let Some((token, _)) = self.tokens.last().cloned() else { return Ok(()) };
                let holder = self.record.lock.as_ref().map_or("c0", |lock| lock.owner.as_str());
                let wants = json!({"owner": holder, "expected_token": token, "rotate": true});
                self.first(Request::Acquire(serde_json::from_value(wants).unwrap()))?;
            }
            Act::Release => {
                let Some((token, _)) = self.tokens.last().cloned() else { return Ok(()) };
                self.first(Request::Release(token))?;
            }
            Act::TakeOver => {
                let wants = serde_json::from_value(json!({"owner": "ops", "reason": "stuck"})).unwrap();
                self.first(Request::TakeOver(wants))?;
            }
            Act::Unlock => {
                let wants = serde_json::from_value(json!({"reason": "stuck"})).unwrap();
                self.first(Request::Unlock(wants))?;
            }
            Act::Expire => {
                if let Some(next) = expire::expire(&self.record, self.record.lock_revision) {
                    self.write(next);
                }
            }
            Act::TakeBack => {
                let fence = self.record.lock.as_ref().map_or(0, |lock| lock.fence);
                if let Some(next) = expire::take_back(&self.record, fence) {
                    self.write(next);
                    // To its request there was no grant.
                    self.asked.retain(|(_, request, _)| !matches!(request, Request::Acquire(_)));
                }
            }
            Act::Passivate(cause, saved) if !is_over => {
                let cause = [Cause::Idle, Cause::Reclaimed, Cause::Drained][usize::from(cause % 3)];
                let next = passivate(&self.record, cause, saved, author);
                let may_end = cause != Cause::Drained && saved && self.record.lock.is_none();
                prop_assert_eq!(next.state == State::Closed, may_end, "only idleness ends, and nothing that is in use");
                self.write(next);
            }
            Act::Sweep => {
                if sweep::sweep(&self.record, |_| true) == sweep::SweepDecision::Reclaim {
                    self.write(sweep::reclaimed(&self.record, author));
                }
            }
            Act::Close { discard } => {
                let token = self.tokens.last().map(|(token, _)| token.as_str()).filter(|_| self.record.lock.is_some());
                let unsaved = (!discard).then(|| Error::no_session(&key()));
                if let Decision::Commit { next, .. } = close::close(&self.record, self.revision, token, unsaved, author)
                {
                    prop_assert!(discard && !is_over);
                    self.write(*next);
                }
            }
            Act::Fence if !is_over => self.write(fenced(&self.record, author)),
            Act::Copy(which) => self.copy(usize::from(which))?,
            Act::Place(_) | Act::Passivate(..) | Act::Fence => {}
        }
        Ok(())
    }

    /// A request that was never asked before.
    fn first(&mut self, request: Request) -> Result<(), TestCaseError> {
        let id = RequestId::parse(&format!("r{}", self.ids)).unwrap();
        let before = self.revision;
        if let Ok(said) = self.ask(&id, &request)?
            && self.revision > before
        {
            if said.starts_with("hft_") {
                self.tokens.push((said.clone(), self.revision.0));
            }
            self.asked.push((id, request, said));
        }
        Ok(())
    }

    /// A late copy of a request that took effect: the same answer, and no effect but a note.
    fn copy(&mut self, which: usize) -> Result<(), TestCaseError> {
        if self.asked.is_empty() {
            return Ok(());
        }
        let (id, request, said) = self.asked[which % self.asked.len()].clone();
        let before = self.record.clone();
        let again = self.ask(&id, &request)?;
        prop_assert_eq!(again.as_ref().ok(), Some(&said), "of a copy of {:?}", request);
        let without_note = |record: &SessionRecord| {
            let lock = record.lock.clone().map(|lock| Lock { reasked: false, ..lock });
            SessionRecord { lock, event: None, ..record.clone() }
        };
        prop_assert_eq!(without_note(&self.record), without_note(&before), "a copy of {:?} had an effect", request);
        Ok(())
    }

    /// What holds at every revision.
    fn check(&self, before: &SessionRecord, at: Revision) -> Result<(), TestCaseError> {
        let record = &self.record;
        let stored = SessionRecord::from_json(&record.to_json(), &key());
        prop_assert_eq!(stored.as_ref(), Ok(record), "what a rule writes can be read");
        if record.log_after == before.log_after {
            prop_assert!(record.lock_revision >= before.lock_revision, "lock_revision fell");
        }
        for (token, revision) in &self.tokens {
            let proves = record.lock.as_ref().is_some_and(|lock| lock.is_proven_by(token));
            let granted = record.lock.as_ref().map(|lock| lock.fence + 1);
            prop_assert!(!proves || granted == Some(*revision), "a token proves another grant than its own");
        }
        if at == self.revision {
            return Ok(());
        }
        let announced = of_event(record, self.revision);
        match &record.event {
            Some(event) => prop_assert_eq!(announced[0].name.as_str(), event.kind.as_str()),
            None => {
                let lock = before.lock.clone().map(|lock| Lock { reasked: true, ..lock });
                prop_assert_eq!(
                    record,
                    &SessionRecord { lock, event: None, ..before.clone() },
                    "only a note is silent"
                );
                prop_assert!(announced.is_empty());
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_life_of_a_record_keeps_the_laws(acts in vec(act(), 1..60)) {
        let mut life = Life::new();
        let mut fence = 0;
        for act in acts {
            // The bucket keeps this many, and the past answers for no more.
            if life.written.len() > 60 {
                break;
            }
            let (before, at) = (life.record.clone(), life.revision);
            life.act(act)?;
            life.check(&before, at)?;
            let granted = life.record.lock.as_ref().map_or(0, |lock| lock.fence);
            if granted > 0 && before.lock.as_ref().is_none_or(|lock| lock.fence != granted) {
                prop_assert!(granted > fence, "fence {granted} after {fence}");
                fence = granted;
            }
            let ends = matches!(act, Act::Close { .. } | Act::Passivate(..));
            let ended = before.state != State::Closed && life.record.state == State::Closed;
            prop_assert!(!ended || ends, "{act:?} ended the session");
        }
    }
}
