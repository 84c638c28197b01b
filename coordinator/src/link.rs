//! Messages to session agents, and what became of them.
//!
//! Invariant: silence is never taken for a no. A message that nobody listened to had no effect; one that was not answered in
//! time may have had one.

use std::time::Duration;

use async_nats::header::HeaderMap;
use async_nats::{HeaderValue, Message};
use bytes::Bytes;
use holdfast_protocol::document::Content;
use holdfast_protocol::error::ErrorReply;
use holdfast_protocol::internal::{Activate, Hint, LeaseView, MOVED_HEADER, REVISION_HEADER, call};
use holdfast_protocol::record::Owner;
use holdfast_protocol::{Error, SessionKey};
use holdfast_store::wire::{Outgoing, Request, RequestError};
use serde::Serialize;
use tokio::time::Instant;

use crate::call::Call;
use crate::config::LEASE_VIEW_TIMEOUT;
use crate::error;
use crate::fleet::CONFIRM;
use crate::hub::Hub;
use crate::micro::NUMBER_HEADER;
use holdfast_records::Known;

/// How long an answer may take before it is asked whether the process is still there, and how often that is asked then, by
/// one of all who wait for it. A killed process is noticed so late, and a busy one hears so many questions more.
const PROBE: Duration = Duration::from_millis(50);

/// How often that is asked of a process that was not heard the last time.
pub(crate) const RECHECK: Duration = Duration::from_millis(20);
// One is confirmed gone at the third time at the latest.
const _: () = assert!(RECHECK.as_millis() * 3 > CONFIRM.as_millis());

/// How long an answer may take before the record is asked whether the session still is with whoever has the message; then
/// after twice as long again, and so on. Another coordinator may have moved it away from a worker that stands still.
const LOOK: Duration = Duration::from_millis(250);

/// What became of a message to an agent. Without `Debug`, so that no body reaches a log line.
pub(crate) enum Reply {
    /// It answered, maybe with an error.
    Said(Message),
    /// Its worker does not own the session.
    Moved,
    /// Nobody listened: no effect.
    Unheard,
    /// Its process went away with the message in its hands, or the session was taken from it: maybe an effect, which is in
    /// the log then, under the request's id. Whoever has the session next answers the same message by that.
    Lost,
    /// No answer in time: maybe an effect.
    Silent,
    /// The message is over the server's limit with what was added to it.
    TooLarge,
}

/// A message to an agent.
pub(crate) struct Letter<'a> {
    pub(crate) key: &'a SessionKey,
    pub(crate) call: &'a str,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) payload: Bytes,
    pub(crate) timeout: Duration,
}

/// Asks the agent that `owner` names, and does not wait for the answer of one that is gone or that lost the session.
pub(crate) async fn ask(hub: &Hub, owner: &Owner, letter: Letter<'_>) -> Reply {
    let key = letter.key;
    tokio::select! {
        biased;
        reply = send(hub, owner, letter) => reply,
        () = death(hub, owner, key) => Reply::Lost,
        () = dispossession(hub, owner, key) => Reply::Lost,
    }
}

/// Ends when nobody listens for `owner` any more, whoever found that out.
async fn death(hub: &Hub, owner: &Owner, key: &SessionKey) {
    let mut news = Box::pin(hub.registry.death());
    loop {
        let every = if hub.registry.is_doubted(owner) { RECHECK } else { PROBE };
        tokio::select! {
            biased;
            () = &mut news => {}
            () = tokio::time::sleep(every) => {
                if hub.registry.begin_probe(owner, every) {
                    is_unheard(hub, owner, key).await;
                }
            }
        }
        // Before the look, so that nothing is missed behind it.
        news.set(hub.registry.death());
        if hub.registry.is_unheard(owner) {
            return;
        }
    }
}

/// Ends when the record says that `owner` does not have the session any more: from then on the storage refuses what it does.
async fn dispossession(hub: &Hub, owner: &Owner, key: &SessionKey) {
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause).await;
        let age = pause;
        pause *= 2;
        let now_with = |known: Known| {
            known.record.owner.as_ref().is_some_and(|found| (&found.worker, found.boot) == (&owner.worker, owner.boot))
        };
        if hub.records.recent_record(key, age, Instant::now() + pause).await.is_ok_and(|known| !now_with(known)) {
            return;
        }
    }
}

