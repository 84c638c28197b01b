//! Sends messages to session agents and reports the outcome.
//!
//! Invariant: silence is never taken for a refusal. A message without a responder had no effect. A message that was not
//! answered in time may have had one.

use std::time::Duration;

use async_nats::header::HeaderMap;
use async_nats::{HeaderValue, Message};
use bytes::Bytes;
use holdfast_protocol::document::Content;
use holdfast_protocol::error::ErrorReply;
use holdfast_protocol::internal::{Activate, Hint, Inspection, LeaseView, MOVED_HEADER, REVISION_HEADER, call};
use holdfast_protocol::record::Owner;
use holdfast_protocol::{Error, SessionKey};
use holdfast_store::trace;
use holdfast_store::wire::{Outgoing, Request, RequestError};
use serde::Serialize;
use tokio::time::Instant;

use crate::config::{LEASE_VIEW_TIMEOUT, TELL_TIMEOUT};
use crate::context::Context;
use crate::error;
use crate::fleet::CONFIRM;
use crate::micro::NUMBER_HEADER;
use crate::operation::Operation;
use holdfast_records::Known;

/// The interval at which a process is probed while requests wait for its answers. One of the waiting requests probes
/// for all. Bounds how late a kill is noticed; a busy worker pays one probe per interval.
const PROBE: Duration = Duration::from_millis(50);

/// The interval for a process whose last message had no responder.
pub(crate) const RECHECK: Duration = Duration::from_millis(20);
// The third probe at the latest confirms that a process is gone.
const _: () = assert!(RECHECK.as_millis() * 3 > CONFIRM.as_millis());

/// How long to wait for an answer before the record is read, to see whether the session moved. The wait then doubles
/// each time. Another coordinator may have moved the session away from a worker that does not run.
const LOOK: Duration = Duration::from_millis(250);

/// The outcome of a message to an agent. Without `Debug`, so that no body reaches a log line.
pub(crate) enum Reply {
    /// The agent answered, maybe with an error.
    Said(Message),
    /// The worker answered that it does not own the session.
    Moved,
    /// No responder: the message had no effect.
    Unheard,
    /// The process ended, or lost the session, before it answered. The message may have had an effect. The effect is
    /// then in the log under the request's id, and the next owner answers the same message from there.
    Lost,
    /// No answer in time: the message may have had an effect.
    Silent,
    /// The message with its headers is larger than the server's `max_payload`.
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

/// Sends a request to the agent of `owner`. Stops waiting when the process is gone or has lost the session.
pub(crate) async fn ask(context: &Context, owner: &Owner, letter: Letter<'_>) -> Reply {
    let key = letter.key;
    tokio::select! {
        biased;
        reply = send(context, owner, letter) => reply,
        () = until_gone(context, owner, key) => Reply::Lost,
        () = until_moved(context, owner, key) => Reply::Lost,
    }
}

/// Completes when the process of `owner` is found to be gone, by this request's probes or by another's.
async fn until_gone(context: &Context, owner: &Owner, key: &SessionKey) {
    let mut news = Box::pin(context.fleet.next_loss());
    loop {
        let every = if context.fleet.is_doubted(owner) { RECHECK } else { PROBE };
        tokio::select! {
            biased;
            () = &mut news => {}
            () = tokio::time::sleep(every) => {
                if context.fleet.begin_probe(owner, every) {
                    is_unheard(context, owner, key).await;
                }
            }
        }
        // Subscribed before the check, so that no notification is lost in between.
        news.set(context.fleet.next_loss());
        if context.fleet.is_unheard(owner) {
            return;
        }
    }
}

/// Completes when the record no longer names `owner`: from then on the storage refuses its writes.
async fn until_moved(context: &Context, owner: &Owner, key: &SessionKey) {
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause).await;
        let age = pause;
        pause *= 2;
        let now_with =
            |known: Known| known.record.owner.as_ref().is_some_and(|found| found.process() == owner.process());
        if context.records.recent_record(key, age, Instant::now() + pause).await.is_ok_and(|known| !now_with(known)) {
            return;
        }
    }
}

/// Whether a probe of `owner` has no responder. The probe has no effect.
pub(crate) async fn is_unheard(context: &Context, owner: &Owner, key: &SessionKey) -> bool {
    matches!(send(context, owner, lease_letter(key)).await, Reply::Unheard)
}

