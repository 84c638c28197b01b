//! `admin.unlock`: an operator frees the lock, whoever holds it.

use std::sync::Arc;

use holdfast_protocol::reply::Unlocked;
use holdfast_protocol::request::Unlock;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};
use holdfast_rules::{Asked, Decision, Past, unlock};

use crate::context::Context;
use crate::operation::Incoming;
use crate::response::Response;
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
pub(crate) async fn unlock(context: &Arc<Context>, key: &SessionKey, incoming: &Incoming) -> Result<Response, Error> {
    let (request, operation) = incoming.parse::<Unlock>(&context.config.limits)?;
    let operation = operation.urgent();
    let outcome = locked(context, key, &operation, &request).await;
    Response::of(&finish(context, key, &operation, outcome).await?)
}
