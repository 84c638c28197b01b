//! `admin.move`: an operator gives a session to another worker.
//!
//! Invariant: the old agent finishes first if it can; whether it did or not, the record decides.

use holdfast_protocol::record::{EventType, State};
use holdfast_protocol::reply::Session;
use holdfast_protocol::request::Move;
use holdfast_protocol::{Boot, Error, Reason, SessionKey, WorkerName};
use holdfast_records::{Known, NotDone};
use holdfast_store::mutant::{self, Mutant};

use crate::answer::Answer;
use crate::call::{Call, Incoming};
use crate::config::HANDOVER_TIMEOUT;
use crate::error;
use crate::fleet::placement::Needs;
use crate::hub::Hub;
use crate::link::{self, Activated, Beginning};
use crate::place::Giving;

/// Moves a session to the worker that was named, or to any other.
pub(crate) async fn answer(hub: &Hub, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (request, call) = incoming.parse::<Move>(&hub.config.limits)?;
    let known = moved(hub, key, &request, &call).await?;
    Answer::of(&Session::of(&known.record, known.revision))
}

async fn moved(hub: &Hub, key: &SessionKey, request: &Move, call: &Call) -> Result<Known, Error> {
    loop {
        call.in_time(key)?;
        let known = hub.records.read_record(key, call.deadline).await?;
        if known.record.state == State::Closed {
            return Err(Error::no_session(key));
        }
        if was_moved_before(hub, &known, call).await? {
            return Ok(known);
        }
        let target = target(hub, key, request, &known, call).await?;
        let owner = known.record.owner.as_ref();
        if owner.is_some_and(|owner| (&owner.worker, owner.boot) == (&target.0, target.1)) {
            return Ok(known);
        }
        if let Some(owner) = owner {
            // Half of the time at most, so that the new owner has some too.
            link::handover(hub, owner, key, HANDOVER_TIMEOUT.min(call.left() / 2)).await;
        }
        let giving = Giving { at: known.revision, to: target, reason: &request.reason };
        match giving.write(hub, key, call).await {
            Ok(known) => match link::activate(hub, &known, Beginning::Log, call).await {
                Activated::Up => return Ok(known),
                Activated::Refused(error) => return Err(error),
                Activated::Elsewhere => {}
            },
            Err(NotDone::Moved) => {}
            Err(not_done) => return Err(error::of_not_done(not_done, key)),
        }
        call.pause().await;
    }
}

/// Whether an earlier copy of this request moved it.
async fn was_moved_before(hub: &Hub, known: &Known, call: &Call) -> Result<bool, Error> {
    if !call.by_caller || mutant::is(Mutant::LateMoveMoves) {
        return Ok(false);
    }
    let past = hub.records.past(&known.record.key(), known.revision, call.deadline).await?;
    Ok(past.made_by(&call.request_id, &[EventType::SessionMoved, EventType::SessionActivated]).is_some())
}

async fn target(
    hub: &Hub,
    key: &SessionKey,
    request: &Move,
    known: &Known,
    call: &Call,
) -> Result<(WorkerName, Boot), Error> {
    let needs = Needs::of(&known.record);
    if let Some(name) = &request.worker {
        return hub.registry.named(name, needs, call.deadline).await;
    }
    let now_at = known.record.owner.as_ref().map(|owner| &owner.worker);
    let chosen = hub.registry.choose(key, needs, now_at, call.deadline).await;
    chosen.map_err(|error| if error.reason == Reason::NoLiveWorker { nowhere_to_go(key) } else { error })
}

/// A session that works where it is does not wait for a place to go to.
fn nowhere_to_go(key: &SessionKey) -> Error {
    let message = format!("no other worker is there to take session {}", key.id);
    error::no_live_worker(&message).detail("session_id", key.id.as_str()).not_retryable()
}
