//! `admin.unlock`: an operator frees the lock, whoever holds it.

use std::sync::Arc;

use holdfast_protocol::reply::Unlocked;
use holdfast_protocol::request::Unlock;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};
use holdfast_rules::{Asked, Decision, Past, unlock};

use crate::answer::Answer;
use crate::call::Incoming;
use crate::hub::Hub;
use crate::verb::lock::{LockRule, finish, locked};

impl LockRule for Unlock {
    type Reply = Unlocked;

    fn decide(&self, record: &SessionRecord, revision: Revision, asked: &Asked<'_>) -> Decision<Unlocked> {
        unlock::unlock(record, revision, self, asked)
    }

    fn replay(&self, past: &Past, asked: &Asked<'_>) -> Option<Unlocked> {
        past.unlock(asked.request_id)
    }
}

/// Frees the lock.
pub(crate) async fn unlock(hub: &Arc<Hub>, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (request, call) = incoming.parse::<Unlock>(&hub.config.limits)?;
    let call = call.urgent();
    let outcome = locked(hub, key, &call, &request).await;
    Answer::of(&finish(hub, key, &call, outcome).await?)
}
