//! `lock.validate`: a token, checked against the record as the leader has it.

use std::sync::Arc;

use holdfast_protocol::record::State;
use holdfast_protocol::request::ShowToken;
use holdfast_protocol::{Error, SessionKey};
use holdfast_rules::validate;

use crate::answer::Answer;
use crate::call::Incoming;
use crate::explain;
use crate::hub::Hub;
use crate::place;

/// Checks a token.
pub(crate) async fn validate(hub: &Arc<Hub>, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (shown, call) = incoming.parse::<ShowToken>(&hub.config.limits)?;
    let known = hub.records.read_record(key, call.deadline).await?;
    if known.record.state == State::Closed {
        return Err(Error::no_session(key));
    }
    place::bring_back(hub, &known);
    match validate::validate(&known.record, known.revision, &shown.token) {
        Ok(validated) => Answer::of(&validated),
        Err(mut refusal) => {
            explain::complete(hub, &known, &mut refusal).await;
            Err(refusal)
        }
    }
}