/// Whether nobody listens for `owner`, by a question that does nothing.
pub(crate) async fn is_unheard(hub: &Hub, owner: &Owner, key: &SessionKey) -> bool {
    matches!(send(hub, owner, lease_letter(key)).await, Reply::Unheard)
}

fn lease_letter(key: &SessionKey) -> Letter<'_> {
    let payload = Bytes::from_static(b"{}");
    Letter { key, call: call::LEASE, headers: None, payload, timeout: LEASE_VIEW_TIMEOUT }
}

async fn send(hub: &Hub, owner: &Owner, letter: Letter<'_>) -> Reply {
    let subject = hub.config.root.agent(&owner.worker, owner.boot, letter.key, letter.call);
    let Letter { headers, payload, timeout, .. } = letter;
    let answer = hub.wire.request(Request { subject: subject.into(), headers, payload, timeout }).await;
    if answer.is_ok() {
        hub.registry.heard(owner);
    }
    match answer {
        Ok(message) if has(&message, MOVED_HEADER) => Reply::Moved,
        Ok(message) => Reply::Said(message),
        Err(RequestError::NoResponders) => {
            hub.registry.unheard(&owner.worker, owner.boot);
            Reply::Unheard
        }
        Err(RequestError::TooLarge(_)) => Reply::TooLarge,
        Err(RequestError::Refused(_) | RequestError::Unknown(_)) => Reply::Silent,
    }
}

fn has(message: &Message, header: &str) -> bool {
    message.headers.as_ref().is_some_and(|headers| headers.get(header).is_some())
}

/// What an agent's answer says, if it is an error.
pub(crate) fn refusal(message: &Message) -> Option<Error> {
    if !has(message, NUMBER_HEADER) {
        return None;
    }
    Some(match serde_json::from_slice::<ErrorReply>(&message.payload) {
        Ok(reply) => reply.error,
        Err(_) => error::bug("a worker answered with an error that does not parse"),
    })
}

/// What became of taking a session up.
#[derive(Debug)]
pub(crate) enum Activated {
    /// The agent is up.
    Up,
    /// The session is to be placed or looked up again.
    Elsewhere,
    /// To be told to whoever asked.
    Refused(Error),
}

/// How an agent is to begin.
#[derive(Clone, Debug)]
pub(crate) enum Beginning {
    /// From its log.
    Log,
    /// As a session that was just made: its log is empty.
    Blank(Option<Content>),
    /// From its log, and with this content if that is empty: an open that is asked again.
    LogOr(Option<Content>),
}

/// Asks the owner of `known` to take the session up.
pub(crate) async fn activate(hub: &Hub, known: &Known, beginning: Beginning, call: &Call) -> Activated {
    let Some(owner) = &known.record.owner else { return Activated::Elsewhere };
    let (created, content) = match beginning {
        Beginning::Log => (false, None),
        Beginning::Blank(content) => (true, content),
        Beginning::LogOr(content) => (false, content),
    };
    let activate = Activate { hint: hint_of(known), created, content, request_id: call.request_id.clone() };
    let key = known.record.key();
    let letter =
        Letter { key: &key, call: call::ACTIVATE, headers: None, payload: json(&activate), timeout: call.left() };
    match ask(hub, owner, letter).await {
        Reply::Said(message) => refusal(&message).map_or(Activated::Up, Activated::Refused),
        Reply::Moved | Reply::Unheard | Reply::Lost => {
            hub.records.doubt(&key);
            Activated::Elsewhere
        }
        Reply::Silent => Activated::Refused(error::unknown_outcome(&key)),
        Reply::TooLarge => Activated::Refused(error::too_large()),
    }
}

/// Tells the owner of `known` what was just written. Without an answer: an agent that misses it learns by its next frame.
pub(crate) async fn hint(hub: &Hub, known: &Known) {
    let Some(owner) = &known.record.owner else { return };
    let key = known.record.key();
    let subject = hub.config.root.agent(&owner.worker, owner.boot, &key, call::HINT);
    if let Err(error) = hub.wire.publish(Outgoing::to(subject, json(&hint_of(known)))).await {
        tracing::debug!(%key, %error, "hint not sent");
    }
}

