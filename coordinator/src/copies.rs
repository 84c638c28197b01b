//! Late copies of requests that no record and no log remembers: drains and reclaims. Their answers are kept for a day.

use holdfast_protocol::Error;
use holdfast_store::StoreError;
use holdfast_store::mutant::{self, Mutant};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout_at;

use crate::call::Call;
use crate::error;
use crate::hub::Hub;

/// Answers with more bytes are not remembered.
const REMEMBERED_BYTES: usize = 512 * 1024;

/// The late copies of a request to workers: other processes than those that the first one reached must not act on them.
pub(crate) struct Copies(Option<String>);

impl Copies {
    /// `what` tells apart what one request id may be used for.
    pub(crate) fn of(call: &Call, what: &str) -> Self {
        let named = || blake3::hash(format!("{what} {}", call.request_id).as_bytes()).to_hex().to_string();
        Self((call.by_caller && !mutant::is(Mutant::LateDrainDrains)).then(named))
    }

    /// What the first one was answered.
    pub(crate) async fn answer<Reply: DeserializeOwned>(&self, hub: &Hub, call: &Call) -> Result<Option<Reply>, Error> {
        let Some(request) = &self.0 else { return Ok(None) };
        let late = |_| Err(StoreError::Unavailable("earlier answers were not read in time".to_owned()));
        let found = timeout_at(call.deadline, hub.store.answered(request)).await.unwrap_or_else(late);
        let found = found.map_err(|error| error::storage_unavailable(&error.to_string()))?;
        Ok(found.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    pub(crate) async fn keep<Reply: Serialize>(&self, hub: &Hub, reply: &Reply) {
        let (Some(request), Ok(json)) = (&self.0, serde_json::to_vec(reply)) else { return };
        if json.len() > REMEMBERED_BYTES {
            return;
        }
        if let Err(error) = hub.store.remember_answer(request, json.into()).await {
            // What was asked for is done, so that this is no reason to refuse it.
            tracing::warn!(%error, "an answer is not remembered; a late copy of its request may act again");
        }
    }
}
