//! From NATS messages to letters.
//!
//! Invariant: a message that cannot be read is answered, or dropped where nobody waits; it never reaches an agent. One
//! that is too large is not read at all.

use std::sync::Arc;

use async_nats::Message;
use holdfast_protocol::error::Reason;
use holdfast_protocol::internal::{
    ACTOR_PROVEN_HEADER, Activate, Hint, LIFE_HEADER, REQUEST_ID_HEADER, REVISION_HEADER, call,
};
use holdfast_protocol::request::check_size;
use holdfast_protocol::subject::{Root, Verb};
use holdfast_protocol::{Error, Limits, RequestId, Revision, SessionKey};
use holdfast_store::{SharedWire, chance, trace};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::Span;
use tracing::field::Empty;

use crate::letter::{Answer, Call, Letter, ReplyTo};
use crate::supervisor::Supervisor;

/// Gives one message to the session that it is for.
pub(crate) async fn deliver(wire: &SharedWire, root: &Root, supervisor: &Arc<Supervisor>, message: Message) {
    let reply = match message.reply.clone() {
        Some(subject) if root.may_answer(&subject) => ReplyTo::Nats(wire.clone(), subject),
        Some(_) => return,
        None => ReplyTo::Nobody,
    };
    let arrived = Instant::now();
    match read(root, &message, supervisor.limits()) {
        Ok((key, call)) => {
            let (revision, request_id, life) = (revision(&message), request_id(&message), life(&message));
            let actor_proven = header(&message, ACTOR_PROVEN_HEADER).map(str::to_owned);
            let span = span_of(&key, &call);
            let trace = trace::begin(&span, trace::of(message.headers.as_ref()));
            let payload = message.payload;
            let held = None;
            let letter =
                Letter { call, payload, revision, request_id, life, actor_proven, reply, arrived, held, span, trace };
            supervisor.deliver(key, letter).await;
        }
        Err(error) => {
            tracing::warn!(subject = %message.subject, %error, "a message to an agent could not be read");
            let error = if error.request_id.is_empty() { error.for_request(&request_id(&message)) } else { error };
            reply.send(Answer::Refused(Box::new(error))).await;
        }
    }
}

fn read(root: &Root, message: &Message, limits: &Limits) -> Result<(SessionKey, Call), Error> {
    let unknown = || Error::new(Reason::Bug, format!("no agent is asked as {:?}", message.subject.as_str()));
    let (key, name) = root.parse_agent(&message.subject).ok_or_else(unknown)?;
    let call = match name {
        call::ACTIVATE => Call::Activate(Box::new(json::<Activate>(message)?)),
        call::HINT => Call::Hint(Box::new(json::<Hint>(message)?)),
        call::LEASE => Call::Lease,
        call::HANDOVER => Call::Handover,
        call::INSPECT => Call::Inspect(0),
        verb => {
            check_size(&message.payload, limits)?;
            Call::Verb(Verb::from_name(verb).filter(|verb| verb.is_relayed()).ok_or_else(unknown)?)
        }
    };
    Ok((key, call))
}

/// The span of a request, from its arrival to its answer. What coordinators tell agents has none.
fn span_of(key: &SessionKey, call: &Call) -> Span {
    let Call::Verb(verb) = call else { return Span::none() };
    let (namespace, session) = (key.namespace.as_str(), key.id.as_str());
    tracing::info_span!("agent", verb = verb.as_str(), namespace, session, request_id = Empty)
}

fn json<T: DeserializeOwned>(message: &Message) -> Result<T, Error> {
    serde_json::from_slice(&message.payload)
        .map_err(|error| Error::new(Reason::Bug, format!("a coordinator's message does not parse: {error}")))
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get_last(name).map(|value| value.as_str())
}

fn revision(message: &Message) -> Revision {
    Revision(header(message, REVISION_HEADER).and_then(|revision| revision.parse().ok()).unwrap_or(0))
}

fn life(message: &Message) -> Option<u64> {
    header(message, LIFE_HEADER)?.parse().ok()
}

fn request_id(message: &Message) -> RequestId {
    header(message, REQUEST_ID_HEADER)
        .and_then(|id| RequestId::parse(id).ok())
        .unwrap_or_else(|| RequestId::made(chance::id()))
}
