//! What a rule decides, and the circumstances that it decides under.

use holdfast_protocol::record::{Event, EventType, SessionRecord};
use holdfast_protocol::token::Secret;
use holdfast_protocol::{Error, RequestId, WorkerName};
use uuid::Uuid;

/// What to do about a record. Of a decision on a record that may be old, only a commit counts: its condition proves it.
#[derive(Debug)]
pub enum Decision<Reply> {
    /// Write `next` if the record is still at the revision that was decided on, then answer with `reply`.
    Commit {
        /// The next revision's record.
        next: Box<SessionRecord>,
        /// The answer once it is written.
        reply: Reply,
    },
    /// The record already is as the request wants it. Write `next`, which only notes that a copy of the request was
    /// answered, then answer with `reply`.
    Note {
        /// The next revision's record.
        next: Box<SessionRecord>,
        /// The answer once it is written.
        reply: Reply,
    },
    /// Nothing to write.
    Unchanged(Reply),
    /// No. To be decided again on a fresh read before it is said.
    Refuse(Error),
}

impl<Reply> Decision<Reply> {
    pub(crate) fn commit((next, reply): (SessionRecord, Reply)) -> Self {
        Self::Commit { next: Box::new(next), reply }
    }
}

/// A request's circumstances.
pub struct Asked<'a> {
    /// Idempotency key.
    pub request_id: &'a RequestId,
    /// Whether that is the caller's own, so that there may be other copies of the request.
    pub by_caller: bool,
    /// Who asks.
    pub actor: Option<&'a str>,
    /// Now, RFC 3339, for people.
    pub at: &'a str,
    /// Fresh, for the token of a new grant.
    pub nonce: Uuid,
    /// What tokens are derived from.
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
            reason,
            previous_owner,
            previous_worker: None,
            request_id: Some(self.request_id.clone()),
            unheard: false,
        })
    }
}

/// Who asks for a change of a record, and why.
#[derive(Clone, Copy, Debug, Default)]
pub struct Author<'a> {
    /// Who, in their own words.
    pub actor: Option<&'a str>,
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
            reason: self.reason.map(str::to_owned),
            previous_owner: None,
            previous_worker,
            request_id: self.request_id.cloned(),
            unheard: false,
        })
    }
}
