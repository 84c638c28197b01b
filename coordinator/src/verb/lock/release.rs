//! `lock.release`: the holder gives the lock back.

use std::sync::Arc;

use holdfast_protocol::reply::Released;
use holdfast_protocol::request::ShowToken;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};
use holdfast_rules::{Asked, Decision, Past, release};

use super::{LockRule, finish, locked};
use crate::answer::Answer;
use crate::call::Incoming;
use crate::hub::Hub;

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

/// Gives the lock back.
pub(crate) async fn release(hub: &Arc<Hub>, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (shown, call) = incoming.parse::<ShowToken>(&hub.config.limits)?;
    let outcome = locked(hub, key, &call, &Release(shown)).await;
    Answer::of(&finish(hub, key, &call, outcome).await?)
}
