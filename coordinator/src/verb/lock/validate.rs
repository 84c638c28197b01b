//! `lock.validate`: checks a token against the record, read from the leader.

use std::sync::Arc;

use holdfast_protocol::record::State;
use holdfast_protocol::request::ShowToken;
use holdfast_protocol::{Error, SessionKey};
use holdfast_rules::validate;

use crate::context::Context;
use crate::explain;
use crate::operation::Incoming;
use crate::place;
use crate::response::Response;
use crate::revoke;

/// Checks a token.
pub(crate) async fn validate(context: &Arc<Context>, key: &SessionKey, incoming: &Incoming) -> Result<Response, Error> {
    let (shown, operation) = incoming.parse::<ShowToken>(&context.config.limits)?;
    let mut known = context.records.read_record(key, operation.deadline).await?;
    if revoke::is_due(context, &known.record) {
        revoke::found(context, key).await;
        known = context.records.read_record(key, operation.deadline).await?;
    }
    if known.record.state == State::Closed {
        return Err(Error::no_session(key));
    }
    place::bring_back(context, &known);
    match validate::validate(&known.record, known.revision, &shown.token) {
        Ok(validated) => Response::of(&validated),
        Err(mut refusal) => {
            explain::complete(context, &known, &mut refusal).await;
            Err(refusal)
        }
    }
}
