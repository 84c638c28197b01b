//! Finds a session's agent and relays requests to it without parsing them.
//!
//! Invariant: a request is sent again only in two cases. The copy before had no effect: it had no responder, or the
//! worker did not own the session. Or the process that received it is gone: then its effect, if any, is in the log
//! under the request's id, and the next owner answers from there. When a live process does not answer in time, a change
//! is *unknown outcome* and a read is *unavailable*.

use std::time::Duration;

use async_nats::header::HeaderMap;
use async_nats::{HeaderValue, Message};
use holdfast_protocol::internal::{ACTOR_PROVEN_HEADER, LIFE_HEADER, REQUEST_ID_HEADER, REVISION_HEADER};
use holdfast_protocol::record::{Owner, State};
use holdfast_protocol::reply::Touched;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Reason, SessionKey};
use holdfast_records::Known;
use holdfast_rules::place::{Ownership, ownership};
use holdfast_store::mutant::{self, Mutant};
use tokio::time::Instant;

use crate::context::Context;
use crate::error;
use crate::explain;
use crate::leave;
use crate::link::{self, Beginning, Letter, Reply};
use crate::operation::Incoming;
use crate::place;
use crate::response::Response;
use crate::revoke;
use crate::verb::session::close::{Closing, closed, closing, was_closed};

/// The pause before a worker without a responder is asked again: the first one, and the longest.
const WAIT: (Duration, Duration) = (link::RECHECK, Duration::from_millis(200));

/// Relays a request to the session's agent and returns the agent's answer.
///
/// # Errors
/// Those of the coordinator itself: `no_session`, `record_invalid`, `no_live_worker`, `unavailable`, `unknown_outcome`.
pub(crate) async fn relay(
    context: &Context,
    verb: Verb,
    key: &SessionKey,
    incoming: &Incoming,
) -> Result<Response, Error> {
    let deadline = incoming.arrived + incoming.timeout;
    let mut known = match verb {
        Verb::SessionClose => match closing(context, key, incoming).await? {
            Closing::Before => return was_closed(key),
            Closing::Now(known) => known,
        },
        _ => context.records.record(key, deadline).await?,
    };
    if revoke::is_due(context, &known.record) {
        revoke::found(context, key).await;
        known = context.records.read_record(key, deadline).await?;
    }
    let mut life = Life::default();
    let (mut wait, mut has_moved) = (WAIT.0, false);
    loop {
        if let Err(error) = life.is(&known, key, incoming) {
            return match verb {
                // An earlier copy may have closed the session that this copy was meant for.
                Verb::SessionClose => match closing(context, key, incoming).await? {
                    Closing::Before => was_closed(key),
                    Closing::Now(_) => Err(error),
                },
                _ => Err(error),
            };
        }
        let attempt = match ownership(&known.record, |owner| context.fleet.is_lost(owner)) {
            Ownership::Active(owner) => send(context, verb, key, &known, owner, incoming).await?,
            Ownership::Closed | Ownership::Passive if !known.is_as_of(incoming.arrived) => Attempt::Look,
            // Only the log tells what the lost process did, and the log has ended with the session.
            Ownership::Closed if life.of_lost.is_some() && verb != Verb::SessionClose => {
                return Err(error::unknown_outcome(key));
            }
            Ownership::Closed => return closed(verb, key, &known, incoming),
            Ownership::Passive if verb == Verb::SessionTouch => return touched(&known),
            Ownership::Passive | Ownership::Orphaned(_) => Attempt::Place,
        };
        known = match attempt {
            // The worker that answered may have lost the session without knowing it yet.
            Attempt::Answered(_) if verb.is_read() && is_behind(context, key, &known) => {
                look_later(context, key, incoming).await?
            }
            Attempt::Answered(message) => {
                if matches!(verb, Verb::DocLoad | Verb::DocSave)
                    && let Some(refusal) = link::refusal(&message)
                {
                    let operation = incoming.peeked();
                    if refusal.reason == Reason::WorkspaceDenied
                        && !std::mem::replace(&mut has_moved, true)
                        && let Ok(Some(elsewhere)) = leave::from_read_only(context, key, operation).await
                    {
                        known = elsewhere;
                        continue;
                    }
                    explain::failed(context, &known, &refusal, operation).await;
                }
                return Ok(Response::relayed(message));
            }
            Attempt::Place => place::place(context, key, incoming.peeked(), &Beginning::Log).await?,
            Attempt::Look => context.records.read_record(key, deadline).await?,
            Attempt::LookLater => look_later(context, key, incoming).await?,
            Attempt::Lost => {
                life.of_lost = Some(known.record.log_after).filter(|_| !verb.is_read());
                look_later(context, key, incoming).await?
            }
            Attempt::Wait => {
                let operation = incoming.peeked();
                operation.in_time(key)?;
                context.fleet.loss_within(wait.min(operation.left())).await;
                wait = (wait * 2).min(WAIT.1);
                context.records.read_record(key, deadline).await?
            }
        };
    }
}

