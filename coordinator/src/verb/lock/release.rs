//! `lock.release`: the holder releases the lock, and the first waiter gets it in the same write.

use std::sync::Arc;

use holdfast_protocol::reply::Released;
use holdfast_protocol::request::ShowToken;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};
use holdfast_rules::{Asked, Decision, Past, release};

use super::{LockRule, finish, handed_over};
use crate::context::Context;
use crate::operation::Incoming;
use crate::response::Response;

/// A release.
pub(crate) struct Release(pub(crate) ShowToken);

impl LockRule for Release {
    type Reply = Released;

    fn decide(&self, record: &SessionRecord, revision: Revision, asked: &Asked<'_>) -> Decision<Released> {
        release::release(record, revision, &self.0.token, asked)
    }

    fn replay(&self, past: &Past, asked: &Asked<'_>) -> Option<Released> {
        past.release(asked.request_id)
    }
}

/// Releases the lock.
pub(crate) async fn release(context: &Arc<Context>, key: &SessionKey, incoming: &Incoming) -> Result<Response, Error> {
    let (shown, operation) = incoming.parse::<ShowToken>(&context.config.limits)?;
    let outcome = handed_over(context, key, &operation, &Release(shown)).await;
    Response::of(&finish(context, key, &operation, outcome).await?)
}
