//! The audit log: one line for each request of an operator, and for each record that was edited by hand.
//!
//! A line is an event of `tracing` at level `info` with the target `holdfast_audit`. Its fields are `verb`,
//! `namespace`, `session` or `worker`, `actor` (who the request says it is from), `actor_proven` (who it is from as
//! nats-server tells it), `reason`, `request_id`, `outcome`: `done`, or the reason of the refusal, and `unkept`: why
//! the act is not in the stream of acts, although it took effect. Fields that are not known are left out. A late copy
//! of a request has a line of its own, with the same `request_id`: whoever reads the log sees that it was sent again.
//!
//! Invariant: each request has exactly one line, even when its task is dropped, and no line has a token.

use async_nats::Subject;
use holdfast_protocol::request::{Peeked, peek};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, RequestId, Revision, SessionKey};

use crate::asker::Asker;

/// The target of audit lines.
const TARGET: &str = "holdfast_audit";
/// How much of a body is read for a line.
const PEEK_BYTES: usize = 16 * 1024;
/// The longest text of a subject that is written, characters.
const NAME_CHARS: usize = 64;

/// The outcome of a request that was dropped without an answer: its reply subject is not allowed, or this coordinator
/// ended first.
const DROPPED: &str = "dropped";

/// The line of one request. It is written when this is dropped.
#[must_use]
pub(crate) struct Audit {
    verb: Verb,
    namespace: String,
    target: Option<String>,
    actor_proven: Option<String>,
    claimed: Peeked,
    made: RequestId,
    outcome: &'static str,
    unkept: Option<String>,
}

impl Audit {
    /// The line of a request, if its verb is audited. The subject may be malformed.
    pub(crate) fn of(
        verb: Option<Verb>,
        subject: &Subject,
        body: &[u8],
        asker: &Asker,
        made: &RequestId,
    ) -> Option<Self> {
        let verb = verb.filter(|verb| verb.is_audited())?;
        let shown = |text: &str| text.chars().take(NAME_CHARS).collect::<String>();
        let mut tokens = subject.splitn(5, '.').skip(1);
        let namespace = shown(tokens.next().unwrap_or_default());
        Some(Self {
            verb,
            namespace,
            target: tokens.nth(2).map(shown),
            actor_proven: asker.actor_proven.clone(),
            claimed: peek(&body[..body.len().min(PEEK_BYTES)]),
            made: made.clone(),
            outcome: DROPPED,
            unkept: None,
        })
    }

    /// Writes the line of a request that took effect.
    pub(crate) fn done(mut self, unkept: Option<&str>) {
        self.outcome = "done";
        self.unkept = unkept.map(str::to_owned);
    }

    /// Writes the line of a request that was refused.
    pub(crate) fn refused(mut self, error: &Error) {
        self.outcome = error.reason.as_str();
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let Peeked { request_id, actor, reason } = &self.claimed;
        let is_of_worker = matches!(self.verb, Verb::WorkerDrain | Verb::WorkerUndrain);
        let (session, worker) =
            if is_of_worker { (None, self.target.as_deref()) } else { (self.target.as_deref(), None) };
        tracing::info!(
            target: TARGET,
            verb = self.verb.as_str(),
            namespace = self.namespace,
            session,
            worker,
            actor = actor.as_deref(),
            actor_proven = self.actor_proven.as_deref(),
            reason = reason.as_deref(),
            request_id = request_id.as_deref().unwrap_or(self.made.as_str()),
            outcome = self.outcome,
            unkept = self.unkept.as_deref(),
            "a request of an operator"
        );
    }
}

/// Writes the line of a record that was edited or deleted by hand. Nobody knows by whom. After a failure of the relay
/// there may be a second line, with the same `revision`.
pub(crate) fn hand_edit(key: &SessionKey, revision: Revision) {
    tracing::info!(
        target: TARGET,
        verb = "hand_edit",
        namespace = key.namespace.as_str(),
        session = key.id.as_str(),
        revision = revision.0,
        outcome = "done",
        "a record was edited by hand"
    );
}
