//! One message for one session, and the way back to whoever sent it.

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use holdfast_protocol::internal::{Activate, Hint, MOVED_HEADER};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::trace::TraceParent;
use holdfast_protocol::{Error, RequestId, Revision};
use holdfast_rules::passivate::Cause;
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::wire::{Outgoing, PublishError};
use holdfast_store::{SharedWire, Wire, chance};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;

use crate::mailbox::Held;

/// What a session is asked.
pub(crate) enum Call {
    /// A request of the contract, unread.
    Verb(Verb),
    /// Be there.
    Activate(Box<Activate>),
    /// The record changed.
    Hint(Box<Hint>),
    /// How do lock and clock stand? Answered without the mailbox.
    Lease,
    /// The record is at the letter's revision by now.
    CatchUp,
    /// What would a takeover hit? The number is how many letters waited when this one came.
    Inspect(u64),
    /// Finish, so that another can take over.
    Handover,
    /// Something may have happened to what is outside of the log.
    Look,
    /// Leave memory, for this reason.
    Passivate(Passivation),
}

/// Who asked for something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Who {
    /// In their own words.
    pub(crate) actor: Option<String>,
    /// As nats-server tells it.
    pub(crate) actor_proven: Option<String>,
}

/// Why a session leaves memory. Only idleness may end a session with `on_idle: close`; whoever leaves passivates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Passivation {
    /// Nobody asked for anything for the session's `idle_timeout_ms`.
    Idle,
    /// An operator wants sessions out of memory that were idle for `max_idle_ms`. Whether this one was is judged when
    /// its agent reads the letter.
    Reclaimed { max_idle_ms: u64, who: Who },
    /// The worker is drained or ends, and no other one takes the session.
    Leaving { reason: String, who: Who },
}

impl Passivation {
    /// The rule's word for it.
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Idle => Cause::Idle,
            Self::Reclaimed { .. } => Cause::Reclaimed,
            Self::Leaving { .. } if mutant::is(Mutant::DrainThatCloses) => Cause::Idle,
            Self::Leaving { .. } => Cause::Drained,
        }
    }

    /// Who asked.
    pub(crate) fn who(&self) -> Option<&Who> {
        match self {
            Self::Reclaimed { who, .. } | Self::Leaving { who, .. } => Some(who),
            Self::Idle => None,
        }
    }

    /// Why, for people.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Idle => "idle".to_owned(),
            Self::Reclaimed { max_idle_ms, .. } => format!("idle for {max_idle_ms} ms"),
            Self::Leaving { reason, .. } => reason.clone(),
        }
    }
}

/// A message in a session's mailbox.
pub(crate) struct Letter {
    pub(crate) call: Call,
    pub(crate) payload: Bytes,
    /// The record's revision that the sender knows.
    pub(crate) revision: Revision,
    /// The request's id, unless the body has one.
    pub(crate) request_id: RequestId,
    /// Which life of the session it is for, where its sender said.
    pub(crate) life: Option<u64>,
    /// Who asked, as nats-server tells it.
    pub(crate) actor_proven: Option<String>,
    pub(crate) reply: ReplyTo,
    /// When it came to this worker.
    pub(crate) arrived: Instant,
    /// Its share of what may wait.
    pub(crate) held: Option<Held>,
    /// From its arrival to its answer, and the trace for what it causes.
    pub(crate) span: Span,
    pub(crate) trace: Option<TraceParent>,
}

impl Letter {
    /// A letter from within this worker.
    pub(crate) fn own(call: Call, reply: ReplyTo) -> Self {
        Self {
            call,
            payload: Bytes::new(),
            revision: Revision(0),
            request_id: RequestId::made(chance::id()),
            life: None,
            actor_proven: None,
            reply,
            arrived: Instant::now(),
            held: None,
            span: Span::none(),
            trace: None,
        }
    }

    /// Another copy of this request, which finds the first one's answer by `request_id`.
    pub(crate) fn copy_for(&self, request_id: &RequestId, reply: ReplyTo) -> Self {
        let verb = match self.call {
            Call::Verb(verb) => verb,
            _ => unreachable!("only requests of the contract are staged"),
        };
        Self {
            call: Call::Verb(verb),
            payload: self.payload.clone(),
            revision: self.revision,
            request_id: request_id.clone(),
            life: self.life,
            actor_proven: self.actor_proven.clone(),
            reply,
            arrived: self.arrived,
            held: None,
            span: Span::none(),
            trace: self.trace,
        }
    }
}

/// Where an answer goes.
pub(crate) enum ReplyTo {
    /// To a NATS inbox.
    Nats(SharedWire, Subject),
    /// To a part of this process.
    Local(oneshot::Sender<Answer>),
    /// Nowhere: a hint.
    Nobody,
}

/// An answer.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The client's reply.
    Done(Bytes),
    /// The client's error.
    Refused(Box<Error>),
    /// Not here: ask whoever owns the session.
    Moved,
}

impl ReplyTo {
    /// Sends `answer`. That nobody listens any more is nobody's problem: the request's outcome is in the log.
    pub(crate) async fn send(self, answer: Answer) {
        match self {
            Self::Nats(wire, subject) => {
                if let Err(error) = publish(&*wire, subject, answer).await {
                    tracing::debug!(%error, "an answer could not be sent");
                }
            }
            Self::Local(sender) => {
                if sender.send(answer).is_err() {
                    tracing::debug!("an answer came too late");
                }
            }
            Self::Nobody => {}
        }
    }
}

async fn publish(wire: &dyn Wire, subject: Subject, answer: Answer) -> Result<(), PublishError> {
    let message = match answer {
        Answer::Done(payload) => Outgoing::to(subject, payload),
        Answer::Refused(error) => {
            let mut headers = HeaderMap::new();
            headers.insert(async_nats::service::NATS_SERVICE_ERROR, one_line(&error.message).as_str());
            headers.insert(async_nats::service::NATS_SERVICE_ERROR_CODE, error.code.number().to_string().as_str());
            Outgoing::to(subject, error.to_json()).with_headers(headers)
        }
        Answer::Moved => {
            let mut headers = HeaderMap::new();
            headers.insert(MOVED_HEADER, "1");
            Outgoing::to(subject, Bytes::new()).with_headers(headers)
        }
    };
    wire.publish(message).await
}

/// A header's value has no line breaks.
fn one_line(message: &str) -> String {
    message.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}
