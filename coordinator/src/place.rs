//! Giving a session that nobody holds, or whose holder is gone, to a worker.
//!
//! Invariant: the record is what gives; the worker is told afterwards, and would find out by itself.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_protocol::record::Owner;
use holdfast_protocol::{Activation, Boot, Error, Revision, SessionKey, SessionRecord, WorkerName};
use uuid::Uuid;

use crate::agent::{self, Activated, Beginning};
use crate::cache::Known;
use crate::call::{Call, now};
use crate::decide::{self, Standing};
use crate::error;
use crate::hub::Hub;
use crate::placement::Needs;
use crate::records::CommitError;
use crate::registry::Liveness;

/// What one attempt came to.
enum Step {
    /// Somebody has it.
    Held(Known),
    /// This attempt gave it to a worker.
    Given(Known),
    /// The relay must come this far first.
    Announce(Revision),
    /// Another writer was first.
    Again,
}

/// Sees to it that somebody holds the session, and says how its record stands then.
///
/// # Errors
/// `no_session`, `no_live_worker`, `no_workspace`, what the worker refuses with, and faults of the store.
pub(crate) async fn place(hub: &Hub, key: &SessionKey, call: &Call, beginning: &Beginning) -> Result<Known, Error> {
    loop {
        call.in_time(key)?;
        match attempt(hub, key, call).await? {
            Step::Held(known) => return Ok(known),
            Step::Given(known) => match agent::activate(hub, &known, beginning.clone(), call).await {
                Activated::Up => return Ok(known),
                Activated::Refused(error) => return Err(error),
                Activated::Elsewhere => call.pause().await,
            },
            Step::Announce(mark) => hub.announced(mark, call.deadline).await?,
            Step::Again => call.pause().await,
        }
    }
}

/// Has somebody hold the session of `known` again, behind the answer to a request that needs no worker. Best effort:
/// whoever needs one places it.
pub(crate) fn bring_back(hub: &Arc<Hub>, known: &Known) {
    let is_held = matches!(stands(hub, known), Standing::Active(_) | Standing::Closed);
    if is_held || !hub.registry.has_taker(Needs::of(&known.record)) {
        return;
    }
    let key = known.record.key();
    let Some(turn) = hub.returning.begin(&key) else { return };
    let task = {
        let hub = hub.clone();
        async move {
            let call = Call::own(hub.config.request_timeout);
            if let Err(error) = place(&hub, &key, &call, &Beginning::Log).await {
                tracing::debug!(%key, %error, "a session was not brought back behind an answer");
            }
            drop(turn);
        }
    };
    hub.tasks.spawn(hub.abort.clone().run_until_cancelled_owned(task));
}

/// The sessions that are being brought back, each once at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Returning(Arc<Mutex<HashSet<SessionKey>>>);

/// One session that is being brought back; dropping it says that this is over.
pub(crate) struct Return {
    returning: Returning,
    key: SessionKey,
}

impl Returning {
    fn begin(&self, key: &SessionKey) -> Option<Return> {
        let is_first = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        is_first.then(|| Return { returning: self.clone(), key: key.clone() })
    }
}

impl Drop for Return {
    fn drop(&mut self) {
        self.returning.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

async fn attempt(hub: &Hub, key: &SessionKey, call: &Call) -> Result<Step, Error> {
    let _lane = hub.records.lane(key).await;
    call.in_time(key)?;
    let mut known = hub.records.record(key, call.deadline).await?;
    let mut has_looked = false;
    let reason = loop {
        match stands(hub, &known) {
            Standing::Active(_) => return Ok(Step::Held(known)),
            Standing::Passive => break None,
            Standing::Closed if known.is_as_of(call.arrived) => return Err(error::no_session(key)),
            Standing::Closed => known = hub.records.read_record(key, call.deadline).await?,
            Standing::Orphaned(owner) if has_looked => break Some(is_gone(&owner.worker)),
            Standing::Orphaned(_) => {
                // This waits until the stream has a leader. A worker whose nats-server died with the leader is mostly connected
                // again by then.
                known = hub.records.read_record(key, call.deadline).await?;
                look_again(hub, key, &known, call).await?;
                has_looked = true;
            }
        }
    };
    let chosen = hub.registry.choose(key, Needs::of(&known.record), None, call.deadline).await?;
    let next = decide::placed(&known.record, new_owner(chosen), call.author(reason.as_deref()));
    write(hub, key, &known, next, call).await
}

fn stands<'a>(hub: &Hub, known: &'a Known) -> Standing<'a> {
    decide::standing(&known.record, |owner| hub.registry.is_lost(owner))
}

/// Looks once more at a holder that counts as gone, before its session goes elsewhere: it may have its connection back, or
/// have joined a moment ago.
async fn look_again(hub: &Hub, key: &SessionKey, known: &Known, call: &Call) -> Result<(), Error> {
    let Some(owner) = &known.record.owner else { return Ok(()) };
    match hub.registry.liveness(owner) {
        Liveness::Live | Liveness::Unknown => Ok(()),
        Liveness::Suspect => {
            // Somebody listens there, however busy with what was under way when its server died.
            if !agent::is_unheard(hub, owner, key).await {
                hub.registry.heard(owner);
            }
            Ok(())
        }
        Liveness::Gone => hub.registry.refresh_or_explain(call.deadline).await,
    }
}

async fn write(hub: &Hub, key: &SessionKey, known: &Known, next: SessionRecord, call: &Call) -> Result<Step, Error> {
    match hub.records.commit(key, known.revision, next, call).await {
        Ok(known) => Ok(Step::Given(known)),
        Err(CommitError::Moved) => Ok(Step::Again),
        Err(CommitError::Behind(mark)) => Ok(Step::Announce(mark)),
        Err(CommitError::Failed(error)) => Err(error),
    }
}

/// A new assignment to a worker.
pub(crate) fn new_owner((worker, boot): (WorkerName, Boot)) -> Owner {
    Owner { worker, boot, activation: Activation(Uuid::now_v7()), since: now() }
}

/// The reason that a record gives for leaving `worker`.
pub(crate) fn is_gone(worker: &WorkerName) -> String {
    format!("worker {worker} is gone")
}
