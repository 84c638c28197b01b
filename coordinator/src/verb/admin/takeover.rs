//! `admin.takeover`: an operator takes the lock, whoever holds it.
//!
//! Invariant: a late copy of a takeover takes no second effect, which would hit the lock's holder of that time.

use std::sync::Arc;

use holdfast_protocol::record::EventType;
use holdfast_protocol::reply::TakenOver;
use holdfast_protocol::request::Takeover;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};
use holdfast_records::Wrote;
use holdfast_rules::past::is_made_by;
use holdfast_rules::{Asked, Decision, Past, takeover};

use crate::context::Context;
use crate::leave;
use crate::operation::Incoming;
use crate::response::Response;
use crate::verb::lock::{LockRule, finish, locked};

impl LockRule for Takeover {
    type Reply = TakenOver;

    fn decide(&self, record: &SessionRecord, revision: Revision, asked: &Asked<'_>) -> Decision<TakenOver> {
        takeover::takeover(record, revision, self, asked)
    }

    fn replay(&self, past: &Past, asked: &Asked<'_>) -> Option<TakenOver> {
        past.takeover(asked).filter(|taken| taken.grant.owner == self.owner)
    }

    fn needs_past(&self, record: &SessionRecord, asked: &Asked<'_>) -> bool {
        // The record names its last event only, and the session may have moved since.
        !is_made_by(record, asked.request_id, &[EventType::LockTakenOver])
    }
}

/// Takes the lock, whoever holds it.
pub(crate) async fn takeover(context: &Arc<Context>, key: &SessionKey, incoming: &Incoming) -> Result<Response, Error> {
    let (request, operation) = incoming.parse::<Takeover>(&context.config.limits)?;
    let operation = operation.urgent();
    let outcome = locked(context, key, &operation, &request).await;
    let known = outcome.as_ref().ok().filter(|done| done.wrote == Wrote::Change).map(|done| done.known.clone());
    let answer = Response::of(&finish(context, key, &operation, outcome).await?);
    // The takeover is committed already. The answer must not be late because of the move.
    if let Some(known) = known
        && tokio::time::timeout(operation.left() / 2, leave::from_silent(context, &known, &operation)).await.is_err()
    {
        tracing::info!(%key, "a session was not moved with its takeover in time");
    }
    answer
}
