//! Places a session without an owner, or whose owner is gone, on a worker.
//!
//! Invariant: writing the record is what places the session. The worker is told afterwards, and would find out by
//! itself.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_protocol::record::Owner;
use holdfast_protocol::{Activation, Error, Process, Revision, SessionKey, WorkerName};
use holdfast_records::{Change, Done, Known, NotDone, Wrote, change};
use holdfast_rules::Decision;
use holdfast_rules::place::{Ownership, ownership, placed};
use holdfast_store::chance;

use crate::context::Context;
use crate::error;
use crate::fleet::Liveness;
use crate::fleet::placement::Needs;
use crate::link::{self, Activated, Beginning};
use crate::meters::Placement;
use crate::operation::{Operation, now};
use crate::writer::Writer;

/// Makes sure that a live worker has the session. Returns its record.
///
/// # Errors
/// `no_session`, `no_live_worker`, `no_workspace`, the worker's refusal, and failures of the store.
pub(crate) async fn place(
    context: &Context,
    key: &SessionKey,
    operation: &Operation,
    beginning: &Beginning,
) -> Result<Known, Error> {
    loop {
        let placed = change(&mut Writer::new(context, key, operation), &Placing).await;
        let Done { known, wrote, reply } = placed.map_err(|not_done| error::of_not_done(not_done, key))?;
        if wrote == Wrote::Nothing {
            return Ok(known);
        }
        context.config.meters.placed(reply);
        match link::activate(context, &known, beginning.clone(), operation).await {
            Activated::Up => return Ok(known),
            Activated::Refused(error) => return Err(error),
            Activated::Elsewhere => operation.pause().await,
        }
    }
}

/// Places the session on a worker, unless a live one has it.
struct Placing;

impl Change<Writer<'_>> for Placing {
    /// Why the session gets another owner, if it does.
    type Reply = Placement;

    async fn decide(&self, writer: &Writer<'_>, known: &Known) -> Result<Decision<Placement>, Error> {
        let Writer { context, key, operation } = *writer;
        let gone = match stands(context, known) {
            Ownership::Active(_) => return Ok(Decision::Unchanged(Placement::Returned)),
            Ownership::Closed => return Ok(Decision::Refuse(Error::no_session(key))),
            Ownership::Passive => None,
            // A session is never taken from its owner on a cached record. This makes the caller read it from the
            // leader, and so wait until there is one. A worker whose nats-server died with the leader has mostly
            // reconnected by then.
            Ownership::Orphaned(_) if !known.is_as_of(operation.arrived) => {
                return Ok(Decision::Refuse(error::contended(key)));
            }
            Ownership::Orphaned(owner) => {
                look_again(context, key, known, operation).await?;
                if matches!(stands(context, known), Ownership::Active(_)) {
                    return Ok(Decision::Unchanged(Placement::Returned));
                }
                Some(is_gone(&owner.worker))
            }
        };
        let record = &known.record;
        let chosen = context.fleet.choose(key, Needs::of(record), None, operation.deadline).await?;
        let next = placed(record, new_owner(chosen), operation.author(gone.as_deref()));
        let cause = if gone.is_some() { Placement::Failover } else { Placement::Returned };
        Ok(Decision::Commit { next: Box::new(next), reply: cause })
    }

    fn is_told(&self) -> bool {
        false
    }
}

/// Gives the session to a process that was chosen before, if the record has not changed since.
pub(crate) struct Giving<'a> {
    /// The revision that the choice was made on.
    pub(crate) at: Revision,
    /// The new owner.
    pub(crate) to: Process,
    /// The reason that the record names.
    pub(crate) reason: &'a str,
    /// Why it is given.
    pub(crate) cause: Placement,
}

impl Giving<'_> {
    /// Writes the record. The worker is not told yet.
    pub(crate) async fn write(
        &self,
        context: &Context,
        key: &SessionKey,
        operation: &Operation,
    ) -> Result<Known, NotDone<Error>> {
        let done = change(&mut Writer::new(context, key, operation), self).await?;
        context.config.meters.placed(self.cause);
        Ok(done.known)
    }
}

impl Change<Writer<'_>> for Giving<'_> {
    type Reply = ();

    async fn decide(&self, writer: &Writer<'_>, known: &Known) -> Result<Decision<()>, Error> {
        let next = placed(&known.record, new_owner(self.to.clone()), writer.operation.author(Some(self.reason)));
        Ok(Decision::Commit { next: Box::new(next), reply: () })
    }

    fn pinned(&self) -> Option<Revision> {
        Some(self.at)
    }

    fn is_told(&self) -> bool {
        false
    }
}

/// Places the session of `known` in the background, after a request that needed no worker. Best effort: a request that
/// needs a worker places the session itself.
pub(crate) fn bring_back(context: &Arc<Context>, known: &Known) {
    let is_held = matches!(stands(context, known), Ownership::Active(_) | Ownership::Closed);
    if is_held || !context.fleet.has_taker(Needs::of(&known.record)) {
        return;
    }
    let key = known.record.key();
    let Some(turn) = context.returning.begin(&key) else { return };
    let task = {
        let context = context.clone();
        async move {
            let operation = Operation::own(context.config.request_timeout);
            if let Err(error) = place(&context, &key, &operation, &Beginning::Log).await {
                tracing::debug!(%key, %error, "a session was not placed in the background");
            }
            drop(turn);
        }
    };
    context.tasks.spawn(context.abort.clone().run_until_cancelled_owned(task));
}

/// The sessions that are being placed in the background.
#[derive(Clone, Debug, Default)]
pub(crate) struct Returning(Arc<Mutex<HashSet<SessionKey>>>);

/// One session that is being placed in the background. Dropping it marks the end.
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

fn stands<'a>(context: &Context, known: &'a Known) -> Ownership<'a> {
    ownership(&known.record, |owner| context.fleet.is_lost(owner))
}

/// Checks once more that the owner is gone, before its session moves: it may have reconnected or joined a moment ago.
async fn look_again(context: &Context, key: &SessionKey, known: &Known, operation: &Operation) -> Result<(), Error> {
    let Some(owner) = &known.record.owner else { return Ok(()) };
    match context.fleet.liveness(owner) {
        Liveness::Live | Liveness::Unknown => Ok(()),
        Liveness::Suspect => {
            // It has a responder again, even if it is still busy with requests from before its server died.
            if !link::is_unheard(context, owner, key).await {
                context.fleet.heard(owner);
            }
            Ok(())
        }
        Liveness::Gone => context.fleet.refresh_or_explain(operation.deadline).await,
    }
}

/// A new assignment to a process.
pub(crate) fn new_owner(Process { worker, boot }: Process) -> Owner {
    Owner { worker, boot, activation: Activation(chance::id()), since: now() }
}

/// The reason that a record gives for leaving `worker`.
pub(crate) fn is_gone(worker: &WorkerName) -> String {
    format!("worker {worker} is gone")
}
