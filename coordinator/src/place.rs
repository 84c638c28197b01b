//! Giving a session that nobody holds, or whose holder is gone, to a worker.
//!
//! Invariant: the record is what gives; the worker is told afterwards, and would find out by itself.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_protocol::record::Owner;
use holdfast_protocol::{Activation, Boot, Error, Revision, SessionKey, WorkerName};
use holdfast_records::{Change, Done, Known, NotDone, Wrote, change};
use holdfast_rules::Decision;
use holdfast_rules::place::{Standing, placed, standing};
use holdfast_store::chance;

use crate::call::{Call, now};
use crate::error;
use crate::fleet::Liveness;
use crate::fleet::placement::Needs;
use crate::hub::Hub;
use crate::link::{self, Activated, Beginning};
use crate::writer::Writer;

/// Sees to it that somebody holds the session, and says how its record stands then.
///
/// # Errors
/// `no_session`, `no_live_worker`, `no_workspace`, what the worker refuses with, and faults of the store.
pub(crate) async fn place(hub: &Hub, key: &SessionKey, call: &Call, beginning: &Beginning) -> Result<Known, Error> {
    loop {
        let placed = change(&mut Writer::new(hub, key, call), &Placing).await;
        let Done { known, wrote, .. } = placed.map_err(|not_done| error::of_not_done(not_done, key))?;
        if wrote == Wrote::Nothing {
            return Ok(known);
        }
        match link::activate(hub, &known, beginning.clone(), call).await {
            Activated::Up => return Ok(known),
            Activated::Refused(error) => return Err(error),
            Activated::Elsewhere => call.pause().await,
        }
    }
}

/// Gives the session to a worker, unless one has it.
struct Placing;

impl Change<Writer<'_>> for Placing {
    type Reply = ();

    async fn decide(&self, writer: &Writer<'_>, known: &Known) -> Result<Decision<()>, Error> {
        let Writer { hub, key, call } = *writer;
        let gone = match stands(hub, known) {
            Standing::Active(_) => return Ok(Decision::Unchanged(())),
            Standing::Closed => return Ok(Decision::Refuse(Error::no_session(key))),
            Standing::Passive => None,
            // A no is never said on an old record: this has it read first, which waits until the stream has a leader. A
            // worker whose nats-server died with the leader is mostly connected again by then.
            Standing::Orphaned(_) if !known.is_as_of(call.arrived) => {
                return Ok(Decision::Refuse(error::contended(key)));
            }
            Standing::Orphaned(owner) => {
                look_again(hub, key, known, call).await?;
                if matches!(stands(hub, known), Standing::Active(_)) {
                    return Ok(Decision::Unchanged(()));
                }
                Some(is_gone(&owner.worker))
            }
        };
        let record = &known.record;
        let chosen = hub.registry.choose(key, Needs::of(record), None, call.deadline).await?;
        let next = placed(record, new_owner(chosen), call.author(gone.as_deref()));
        Ok(Decision::Commit { next: Box::new(next), reply: () })
    }

    fn is_told(&self) -> bool {
        false
    }
}

/// Gives the session to a worker that was chosen before, for as long as its record is as it was then.
pub(crate) struct Giving<'a> {
    /// The revision that the choice was made on.
    pub(crate) at: Revision,
    /// Who gets it.
    pub(crate) to: (WorkerName, Boot),
    /// Why.
    pub(crate) reason: &'a str,
}

impl Giving<'_> {
    /// Writes it; the worker is not told yet.
    pub(crate) async fn write(&self, hub: &Hub, key: &SessionKey, call: &Call) -> Result<Known, NotDone<Error>> {
        change(&mut Writer::new(hub, key, call), self).await.map(|done| done.known)
    }
}

impl Change<Writer<'_>> for Giving<'_> {
    type Reply = ();

    async fn decide(&self, writer: &Writer<'_>, known: &Known) -> Result<Decision<()>, Error> {
        let next = placed(&known.record, new_owner(self.to.clone()), writer.call.author(Some(self.reason)));
        Ok(Decision::Commit { next: Box::new(next), reply: () })
    }

    fn pinned(&self) -> Option<Revision> {
        Some(self.at)
    }

    fn is_told(&self) -> bool {
        false
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

fn stands<'a>(hub: &Hub, known: &'a Known) -> Standing<'a> {
    standing(&known.record, |owner| hub.registry.is_lost(owner))
}

/// Looks once more at a holder that counts as gone, before its session goes elsewhere: it may have its connection back, or
/// have joined a moment ago.
async fn look_again(hub: &Hub, key: &SessionKey, known: &Known, call: &Call) -> Result<(), Error> {
    let Some(owner) = &known.record.owner else { return Ok(()) };
    match hub.registry.liveness(owner) {
        Liveness::Live | Liveness::Unknown => Ok(()),
        Liveness::Suspect => {
            // Somebody listens there, however busy with what was under way when its server died.
            if !link::is_unheard(hub, owner, key).await {
                hub.registry.heard(owner);
            }
            Ok(())
        }
        Liveness::Gone => hub.registry.refresh_or_explain(call.deadline).await,
    }
}

/// A new assignment to a worker.
pub(crate) fn new_owner((worker, boot): (WorkerName, Boot)) -> Owner {
    Owner { worker, boot, activation: Activation(chance::id()), since: now() }
}

/// The reason that a record gives for leaving `worker`.
pub(crate) fn is_gone(worker: &WorkerName) -> String {
    format!("worker {worker} is gone")
}
