//! Finding a session's agent and passing requests to it unread.
//!
//! Invariant: a request is sent again only when the copy before had no effect (nobody listened, or the worker did not own
//! the session), or when the process that had it is gone: then whatever it did is in the log under the request's id, and the
//! next owner answers by that. Silence of a living process is *unknown outcome* for a change, and *unavailable* for a read.

use std::time::Duration;

use async_nats::header::HeaderMap;
use async_nats::{HeaderValue, Message};
use holdfast_protocol::internal::{LIFE_HEADER, REQUEST_ID_HEADER, REVISION_HEADER};
use holdfast_protocol::record::{Owner, State};
use holdfast_protocol::reply::Touched;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Reason, SessionKey};
use holdfast_records::Known;
use holdfast_rules::place::{Standing, standing};
use tokio::time::Instant;

use crate::answer::Answer;
use crate::call::Incoming;
use crate::error;
use crate::explain;
use crate::hub::Hub;
use crate::leave;
use crate::link::{self, Beginning, Letter, Reply};
use crate::place;
use crate::verb::session::close::{Closing, closed, closing, was_closed};

/// How long to wait for a worker that nobody listens for before it is asked again: at first, and at most.
const WAIT: (Duration, Duration) = (link::RECHECK, Duration::from_millis(200));

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
        if let Err(error) = life.is(&known, key, incoming) {
            return match verb {
                // A copy of it may have ended the session that this one was meant for.
                Verb::SessionClose => match closing(hub, key, incoming).await? {
                    Closing::Before => was_closed(key),
                    Closing::Now(_) => Err(error),
                },
                _ => Err(error),
            };
        }
        let step = match standing(&known.record, |owner| hub.registry.is_lost(owner)) {
            Standing::Active(owner) => send(hub, verb, key, &known, owner, incoming).await?,
            Standing::Closed | Standing::Passive if !known.is_as_of(incoming.arrived) => Step::Look,
            // The log that says what the lost process did is over with the session: nobody answers by it.
            Standing::Closed if life.of_lost.is_some() && verb != Verb::SessionClose => {
                return Err(error::unknown_outcome(key));
            }
            Standing::Closed => return closed(verb, key, &known, incoming),
            Standing::Passive if verb == Verb::SessionTouch => return touched(&known),
            Standing::Passive | Standing::Orphaned(_) => Step::Place,
        };
        known = match step {
            // The worker that answered may have lost the session, and not know that yet.
            Step::Answered(_) if verb.is_read() && is_behind(hub, key, &known) => {
                look_later(hub, key, incoming).await?
            }
            Step::Answered(message) => {
                if matches!(verb, Verb::DocLoad | Verb::DocSave)
                    && let Some(refusal) = link::refusal(&message)
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
            Step::LookLater => look_later(hub, key, incoming).await?,
            Step::Lost => {
                life.of_lost = Some(known.record.log_after).filter(|_| !verb.is_read());
                look_later(hub, key, incoming).await?
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

async fn look_later(hub: &Hub, key: &SessionKey, incoming: &Incoming) -> Result<Known, Error> {
    let call = incoming.peeked();
    call.in_time(key)?;
    call.pause().await;
    hub.records.read_record(key, call.deadline).await
}

/// Whether the session was given to another since `known`, as far as is seen here.
fn is_behind(hub: &Hub, key: &SessionKey, known: &Known) -> bool {
    let activation = |known: &Known| known.record.owner.as_ref().map(|owner| owner.activation);
    hub.records.cached(key).is_some_and(|seen| seen.revision > known.revision && activation(&seen) != activation(known))
}

/// The life of the session that a request is for. A session that was closed and opened again meanwhile is another one,
/// and gets nothing that was meant for the earlier.
#[derive(Default)]
struct Life {
    /// The one that went on when the request arrived.
    of_arrival: Option<u64>,
    /// The one that a copy of the request may have changed, by a process that is gone.
    of_lost: Option<u64>,
}

impl Life {
    fn is(&mut self, known: &Known, key: &SessionKey, incoming: &Incoming) -> Result<(), Error> {
        let now = known.record.log_after;
        if known.is_as_of(incoming.arrived) && *self.of_arrival.get_or_insert(now) != now {
            return Err(Error::no_session(key));
        }
        if self.of_lost.is_some_and(|lost| lost != now) {
            return Err(error::unknown_outcome(key));
        }
        Ok(())
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
    /// The process that had it is gone, and may have done it.
    Lost,
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
    if !verb.is_read() {
        headers.insert(LIFE_HEADER, HeaderValue::from(known.record.log_after));
    }
    let timeout = (incoming.arrived + incoming.timeout).saturating_duration_since(Instant::now());
    let payload = incoming.payload.clone();
    let letter = Letter { key, call: verb.as_str(), headers: Some(headers), payload, timeout };
    match link::ask(hub, owner, letter).await {
        Reply::Said(message) => Ok(Step::Answered(message)),
        // Handed over a moment ago, maybe: then the record will say so in a moment.
        Reply::Moved => Ok(Step::LookLater),
        // The registry knows it, so that the session is placed anew once that is confirmed.
        Reply::Unheard => Ok(Step::Wait),
        Reply::Lost => Ok(Step::Lost),
        Reply::Silent if verb.is_read() => {
            let why = format!("worker {} has session {} and did not answer in time", owner.worker, key.id);
            Err(error::storage_unavailable(&why).detail("session_id", key.id.as_str()))
        }
        Reply::Silent => Err(error::unknown_outcome(key)),
        Reply::TooLarge => Err(error::too_large()),
    }
}

fn touched(known: &Known) -> Result<Answer, Error> {
    Answer::of(&Touched { session_id: known.record.id.clone(), state: State::Passive })
}
