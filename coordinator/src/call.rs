//! One request on its way through this coordinator: who asked, since when, and until when it may take.

use std::sync::OnceLock;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use holdfast_protocol::record::Urgency;
use holdfast_protocol::request::{self, Peeked, Request};
use holdfast_protocol::token::Secret;
use holdfast_protocol::{Error, Limits, RequestId, SessionKey};
use holdfast_rules::{Asked, Author};
use holdfast_store::chance;
use tokio::time::Instant;
use uuid::Uuid;

use crate::error;

/// The bounds of the pause before a request that met a change is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(20));

/// How long the last try of one who waited may take.
const LAST_TRY: Duration = Duration::from_secs(1);

/// Now, RFC 3339, for people.
pub(crate) fn now() -> String {
    chance::now().to_string()
}

/// A request as it came in.
pub(crate) struct Incoming {
    /// Where the answer goes.
    pub(crate) reply: Subject,
    /// The body, unread.
    pub(crate) payload: Bytes,
    /// Its idempotency key, should the caller have given none.
    pub(crate) made: RequestId,
    /// When it came.
    pub(crate) arrived: Instant,
    /// How long one attempt at it may take.
    pub(crate) timeout: Duration,
    /// What is known of the body where an agent reads it.
    pub(crate) peeked: OnceLock<Call>,
}

impl Incoming {
    /// Reads the body.
    ///
    /// # Errors
    /// `invalid_params` or `too_large`.
    pub(crate) fn parse<R: Request>(&self, limits: &Limits) -> Result<(R, Call), Error> {
        let request: R = request::parse(&self.payload, limits)?;
        let call = self.call(request.request_id(), request.actor());
        Ok((request, call))
    }

    /// The circumstances of a request whose body is for an agent to read. It is read here for its `request_id` and `actor`
    /// only, once, so this is for the rare paths.
    pub(crate) fn peeked(&self) -> &Call {
        self.peeked.get_or_init(|| {
            let Peeked { request_id, actor } = request::peek(&self.payload);
            self.call(request_id.as_deref(), actor.as_deref())
        })
    }

    fn call(&self, request_id: Option<&str>, actor: Option<&str>) -> Call {
        // A malformed one was refused by the parser.
        let given = request_id.and_then(|id| RequestId::parse(id).ok());
        Call {
            by_caller: given.is_some(),
            request_id: given.unwrap_or_else(|| self.made.clone()),
            nonce: chance::id(),
            actor: actor.map(str::to_owned),
            arrived: self.arrived,
            deadline: self.arrived + self.timeout,
            urgency: Urgency::Ordinary,
            timeout: self.timeout,
        }
    }
}

/// A request's circumstances.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Its idempotency key.
    pub(crate) request_id: RequestId,
    /// Whether that is the caller's own, so that there may have been an earlier copy.
    pub(crate) by_caller: bool,
    /// Makes the token of its grant; one for all attempts, so that a grant whose write was not answered is known as its
    /// own.
    nonce: Uuid,
    /// Who asks.
    pub(crate) actor: Option<String>,
    /// What is decided rests on what was read after this.
    pub(crate) arrived: Instant,
    /// When it must have been answered.
    pub(crate) deadline: Instant,
    /// Whether it waits when announcements are behind. Operators do not at once: they may be about to repair that.
    pub(crate) urgency: Urgency,
    timeout: Duration,
}

impl Call {
    /// The same, as one that may use the reserve of unannounced revisions: an operator does, and the end of a lease.
    pub(crate) fn urgent(self) -> Self {
        Self { urgency: Urgency::Urgent, ..self }
    }

    /// Something that this coordinator does of its own accord.
    pub(crate) fn own(timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            request_id: RequestId::made(chance::id()),
            by_caller: false,
            nonce: chance::id(),
            actor: None,
            arrived: now,
            deadline: now + timeout,
            urgency: Urgency::Ordinary,
            timeout,
        }
    }

    /// The same request, beginning now: after a wait that ends at `until`, give or take a moment.
    pub(crate) fn again(&self, until: Instant) -> Self {
        let now = Instant::now();
        let deadline = (now + self.timeout).min(until.max(now) + LAST_TRY);
        Self { arrived: now, deadline, ..self.clone() }
    }

    /// How long is left.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Refuses to begin another attempt after the deadline.
    ///
    /// # Errors
    /// `busy` / `draining`: nothing was changed by this request.
    pub(crate) fn in_time(&self, key: &SessionKey) -> Result<(), Error> {
        if self.left().is_zero() { Err(error::contended(key)) } else { Ok(()) }
    }

    /// Waits a little, at random, so that those who collided do not collide again.
    pub(crate) async fn pause(&self) {
        tokio::time::sleep(chance::pause(PAUSE.0..PAUSE.1).min(self.left())).await;
    }

    /// What a record says of a change that this request makes.
    pub(crate) fn author<'a>(&'a self, reason: Option<&'a str>) -> Author<'a> {
        Author { actor: self.actor.as_deref(), reason, request_id: Some(&self.request_id) }
    }

    /// What the lock rules want to know.
    pub(crate) fn asked<'a>(&'a self, at: &'a str, secret: &'a Secret) -> Asked<'a> {
        Asked {
            request_id: &self.request_id,
            by_caller: self.by_caller,
            actor: self.actor.as_deref(),
            at,
            nonce: self.nonce,
            secret,
        }
    }
}
