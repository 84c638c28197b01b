//! From NATS messages to letters.
//!
//! Invariant: a message that cannot be read is answered, or dropped where nobody waits; it never reaches an agent.

use std::sync::Arc;

use async_nats::{Client, Message};
use holdfast_protocol::error::Reason;
use holdfast_protocol::internal::{Activate, Hint, REQUEST_ID_HEADER, REVISION_HEADER, call};
use holdfast_protocol::subject::{Root, Verb};
use holdfast_protocol::{Error, RequestId, Revision, SessionKey};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::letter::{Answer, Call, Letter, ReplyTo};
use crate::supervisor::Supervisor;

/// Gives one message to the session that it is for.
pub(crate) async fn deliver(client: &Client, root: &Root, supervisor: &Arc<Supervisor>, message: Message) {
    let reply = match message.reply.clone() {
        Some(subject) => ReplyTo::Nats(client.clone(), subject),
        None => ReplyTo::Nobody,
    };
    match read(root, &message) {
        Ok((key, call)) => {
            let (revision, request_id) = (revision(&message), request_id(&message));
            let letter = Letter { call, payload: message.payload, revision, request_id, reply };
            supervisor.deliver(key, letter).await;
        }
        Err(error) => {
            tracing::warn!(subject = %message.subject, %error, "a message to an agent could not be read");
            reply.send(Answer::Refused(Box::new(error))).await;
        }
    }
}

fn read(root: &Root, message: &Message) -> Result<(SessionKey, Call), Error> {
    let unknown = || Error::new(Reason::Bug, format!("no agent is asked as {:?}", message.subject.as_str()));
    let (key, name) = root.parse_agent(&message.subject).ok_or_else(unknown)?;
    let call = match name {
        call::ACTIVATE => Call::Activate(Box::new(json::<Activate>(message)?)),
        call::HINT => Call::Hint(Box::new(json::<Hint>(message)?)),
        call::LEASE => Call::Lease,
        call::HANDOVER => Call::Handover,
        verb => Call::Verb(Verb::from_name(verb).filter(|verb| verb.is_relayed()).ok_or_else(unknown)?),
    };
    Ok((key, call))
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

fn request_id(message: &Message) -> RequestId {
    header(message, REQUEST_ID_HEADER)
        .and_then(|id| RequestId::parse(id).ok())
        .unwrap_or_else(|| RequestId::made(Uuid::now_v7()))
}
