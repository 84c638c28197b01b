//! What a rule decides, and what it needs to know of the request.

use holdfast_protocol::record::{Event, EventType, SessionRecord};
use holdfast_protocol::token::Secret;
use holdfast_protocol::{Error, RequestId, WorkerName};
use uuid::Uuid;

/// What to do about a record. If the record may be old, only `Commit` and `Note` are valid, because the condition of
/// their write proves them.
#[derive(Debug)]
pub enum Decision<Reply> {
    /// Write `next` if the record is still at the revision that was decided on, then answer with `reply`.
    Commit {
        /// The next revision's record.
        next: Box<SessionRecord>,
        /// The answer once it is written.
        reply: Reply,
    },
    /// The record is already as the request wants it. Write `next`, which only notes that another copy of the request
    /// was answered, then answer with `reply`.
    Note {
        /// The next revision's record.
        next: Box<SessionRecord>,
        /// The answer once it is written.
        reply: Reply,
    },
    /// Nothing to write.
    Unchanged(Reply),
    /// Refuse. Decide again on a fresh read before the refusal is sent.
    Refuse(Error),
}

impl<Reply> Decision<Reply> {
    pub(crate) fn commit((next, reply): (SessionRecord, Reply)) -> Self {
        Self::Commit { next: Box::new(next), reply }
    }
}

/// What the lock rules need to know of a request, apart from its body.
pub struct Asked<'a> {
    /// Idempotency key.
    pub request_id: &'a RequestId,
    /// Whether the caller chose the key. Only then may other copies of the request exist.
    pub by_caller: bool,
    /// Who asked, in their own words.
    pub actor: Option<&'a str>,
    /// Who asked as nats-server tells it.
    pub actor_proven: Option<&'a str>,
    /// The current time, RFC 3339, for people.
    pub at: &'a str,
    /// Random, for the token of a new grant.
    pub nonce: Uuid,
    /// The secret that tokens are derived from.
    pub secret: &'a Secret,
}

impl Asked<'_> {
    pub(crate) fn event(
        &self,
        kind: EventType,
        previous_owner: Option<String>,
        reason: Option<String>,
    ) -> Option<Event> {
        Some(Event {
            kind,
            actor: self.actor.map(str::to_owned),
            actor_proven: self.actor_proven.map(str::to_owned),
            reason,
            previous_owner,
            previous_worker: None,
            request_id: Some(self.request_id.clone()),
            unheard: false,
            hand_over: None,
        })
    }
}

/// Who asked for a change of a record, and why.
#[derive(Clone, Copy, Debug, Default)]
pub struct Author<'a> {
    /// Who, in their own words.
    pub actor: Option<&'a str>,
    /// Who, as nats-server tells it.
    pub actor_proven: Option<&'a str>,
    /// Why, in their own words.
    pub reason: Option<&'a str>,
    /// The request.
    pub request_id: Option<&'a RequestId>,
}

impl Author<'_> {
    pub(crate) fn event(&self, kind: EventType, previous_worker: Option<WorkerName>) -> Option<Event> {
        Some(Event {
            kind,
            actor: self.actor.map(str::to_owned),
            actor_proven: self.actor_proven.map(str::to_owned),
            reason: self.reason.map(str::to_owned),
            previous_owner: None,
            previous_worker,
            request_id: self.request_id.cloned(),
            unheard: false,
            hand_over: None,
        })
    }
}