/// How the lock of `known` stands on its agent's clock, if the agent says so in time.
pub(crate) async fn lease(hub: &Hub, known: &Known) -> Option<LeaseView> {
    let owner = known.record.owner.as_ref()?;
    let key = known.record.key();
    match send(hub, owner, knowing(lease_letter(&key), known)).await {
        Reply::Said(message) => serde_json::from_slice(&message.payload).ok(),
        Reply::Moved | Reply::Unheard | Reply::Lost | Reply::Silent | Reply::TooLarge => None,
    }
}

/// Who counts the lease of a lock down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// The agent, for so long still.
    For(Duration),
    /// The agent did not know of the lock. It was told that there is something to learn.
    Untold,
    /// Nobody: the session has no agent.
    Nobody,
    /// No answer, which says nothing.
    Silent,
}

/// Asks `owner` whether its agent counts the lease of the lock of `known`.
pub(crate) async fn counting(hub: &Hub, known: &Known, owner: &Owner) -> Counting {
    let key = known.record.key();
    match send(hub, owner, knowing(lease_letter(&key), known)).await {
        Reply::Said(message) if refusal(&message).is_none() => match serde_json::from_slice(&message.payload) {
            Ok(LeaseView { lock_revision, expires_in_ms: Some(left) })
                if lock_revision == known.record.lock_revision =>
            {
                Counting::For(Duration::from_millis(left))
            }
            Ok(_) | Err(_) => Counting::Untold,
        },
        Reply::Moved => Counting::Nobody,
        Reply::Said(_) | Reply::Unheard | Reply::Lost | Reply::Silent | Reply::TooLarge => Counting::Silent,
    }
}

/// `letter`, with the revision that its receiver must know: the hint of a lock that was granted a moment ago may be on
/// its way.
fn knowing<'a>(letter: Letter<'a>, known: &Known) -> Letter<'a> {
    let mut headers = HeaderMap::new();
    headers.insert(REVISION_HEADER, HeaderValue::from(known.revision.0));
    Letter { headers: Some(headers), ..letter }
}

/// Whether an agent's worker takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It answers.
    There,
    /// Nobody listens for it.
    Gone,
    /// It listens and says nothing: its process stands still, or is busy beyond measure.
    Silent,
}

/// Whether the worker of `owner`, who has the session of `known`, takes part.
pub(crate) async fn presence(hub: &Hub, known: &Known, owner: &Owner) -> Presence {
    let key = known.record.key();
    loop {
        match send(hub, owner, lease_letter(&key)).await {
            Reply::Said(_) | Reply::Moved => return Presence::There,
            Reply::Silent | Reply::TooLarge | Reply::Lost => return Presence::Silent,
            Reply::Unheard if hub.registry.is_gone(owner) => return Presence::Gone,
            Reply::Unheard => tokio::time::sleep(RECHECK).await,
        }
    }
}

/// Asks `owner` to finish with a session before it moves. Whether it does is its own affair: the record decides.
pub(crate) async fn handover(hub: &Hub, owner: &Owner, key: &SessionKey, timeout: Duration) {
    let payload = Bytes::from_static(b"{}");
    let letter = Letter { key, call: call::HANDOVER, headers: None, payload, timeout };
    let outcome = match ask(hub, owner, letter).await {
        Reply::Said(message) => match refusal(&message) {
            None => return,
            Some(refusal) => refusal.reason.as_str(),
        },
        Reply::Moved => "it does not own it",
        Reply::Unheard | Reply::Lost => "nobody listens",
        Reply::Silent | Reply::TooLarge => "no answer",
    };
    tracing::info!(%key, worker = %owner.worker, outcome, "the session moves without a handover");
}

fn hint_of(known: &Known) -> Hint {
    Hint { revision: known.revision, record: known.record.as_ref().clone() }
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("a record and content are strings, numbers and JSON values").into()
}
