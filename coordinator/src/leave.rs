//! Moves that nobody asked for, with something that could not be done where the session is: a takeover from a worker that
//! stands still, and a save by one that may not write.
//!
//! Invariant: the old agent finishes first if it can; whether it did or not, the record decides.

use crate::agent::{self, Activated, Beginning};
use crate::cache::Known;
use crate::call::Call;
use crate::config::HANDOVER_TIMEOUT;
use crate::decide;
use crate::hub::Hub;
use crate::place;
use crate::records::CommitError;

/// Moves the session of `known` away from a worker that does not answer, if there is another one: whoever took the lock over
/// is to work with it at once, and not after a lease has run out. Best effort: the takeover is done.
pub(crate) async fn silent(hub: &Hub, known: &Known, call: &Call) {
    let Some(owner) = &known.record.owner else { return };
    if agent::is_silent(hub, known).await {
        leave(hub, known, &format!("worker {} does not answer", owner.worker), call).await;
    }
}

/// Moves the session of `known` away from a worker that may not write its file, if there is one that may. Returns whether
/// there is: then it is worth asking again.
pub(crate) async fn read_only(hub: &Hub, known: &Known, call: &Call) -> bool {
    let (Some(owner), Some(workspace)) = (&known.record.owner, &known.record.workspace) else { return false };
    if !hub.registry.can_write(workspace, &owner.worker, call.deadline).await {
        return false;
    }
    agent::handover(hub, owner, &known.record.key(), HANDOVER_TIMEOUT.min(call.left() / 2)).await;
    leave(hub, known, &format!("worker {} has workspace {workspace} read-only", owner.worker), call).await;
    true
}

/// Gives the session of `known` to another worker than it is with, if there is one and if nobody else is at work on it.
async fn leave(hub: &Hub, known: &Known, reason: &str, call: &Call) {
    let (key, workspace) = (known.record.key(), known.record.workspace.as_ref());
    let except = known.record.owner.as_ref().map(|owner| &owner.worker);
    let Ok(chosen) = hub.registry.choose(&key, workspace, except, call.deadline).await else { return };
    let next = decide::placed(&known.record, place::new_owner(chosen), call.author(Some(reason)));
    let written = {
        let _lane = hub.records.lane(&key).await;
        hub.records.commit(&key, known.revision, next, call.deadline).await
    };
    match written {
        Ok(known) => match agent::activate(hub, &known, Beginning::Log, call).await {
            Activated::Up => tracing::info!(%key, reason, "a session was moved"),
            // The next request finds whoever has it.
            Activated::Elsewhere => {}
            Activated::Refused(error) => tracing::info!(%key, %error, "a session was moved and is not up yet"),
        },
        // Somebody else was at work on it.
        Err(CommitError::Moved) => {}
        Err(CommitError::Failed(error)) => tracing::info!(%key, reason, %error, "a session stays where it is"),
    }
}
