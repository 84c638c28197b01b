//! `admin.takeover` and `admin.unlock`: an operator overrides a lock.
//!
//! Invariant: a late copy of an override does not override again: it would hit whoever has the lock by then.

use std::sync::Arc;

use holdfast_protocol::lock::{self, Asked, LockDecision};
use holdfast_protocol::record::EventType;
use holdfast_protocol::reply::{TakenOver, Unlocked};
use holdfast_protocol::request::{Takeover, Unlock};
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};

use crate::answer::Answer;
use crate::call::Incoming;
use crate::change::{self, Change, Wrote};
use crate::handle::lock::finish;
use crate::hub::Hub;
use crate::leave;
use crate::past::{Past, is_made_by};

impl Change for Takeover {
    type Reply = TakenOver;

    fn decide(&self, record: &SessionRecord, revision: Revision, asked: &Asked<'_>) -> LockDecision<TakenOver> {
        lock::takeover(record, revision, self, asked)
    }

    fn replay(&self, past: &Past, asked: &Asked<'_>) -> Option<TakenOver> {
        past.takeover(asked).filter(|taken| taken.grant.owner == self.owner)
    }

    fn needs_past(&self, record: &SessionRecord, asked: &Asked<'_>) -> bool {
        // The session may have moved since, and the record says that last.
        !is_made_by(record, asked.request_id, &[EventType::LockTakenOver])
    }
}

impl Change for Unlock {
    type Reply = Unlocked;

    fn decide(&self, record: &SessionRecord, revision: Revision, asked: &Asked<'_>) -> LockDecision<Unlocked> {
        lock::unlock(record, revision, self, asked)
    }

    fn replay(&self, past: &Past, asked: &Asked<'_>) -> Option<Unlocked> {
        past.unlock(asked.request_id)
    }
}

/// Takes the lock from whoever holds it.
pub(crate) async fn takeover(hub: &Arc<Hub>, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (request, call) = incoming.parse::<Takeover>(&hub.config.limits)?;
    let call = call.urgent();
    let outcome = change::make(hub, key, &call, &request).await;
    let known = outcome.as_ref().ok().filter(|done| done.wrote == Wrote::Change).map(|done| done.known.clone());
    let answer = Answer::of(&finish(hub, &call, outcome).await?);
    // The takeover is done, whatever becomes of this; whoever asked is to hear of it in time.
    if let Some(known) = known
        && tokio::time::timeout(call.left() / 2, leave::silent(hub, &known, &call)).await.is_err()
    {
        tracing::info!(%key, "a session was not moved with its takeover in time");
    }
    answer
}

/// Frees the lock, whoever holds it.
pub(crate) async fn unlock(hub: &Arc<Hub>, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (request, call) = incoming.parse::<Unlock>(&hub.config.limits)?;
    let call = call.urgent();
    let outcome = change::make(hub, key, &call, &request).await;
    Answer::of(&finish(hub, &call, outcome).await?)
}