fn lease_letter(key: &SessionKey) -> Letter<'_> {
    let payload = Bytes::from_static(b"{}");
    Letter { key, call: call::LEASE, headers: None, payload, timeout: LEASE_VIEW_TIMEOUT }
}

async fn send(context: &Context, owner: &Owner, letter: Letter<'_>) -> Reply {
    let subject = context.config.root.agent(&owner.worker, owner.boot, letter.key, letter.call);
    let Letter { mut headers, payload, timeout, .. } = letter;
    trace::put(&mut headers, trace::current());
    let answer = context.wire.request(Request { subject: subject.into(), headers, payload, timeout }).await;
    if answer.is_ok() {
        context.fleet.heard(owner);
    }
    match answer {
        Ok(message) if has(&message, MOVED_HEADER) => Reply::Moved,
        Ok(message) => Reply::Said(message),
        Err(RequestError::NoResponders) => {
            context.fleet.unheard(&owner.process());
            Reply::Unheard
        }
        Err(RequestError::TooLarge(_)) => Reply::TooLarge,
        Err(RequestError::Refused(_) | RequestError::Unknown(_)) => Reply::Silent,
    }
}

fn has(message: &Message, header: &str) -> bool {
    message.headers.as_ref().is_some_and(|headers| headers.get(header).is_some())
}

/// The error in an agent's answer, if it is one.
pub(crate) fn refusal(message: &Message) -> Option<Error> {
    if !has(message, NUMBER_HEADER) {
        return None;
    }
    Some(match serde_json::from_slice::<ErrorReply>(&message.payload) {
        Ok(reply) => reply.error,
        Err(_) => error::bug("a worker answered with an error that does not parse"),
    })
}

/// The outcome of activating a session.
#[derive(Debug)]
pub(crate) enum Activated {
    /// The agent runs.
    Up,
    /// The session has moved, or must be placed again: read its record.
    Elsewhere,
    /// The agent refused; the client gets this error.
    Refused(Error),
}

/// What an agent starts from.
#[derive(Clone, Debug)]
pub(crate) enum Beginning {
    /// Its log.
    Log,
    /// This content, as a session that was just created: its log is empty.
    Blank(Option<Content>),
    /// Its log, or this content if the log is empty. For an open that is asked again.
    LogOr(Option<Content>),
}

/// Asks the owner of `known` to activate the session.
pub(crate) async fn activate(
    context: &Context,
    known: &Known,
    beginning: Beginning,
    operation: &Operation,
) -> Activated {
    let Some(owner) = &known.record.owner else { return Activated::Elsewhere };
    let (created, content) = match beginning {
        Beginning::Log => (false, None),
        Beginning::Blank(content) => (true, content),
        Beginning::LogOr(content) => (false, content),
    };
    let activate = Activate { hint: hint_of(known), created, content, request_id: operation.request_id.clone() };
    let key = known.record.key();
    let letter =
        Letter { key: &key, call: call::ACTIVATE, headers: None, payload: json(&activate), timeout: operation.left() };
    match ask(context, owner, letter).await {
        Reply::Said(message) => refusal(&message).map_or(Activated::Up, Activated::Refused),
        Reply::Moved | Reply::Unheard | Reply::Lost => {
            context.records.doubt(&key);
            Activated::Elsewhere
        }
        Reply::Silent => Activated::Refused(error::unknown_outcome(&key)),
        Reply::TooLarge => Activated::Refused(error::too_large()),
    }
}

/// Tells the owner of `known` what was just written. Nothing confirms it: an agent that misses a hint learns of the new
/// record when its next frame is refused.
pub(crate) async fn hint(context: &Context, known: &Known) {
    let Some(owner) = &known.record.owner else { return };
    let key = known.record.key();
    let subject = context.config.root.agent(&owner.worker, owner.boot, &key, call::HINT);
    if let Err(error) = context.wire.publish(Outgoing::to(subject, json(&hint_of(known)))).await {
        tracing::debug!(%key, %error, "a hint was not sent");
    }
}