async fn look_later(context: &Context, key: &SessionKey, incoming: &Incoming) -> Result<Known, Error> {
    let operation = incoming.peeked();
    operation.in_time(key)?;
    operation.pause().await;
    context.records.read_record(key, operation.deadline).await
}

/// Whether this coordinator has seen that the session moved since `known`.
fn is_behind(context: &Context, key: &SessionKey, known: &Known) -> bool {
    let activation = |known: &Known| known.record.owner.as_ref().map(|owner| owner.activation);
    let is_later = |seen: Known| seen.revision > known.revision && activation(&seen) != activation(known);
    !mutant::is(Mutant::ReadOfLoser) && context.records.cached(key).is_some_and(is_later)
}

/// Which life of the session a request is for. A life goes from an open to the close after it: a session that was
/// closed and opened again is in another life, and must not get a request that was meant for the earlier one.
#[derive(Default)]
struct Life {
    /// The life that the session was in when the request arrived.
    of_arrival: Option<u64>,
    /// The life in which a lost copy of the request may have taken effect.
    of_lost: Option<u64>,
}

impl Life {
    fn is(&mut self, known: &Known, key: &SessionKey, incoming: &Incoming) -> Result<(), Error> {
        if mutant::is(Mutant::LifeIgnored) {
            return Ok(());
        }
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

/// The outcome of one attempt, and with it the next step.
enum Attempt {
    Answered(Message),
    /// No live worker holds the session: place it.
    Place,
    /// The known record is old: read it.
    Look,
    /// The known record is old, and its successor may not be written yet: pause, then read.
    LookLater,
    /// The process that received the request is gone, and may have executed it.
    Lost,
    /// No responder; the worker may be reconnecting.
    Wait,
}

async fn send(
    context: &Context,
    verb: Verb,
    key: &SessionKey,
    known: &Known,
    owner: &Owner,
    incoming: &Incoming,
) -> Result<Attempt, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(REVISION_HEADER, HeaderValue::from(known.revision.0));
    headers.insert(REQUEST_ID_HEADER, incoming.made.as_str());
    if let Some(actor) = &incoming.asker.actor_proven {
        headers.insert(ACTOR_PROVEN_HEADER, actor.as_str());
    }
    if !verb.is_read() {
        headers.insert(LIFE_HEADER, HeaderValue::from(known.record.log_after));
    }
    let timeout = (incoming.arrived + incoming.timeout).saturating_duration_since(Instant::now());
    let payload = incoming.payload.clone();
    let letter = Letter { key, call: verb.as_str(), headers: Some(headers), payload, timeout };
    match link::ask(context, owner, letter).await {
        Reply::Said(message) => Ok(Attempt::Answered(message)),
        // The session was probably handed over just now, and the record will show it soon.
        Reply::Moved => Ok(Attempt::LookLater),
        // `fleet` has noted it, so the session is placed anew once that is confirmed.
        Reply::Unheard => Ok(Attempt::Wait),
        Reply::Lost => Ok(Attempt::Lost),
        Reply::Silent if verb.is_read() => {
            let why = format!("worker {} has session {} and did not answer in time", owner.worker, key.id);
            Err(error::storage_unavailable(&why).detail("session_id", key.id.as_str()))
        }
        Reply::Silent => Err(error::unknown_outcome(key)),
        Reply::TooLarge => Err(error::too_large()),
    }
}

fn touched(known: &Known) -> Result<Response, Error> {
    Response::of(&Touched { session_id: known.record.id.clone(), state: State::Passive })
}
