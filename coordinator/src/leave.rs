//! Moves that nobody asked for, with something that could not be done where the session is: a takeover from a worker that
//! stands still, and a save by one that may not write.
//!
//! Invariant: the old agent finishes first if it can; whether it did or not, the record decides.

use holdfast_protocol::{Boot, Error, SessionKey, WorkerName};
use holdfast_records::{Known, NotDone};

use crate::call::Call;
use crate::config::HANDOVER_TIMEOUT;
use crate::error;
use crate::fleet::placement::Needs;
use crate::hub::Hub;
use crate::link::{self, Activated, Beginning, Presence};
use crate::place::{self, Giving};

/// Moves the session of `known` away from a worker that is gone or does not answer, if there is another one: whoever
/// took the lock over is to work with it at once, and not after a lease has run out. Best effort: the takeover is done.
pub(crate) async fn silent(hub: &Hub, known: &Known, call: &Call) {
    let Some(owner) = &known.record.owner else { return };
    let key = known.record.key();
    match link::presence(hub, known, owner).await {
        Presence::There => {}
        Presence::Gone => {
            if let Err(error) = place::place(hub, &key, call, &Beginning::Log).await {
                tracing::info!(%key, %error, "a session of a worker that is gone was not moved with its takeover");
            }
        }
        Presence::Silent => {
            let chosen = hub.registry.choose(&key, Needs::of(&known.record), Some(&owner.worker), call.deadline).await;
            let Ok(chosen) = chosen else { return };
            leave(hub, known, chosen, &format!("worker {} does not answer", owner.worker), call).await;
        }
    }
}

/// Moves the session `key` away from a worker that may not write its file, if there is one that may. Returns its record if it
/// is with such a one now, whoever moved it there; then a save is worth another try.
///
/// # Errors
/// As reading a record does.
pub(crate) async fn read_only(hub: &Hub, key: &SessionKey, call: &Call) -> Result<Option<Known>, Error> {
    let known = hub.records.read_record(key, call.deadline).await?;
    if is_with_writer(hub, &known) {
        return Ok(Some(known));
    }
    let (Some(owner), Some(workspace)) = (&known.record.owner, &known.record.workspace) else { return Ok(None) };
    let Some(chosen) = hub.registry.choose_writer(key, Needs::of(&known.record), call.deadline).await else {
        return Ok(None);
    };
    link::handover(hub, owner, key, HANDOVER_TIMEOUT.min(call.left() / 2)).await;
    let reason = format!("worker {} has workspace {workspace} read-only", owner.worker);
    if let Some(known) = leave(hub, &known, chosen, &reason, call).await {
        return Ok(Some(known));
    }
    // Another save may have been as far.
    let known = hub.records.read_record(key, call.deadline).await?;
    Ok(is_with_writer(hub, &known).then_some(known))
}

fn is_with_writer(hub: &Hub, known: &Known) -> bool {
    let (owner, workspace) = (&known.record.owner, &known.record.workspace);
    owner.as_ref().zip(workspace.as_ref()).is_some_and(|(owner, workspace)| hub.registry.may_write(owner, workspace))
}

/// Gives the session of `known` to `chosen`, if nobody else is at work on it; how its record stands then.
async fn leave(hub: &Hub, known: &Known, chosen: (WorkerName, Boot), reason: &str, call: &Call) -> Option<Known> {
    let key = known.record.key();
    let written = Giving { at: known.revision, to: chosen, reason }.write(hub, &key, call).await;
    let known = match written {
        Ok(known) => known,
        // Somebody else was at work on it.
        Err(NotDone::Moved) => return None,
        Err(not_done) => {
            let error = error::of_not_done(not_done, &key);
            tracing::info!(%key, reason, %error, "a session stays where it is");
            return None;
        }
    };
    match link::activate(hub, &known, Beginning::Log, call).await {
        Activated::Up => tracing::info!(%key, reason, "a session was moved"),
        // The next request finds whoever has it.
        Activated::Elsewhere => {}
        Activated::Refused(error) => tracing::info!(%key, %error, "a session was moved and is not up yet"),
    }
    Some(known)
}
