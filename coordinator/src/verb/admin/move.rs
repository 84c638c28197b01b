//! `admin.move`: an operator gives a session to another worker.
//!
//! Invariant: the old agent gets time to finish. Whether it finished or not, the record decides.

use holdfast_protocol::record::{EventType, State};
use holdfast_protocol::reply::Session;
use holdfast_protocol::request::Move;
use holdfast_protocol::{Error, Process, Reason, SessionKey};
use holdfast_records::{Known, NotDone};
use holdfast_store::mutant::{self, Mutant};

use crate::config::HANDOVER_TIMEOUT;
use crate::context::Context;
use crate::error;
use crate::fleet::placement::Needs;
use crate::link::{self, Activated, Beginning};
use crate::meters::Placement;
use crate::operation::{Incoming, Operation};
use crate::place::Giving;
use crate::response::Response;

/// Moves a session to the named worker, or to any other.
pub(crate) async fn answer(context: &Context, key: &SessionKey, incoming: &Incoming) -> Result<Response, Error> {
    let (request, operation) = incoming.parse::<Move>(&context.config.limits)?;
    let known = moved(context, key, &request, &operation).await?;
    Response::of(&Session::of(&known.record, known.revision))
}

async fn moved(context: &Context, key: &SessionKey, request: &Move, operation: &Operation) -> Result<Known, Error> {
    loop {
        operation.in_time(key)?;
        let known = context.records.read_record(key, operation.deadline).await?;
        if known.record.state == State::Closed {
            return Err(Error::no_session(key));
        }
        if was_moved_before(context, &known, operation).await? {
            return Ok(known);
        }
        let target = target(context, key, request, &known, operation).await?;
        let owner = known.record.owner.as_ref();
        if owner.is_some_and(|owner| owner.process() == target) {
            return Ok(known);
        }
        if let Some(owner) = owner {
            // Half of the time at most; the new owner needs the rest.
            link::handover(context, owner, key, HANDOVER_TIMEOUT.min(operation.left() / 2)).await;
        }
        let giving = Giving { at: known.revision, to: target, reason: &request.reason, cause: Placement::Moved };
        match giving.write(context, key, operation).await {
            Ok(known) => match link::activate(context, &known, Beginning::Log, operation).await {
                Activated::Up => return Ok(known),
                Activated::Refused(error) => return Err(error),
                Activated::Elsewhere => {}
            },
            Err(NotDone::Moved) => {}
            Err(not_done) => return Err(error::of_not_done(not_done, key)),
        }
        operation.pause().await;
    }
}

/// Whether an earlier copy of this request moved the session.
async fn was_moved_before(context: &Context, known: &Known, operation: &Operation) -> Result<bool, Error> {
    if !operation.by_caller || mutant::is(Mutant::LateMoveMoves) {
        return Ok(false);
    }
    let past = context.records.past(&known.record.key(), known.revision, operation.deadline).await?;
    Ok(past.made_by(&operation.request_id, &[EventType::SessionMoved, EventType::SessionActivated]).is_some())
}

async fn target(
    context: &Context,
    key: &SessionKey,
    request: &Move,
    known: &Known,
    operation: &Operation,
) -> Result<Process, Error> {
    let needs = Needs::of(&known.record);
    if let Some(name) = &request.worker {
        return context.fleet.named(name, needs, operation.deadline).await;
    }
    let now_at = known.record.owner.as_ref().map(|owner| &owner.worker);
    let chosen = context.fleet.choose(key, needs, now_at, operation.deadline).await;
    chosen.map_err(|error| if error.reason == Reason::NoLiveWorker { nowhere_to_go(key) } else { error })
}

/// Not retryable: the session works where it is.
fn nowhere_to_go(key: &SessionKey) -> Error {
    let message = format!("no other worker is there to take session {}", key.id);
    error::no_live_worker(&message).detail("session_id", key.id.as_str()).not_retryable()
}