/// The lease of the lock of `known` on its agent's clock, if the agent answers in time.
pub(crate) async fn lease(context: &Context, known: &Known) -> Option<LeaseView> {
    let owner = known.record.owner.as_ref()?;
    let key = known.record.key();
    match send(context, owner, knowing(lease_letter(&key), known)).await {
        Reply::Said(message) => serde_json::from_slice(&message.payload).ok(),
        Reply::Moved | Reply::Unheard | Reply::Lost | Reply::Silent | Reply::TooLarge => None,
    }
}

/// Who counts down the lease of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// The agent; the lease runs for this long still.
    For(Duration),
    /// The agent did not know of the lock. The question told it to read the record.
    Untold,
    /// Nobody: the session has no agent.
    Nobody,
    /// Unknown: the agent did not answer.
    Silent,
}

/// Asks the agent of `owner` whether it counts down the lease of the lock of `known`.
pub(crate) async fn counting(context: &Context, known: &Known, owner: &Owner) -> Counting {
    let key = known.record.key();
    match send(context, owner, knowing(lease_letter(&key), known)).await {
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

/// `letter` with the revision that its receiver must have read. The hint of a lock that was just granted may not have
/// arrived yet.
fn knowing<'a>(letter: Letter<'a>, known: &Known) -> Letter<'a> {
    let mut headers = HeaderMap::new();
    headers.insert(REVISION_HEADER, HeaderValue::from(known.revision.0));
    Letter { headers: Some(headers), ..letter }
}

/// What an agent tells about its session.
pub(crate) enum Inspected {
    /// This.
    Told(Inspection),
    /// The worker does not have the session in memory.
    Absent,
    /// No answer in time, or an error.
    Silent,
    /// No responder.
    Gone,
}

/// Asks the agent of `owner`, which has the session of `key`, for what a takeover would hit.
pub(crate) async fn inspect(context: &Context, owner: &Owner, key: &SessionKey) -> Inspected {
    let payload = Bytes::from_static(b"{}");
    let letter = Letter { key, call: call::INSPECT, headers: None, payload, timeout: TELL_TIMEOUT };
    match send(context, owner, letter).await {
        // A worker of an earlier version answers with an error.
        Reply::Said(message) if refusal(&message).is_none() => {
            serde_json::from_slice(&message.payload).map_or(Inspected::Silent, Inspected::Told)
        }
        Reply::Moved => Inspected::Absent,
        Reply::Unheard => Inspected::Gone,
        Reply::Said(_) | Reply::Lost | Reply::Silent | Reply::TooLarge => Inspected::Silent,
    }
}

/// Whether a worker responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It answers.
    There,
    /// Its process is gone.
    Gone,
    /// It has a subscription and does not answer: its process is stopped or overloaded.
    Silent,
}

/// Whether the worker of `owner`, which has the session of `known`, responds.
pub(crate) async fn presence(context: &Context, known: &Known, owner: &Owner) -> Presence {
    let key = known.record.key();
    loop {
        match send(context, owner, lease_letter(&key)).await {
            Reply::Said(_) | Reply::Moved => return Presence::There,
            Reply::Silent | Reply::TooLarge | Reply::Lost => return Presence::Silent,
            Reply::Unheard if context.fleet.is_gone(owner) => return Presence::Gone,
            Reply::Unheard => tokio::time::sleep(RECHECK).await,
        }
    }
}

/// Asks `owner` to finish with a session before it moves. The move does not depend on its answer: the record decides.
pub(crate) async fn handover(context: &Context, owner: &Owner, key: &SessionKey, timeout: Duration) {
    let payload = Bytes::from_static(b"{}");
    let letter = Letter { key, call: call::HANDOVER, headers: None, payload, timeout };
    let outcome = match ask(context, owner, letter).await {
        Reply::Said(message) => match refusal(&message) {
            None => return,
            Some(refusal) => refusal.reason.as_str(),
        },
        Reply::Moved => "the worker does not own the session",
        Reply::Unheard | Reply::Lost => "no responder",
        Reply::Silent | Reply::TooLarge => "no answer",
    };
    tracing::info!(%key, worker = %owner.worker, outcome, "a session is moved without a handover");
}

fn hint_of(known: &Known) -> Hint {
    Hint { revision: known.revision, record: known.record.as_ref().clone() }
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("a record and content are strings, numbers and JSON values").into()
}
