//! Late copies of drains and reclaims, which no record and no log remembers. The store keeps their answers for a day.

use holdfast_protocol::Error;
use holdfast_store::StoreError;
use holdfast_store::mutant::{self, Mutant};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout_at;

use crate::context::Context;
use crate::error;
use crate::operation::Operation;

/// Larger answers are not kept.
const REMEMBERED_BYTES: usize = 512 * 1024;

/// The late copies of a request to workers. They must not act on processes that the first copy did not reach.
pub(crate) struct Copies(Option<String>);

impl Copies {
    /// `what` distinguishes the requests that may carry the same request id.
    pub(crate) fn of(operation: &Operation, what: &str) -> Self {
        let named = || blake3::hash(format!("{what} {}", operation.request_id).as_bytes()).to_hex().to_string();
        Self((operation.by_caller && !mutant::is(Mutant::LateDrainDrains)).then(named))
    }

    /// The answer to the first copy.
    pub(crate) async fn answer<Reply: DeserializeOwned>(
        &self,
        context: &Context,
        operation: &Operation,
    ) -> Result<Option<Reply>, Error> {
        let Some(request) = &self.0 else { return Ok(None) };
        let late = |_| Err(StoreError::Unavailable("earlier answers were not read in time".to_owned()));
        let found = timeout_at(operation.deadline, context.store.answered(request)).await.unwrap_or_else(late);
        let found = found.map_err(|error| error::storage_unavailable(&error.to_string()))?;
        Ok(found.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    pub(crate) async fn keep<Reply: Serialize>(&self, context: &Context, reply: &Reply) {
        let (Some(request), Ok(json)) = (&self.0, serde_json::to_vec(reply)) else { return };
        if json.len() > REMEMBERED_BYTES {
            return;
        }
        if let Err(error) = context.store.remember_answer(request, json.into()).await {
            // The request has taken effect, so it is not refused for this.
            tracing::warn!(%error, "an answer was not stored; a late copy of its request may act again");
        }
    }
}
