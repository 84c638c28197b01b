//! One operation of this coordinator: who asked for it, when it arrived, and its deadline.
//!
//! Invariant: one operation has one idempotency key and one nonce, however many attempts it takes.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::record::Urgency;
use holdfast_protocol::request::{self, Peeked, Request};
use holdfast_protocol::token::Secret;
use holdfast_protocol::{Error, Limits, RequestId, SessionKey};
use holdfast_rules::{Asked, Author};
use holdfast_store::chance;
use tokio::time::Instant;
use uuid::Uuid;

use crate::asker::Asker;
use crate::error;

/// The bounds of the pause before the next attempt, after another writer changed the record.
const PAUSE: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(20));

/// How long the last attempt of a request that waited for a lock may take.
const LAST_TRY: Duration = Duration::from_secs(1);

/// The current time, RFC 3339, for people.
pub(crate) fn now() -> String {
    chance::now().to_string()
}

/// A request as it arrived.
pub(crate) struct Incoming {
    /// Who sent it.
    pub(crate) asker: Asker,
    /// The body, not parsed.
    pub(crate) payload: Bytes,
    /// The idempotency key that is used when the caller gave none.
    pub(crate) made: RequestId,
    /// When it arrived.
    pub(crate) arrived: Instant,
    /// How long it may take, without the time in a lock's queue.
    pub(crate) timeout: Duration,
    /// The operation, when the body is parsed by an agent and not here.
    pub(crate) peeked: OnceLock<Operation>,
}

impl Incoming {
    /// Reads the body.
    ///
    /// # Errors
    /// `invalid_params` or `too_large`.
    pub(crate) fn parse<R: Request>(&self, limits: &Limits) -> Result<(R, Operation), Error> {
        let request: R = request::parse(&self.payload, limits)?;
        let operation = self.operation(request.request_id(), request.actor());
        Ok((request, operation))
    }

    /// The operation of a request whose body only an agent parses. This reads `request_id` and `actor` out of the body,
    /// once. It costs a pass over the body, so only the rare paths call it.
    pub(crate) fn peeked(&self) -> &Operation {
        self.peeked.get_or_init(|| {
            let Peeked { request_id, actor, .. } = request::peek(&self.payload);
            self.operation(request_id.as_deref(), actor.as_deref())
        })
    }

    fn operation(&self, request_id: Option<&str>, actor: Option<&str>) -> Operation {
        // The parser has refused a malformed one.
        let given = request_id.and_then(|id| RequestId::parse(id).ok());
        let by_caller = given.is_some();
        let request_id = given.unwrap_or_else(|| self.made.clone());
        tracing::Span::current().record("request_id", request_id.as_str());
        Operation {
            by_caller,
            request_id,
            nonce: chance::id(),
            actor: actor.map(str::to_owned),
            actor_proven: self.asker.actor_proven.clone(),
            arrived: self.arrived,
            deadline: self.arrived + self.timeout,
            urgency: Urgency::Ordinary,
            timeout: self.timeout,
        }
    }
}

/// What is known of an operation apart from what it asks for.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// Its idempotency key.
    pub(crate) request_id: RequestId,
    /// Whether the caller chose the key. Only then may an earlier copy of the request exist.
    pub(crate) by_caller: bool,
    /// The token of a grant is derived from it. All attempts use the same one, so that a later attempt recognises a
    /// grant whose write was not acknowledged.
    nonce: Uuid,
    /// Who asked, in the caller's words.
    pub(crate) actor: Option<String>,
    /// Who asked, as nats-server tells it.
    pub(crate) actor_proven: Option<String>,
    /// When it arrived. A refusal must rest on a record that was read after this.
    pub(crate) arrived: Instant,
    /// When it must be answered.
    pub(crate) deadline: Instant,
    /// Whether it waits while the relay is behind. An operator's request may use a reserve first: the operator may be
    /// repairing the relay.
    pub(crate) urgency: Urgency,
    timeout: Duration,
}

impl Operation {
    /// The same operation, allowed to use the reserve of unannounced revisions. Operators' requests and expiries use
    /// it.
    pub(crate) fn urgent(self) -> Self {
        Self { urgency: Urgency::Urgent, ..self }
    }

    /// An operation that this coordinator starts by itself.
    pub(crate) fn own(timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            request_id: RequestId::made(chance::id()),
            by_caller: false,
            nonce: chance::id(),
            actor: None,
            actor_proven: None,
            arrived: now,
            deadline: now + timeout,
            urgency: Urgency::Ordinary,
            timeout,
        }
    }

    /// The same operation with a new arrival time, for an attempt after a wait that ends at about `until`.
    pub(crate) fn again(&self, until: Instant) -> Self {
        let now = Instant::now();
        let deadline = (now + self.timeout).min(until.max(now) + LAST_TRY);
        Self { arrived: now, deadline, ..self.clone() }
    }

    /// The time left until the deadline.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Refuses another attempt after the deadline.
    ///
    /// # Errors
    /// `busy` / `draining`: nothing was changed by this request.
    pub(crate) fn in_time(&self, key: &SessionKey) -> Result<(), Error> {
        if self.left().is_zero() { Err(error::contended(key)) } else { Ok(()) }
    }

    /// Pauses for a random time, so that writers that collided do not collide again.
    pub(crate) async fn pause(&self) {
        tokio::time::sleep(chance::pause(PAUSE.0..PAUSE.1).min(self.left())).await;
    }

    /// The author that the record names for a change by this operation.
    pub(crate) fn author<'a>(&'a self, reason: Option<&'a str>) -> Author<'a> {
        Author {
            actor: self.actor.as_deref(),
            actor_proven: self.actor_proven.as_deref(),
            reason,
            request_id: Some(&self.request_id),
        }
    }

    /// What the lock rules need to know of this operation.
    pub(crate) fn asked<'a>(&'a self, at: &'a str, secret: &'a Secret) -> Asked<'a> {
        Asked {
            request_id: &self.request_id,
            by_caller: self.by_caller,
            actor: self.actor.as_deref(),
            actor_proven: self.actor_proven.as_deref(),
            at,
            nonce: self.nonce,
            secret,
        }
    }
}
