//! Finding a session's agent and passing requests to it unread.
//!
//! Invariant: a request is sent again only when the copy before had no effect (nobody listened, or the worker did not own
//! the session), or when the process that had it is gone: then whatever it did is in the log under the request's id, and the
//! next owner answers by that. Silence of a living process is *unknown outcome* for a change, and *unavailable* for a read.

use std::time::Duration;

use async_nats::header::HeaderMap;
use async_nats::{HeaderValue, Message};
use holdfast_protocol::internal::{LIFE_HEADER, REQUEST_ID_HEADER, REVISION_HEADER};
use holdfast_protocol::record::{EventType, Owner, State};
use holdfast_protocol::reply::{Closed, Touched};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Reason, SessionKey};
use tokio::time::Instant;

use crate::agent::{self, Beginning, Letter, Reply};
use crate::answer::Answer;
use crate::cache::Known;
use crate::call::Incoming;
use crate::decide::{self, Standing};
use crate::error;
use crate::explain;
use crate::hub::Hub;
use crate::leave;
use crate::past::is_made_by;
use crate::place;

/// How long to wait for a worker that nobody listens for before it is asked again: at first, and at most.
const WAIT: (Duration, Duration) = (agent::RECHECK, Duration::from_millis(200));

/// Passes a request to the session's agent, wherever that is, and its answer back.
///
/// # Errors
/// What this coordinator says itself: `no_session`, `record_invalid`, `no_live_worker`, `unavailable`, `unknown_outcome`.
pub(crate) async fn relay(hub: &Hub, verb: Verb, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let deadline = incoming.arrived + incoming.timeout;
    let mut known = match verb {
        Verb::SessionClose => match closing(hub, key, incoming).await? {
            Closing::Before => return was_closed(key),
            Closing::Now(known) => known,
        },
        _ => hub.records.record(key, deadline).await?,
    };
    let mut life = Life::default();
    let (mut wait, mut has_moved) = (WAIT.0, false);
    loop {
        if known.is_as_of(incoming.arrived) {
            life.is(&known, key)?;
        }
        let step = match decide::standing(&known.record, |owner| hub.registry.is_lost(owner)) {
            Standing::Active(owner) => send(hub, verb, key, &known, owner, incoming).await?,
            Standing::Closed | Standing::Passive if !known.is_as_of(incoming.arrived) => Step::Look,
            Standing::Closed => return closed(verb, key, &known, incoming),
            Standing::Passive if verb == Verb::SessionTouch => return touched(&known),
            Standing::Passive | Standing::Orphaned(_) => Step::Place,
        };
        known = match step {
            Step::Answered(message) => {
                if matches!(verb, Verb::DocLoad | Verb::DocSave)
                    && let Some(refusal) = agent::refusal(&message)
                {
                    let call = incoming.peeked();
                    if refusal.reason == Reason::WorkspaceDenied
                        && !std::mem::replace(&mut has_moved, true)
                        && let Ok(Some(elsewhere)) = leave::read_only(hub, key, call).await
                    {
                        known = elsewhere;
                        continue;
                    }
                    explain::failed(hub, &known, &refusal, call).await;
                }
                return Ok(Answer::relayed(message));
            }
            Step::Place => place::place(hub, key, incoming.peeked(), &Beginning::Log).await?,
            Step::Look => hub.records.read_record(key, deadline).await?,
            Step::LookLater => {
                let call = incoming.peeked();
                call.in_time(key)?;
                call.pause().await;
                hub.records.read_record(key, deadline).await?
            }
            Step::Wait => {
                let call = incoming.peeked();
                call.in_time(key)?;
                hub.registry.news_within(wait.min(call.left())).await;
                wait = (wait * 2).min(WAIT.1);
                hub.records.read_record(key, deadline).await?
            }
        };
    }
}

/// The life of the session that a request is for: the one that went on when it arrived. A session that was closed and opened again
/// meanwhile is another one, and gets nothing that was meant for the earlier.
#[derive(Default)]
struct Life(Option<u64>);

impl Life {
    /// `known` was current after the request arrived.
    fn is(&mut self, known: &Known, key: &SessionKey) -> Result<(), Error> {
        let now = known.record.log_after;
        if *self.0.get_or_insert(now) == now { Ok(()) } else { Err(error::no_session(key)) }
    }
}

/// What one attempt came to.
enum Step {
    Answered(Message),
    /// Nobody holds it, or nobody any more: give it to a worker.
    Place,
    /// What is known is old.
    Look,
    /// What is known is old, and the next may be on its way.
    LookLater,
    /// Nobody listens; that may be for a moment only.
    Wait,
}

async fn send(
    hub: &Hub,
    verb: Verb,
    key: &SessionKey,
    known: &Known,
    owner: &Owner,
    incoming: &Incoming,
) -> Result<Step, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(REVISION_HEADER, HeaderValue::from(known.revision.0));
    headers.insert(REQUEST_ID_HEADER, incoming.made.as_str());
    if verb == Verb::SessionClose {
        headers.insert(LIFE_HEADER, HeaderValue::from(known.record.log_after));
    }
    let timeout = (incoming.arrived + incoming.timeout).saturating_duration_since(Instant::now());
    let payload = incoming.payload.clone();
    let letter = Letter { key, call: verb.as_str(), headers: Some(headers), payload, timeout };
    match agent::ask(hub, owner, letter).await {
        Reply::Said(message) => Ok(Step::Answered(message)),
        // Handed over a moment ago, maybe: then the record will say so in a moment.
        Reply::Moved => Ok(Step::LookLater),
        // The registry knows it, so that the session is placed anew once that is confirmed.
        Reply::Unheard => Ok(Step::Wait),
        Reply::Lost => Ok(Step::LookLater),
        Reply::Silent if verb.is_read() => {
            let why = format!("worker {} has session {} and did not answer in time", owner.worker, key.id);
            Err(error::storage_unavailable(&why).detail("session_id", key.id.as_str()))
        }
        Reply::Silent => Err(error::unknown_outcome(key)),
        Reply::TooLarge => Err(error::too_large()),
    }
}

/// What a `session.close` is about.
enum Closing {
    /// A copy of it closed the session that it was meant for.
    Before,
    /// This one, as the leader has it.
    Now(Known),
}

/// Looks whether a copy of a `session.close` took effect before. The session that is there now may have been opened since.
async fn closing(hub: &Hub, key: &SessionKey, incoming: &Incoming) -> Result<Closing, Error> {
    let call = incoming.peeked();
    let known = hub.records.read_record(key, call.deadline).await?;
    // The first session of an id that is there was not closed.
    let may_have_closed = known.record.log_after > 0 || known.record.state == State::Closed;
    if call.by_caller && may_have_closed {
        let past = hub.records.past(key, known.revision, call.deadline).await?;
        if past.was_closed_by(&call.request_id) {
            return Ok(Closing::Before);
        }
    }
    Ok(Closing::Now(known))
}

fn closed(verb: Verb, key: &SessionKey, known: &Known, incoming: &Incoming) -> Result<Answer, Error> {
    // Its first copy may have been at work while this one was under way.
    let by_this = || is_made_by(&known.record, &incoming.peeked().request_id, &[EventType::SessionClosed]);
    if verb == Verb::SessionClose && by_this() { was_closed(key) } else { Err(error::no_session(key)) }
}

fn was_closed(key: &SessionKey) -> Result<Answer, Error> {
    Answer::of(&Closed { session_id: key.id.clone(), closed: true })
}

fn touched(known: &Known) -> Result<Answer, Error> {
    Answer::of(&Touched { session_id: known.record.id.clone(), state: State::Passive })
}
