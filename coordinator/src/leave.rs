//! Moves that another request makes necessary: a takeover whose worker does not answer, and a save on a worker that may
//! not write the file.
//!
//! Invariant: the old agent gets time to finish. Whether it finished or not, the record decides.

use holdfast_protocol::{Error, Process, SessionKey};
use holdfast_records::{Known, NotDone};

use crate::config::HANDOVER_TIMEOUT;
use crate::context::Context;
use crate::error;
use crate::fleet::placement::Needs;
use crate::link::{self, Activated, Beginning, Presence};
use crate::meters::Placement;
use crate::operation::Operation;
use crate::place::{self, Giving};

/// Moves the session of `known` away from a worker that is gone or does not answer, if there is another worker. So the
/// new holder of the lock can use the session at once, and not only after the worker's lease ran out. Best effort: the
/// takeover itself is committed already.
pub(crate) async fn from_silent(context: &Context, known: &Known, operation: &Operation) {
    let Some(owner) = &known.record.owner else { return };
    let key = known.record.key();
    match link::presence(context, known, owner).await {
        Presence::There => {}
        Presence::Gone => {
            if let Err(error) = place::place(context, &key, operation, &Beginning::Log).await {
                tracing::info!(%key, %error, "a session of a worker that is gone was not moved with its takeover");
            }
        }
        Presence::Silent => {
            let chosen =
                context.fleet.choose(&key, Needs::of(&known.record), Some(&owner.worker), operation.deadline).await;
            let Ok(chosen) = chosen else { return };
            let why = Why { reason: &format!("worker {} does not answer", owner.worker), cause: Placement::Failover };
            leave(context, known, chosen, why, operation).await;
        }
    }
}

/// Moves the session `key` from a worker that may not write its file to one that may. Returns the record if the session
/// is on such a worker now, whoever moved it; then the save is worth another attempt.
///
/// # Errors
/// As reading a record does.
pub(crate) async fn from_read_only(
    context: &Context,
    key: &SessionKey,
    operation: &Operation,
) -> Result<Option<Known>, Error> {
    let known = context.records.read_record(key, operation.deadline).await?;
    if is_with_writer(context, &known) {
        return Ok(Some(known));
    }
    let (Some(owner), Some(workspace)) = (&known.record.owner, &known.record.workspace) else { return Ok(None) };
    let Some(chosen) = context.fleet.choose_writer(key, Needs::of(&known.record), operation.deadline).await else {
        return Ok(None);
    };
    link::handover(context, owner, key, HANDOVER_TIMEOUT.min(operation.left() / 2)).await;
    let reason = format!("worker {} has workspace {workspace} read-only", owner.worker);
    let why = Why { reason: &reason, cause: Placement::Moved };
    if let Some(known) = leave(context, &known, chosen, why, operation).await {
        return Ok(Some(known));
    }
    // A concurrent save may have moved it.
    let known = context.records.read_record(key, operation.deadline).await?;
    Ok(is_with_writer(context, &known).then_some(known))
}

fn is_with_writer(context: &Context, known: &Known) -> bool {
    let (owner, workspace) = (&known.record.owner, &known.record.workspace);
    owner.as_ref().zip(workspace.as_ref()).is_some_and(|(owner, workspace)| context.fleet.may_write(owner, workspace))
}

/// Why a session leaves its worker.
struct Why<'a> {
    reason: &'a str,
    cause: Placement,
}

/// Gives the session of `known` to `chosen`. Returns the new record, or `None` if the record changed meanwhile.
async fn leave(
    context: &Context,
    known: &Known,
    chosen: Process,
    Why { reason, cause }: Why<'_>,
    operation: &Operation,
) -> Option<Known> {
    let key = known.record.key();
    let written = Giving { at: known.revision, to: chosen, reason, cause }.write(context, &key, operation).await;
    let known = match written {
        Ok(known) => known,
        // Another writer changed the record.
        Err(NotDone::Moved) => return None,
        Err(not_done) => {
            let error = error::of_not_done(not_done, &key);
            tracing::info!(%key, reason, %error, "a session was not moved");
            return None;
        }
    };
    match link::activate(context, &known, Beginning::Log, operation).await {
        Activated::Up => tracing::info!(%key, reason, "a session was moved"),
        // The next request finds the new owner.
        Activated::Elsewhere => {}
        Activated::Refused(error) => {
            tracing::info!(%key, %error, "a session was moved, and its agent has not started yet")
        }
    }
    Some(known)
}
