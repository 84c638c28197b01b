//! `lock.validate` and `lock.release`.

use std::sync::Arc;

use holdfast_protocol::lock::{self, Asked, LockDecision};
use holdfast_protocol::record::State;
use holdfast_protocol::reply::Released;
use holdfast_protocol::request::ShowToken;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};

use crate::agent;
use crate::answer::Answer;
use crate::cache::Known;
use crate::call::{Call, Incoming};
use crate::change::{self, Change, Done, NotDone, Wrote};
use crate::error;
use crate::explain;
use crate::hub::Hub;
use crate::past::Past;
use crate::place;

/// Checks a token against the record as the leader has it.
pub(crate) async fn validate(hub: &Arc<Hub>, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (shown, call) = incoming.parse::<ShowToken>(&hub.config.limits)?;
    let known = hub.records.read_record(key, call.deadline).await?;
    if known.record.state == State::Closed {
        return Err(error::no_session(key));
    }
    place::bring_back(hub, &known);
    match lock::validate(&known.record, known.revision, &shown.token) {
        Ok(validated) => Answer::of(&validated),
        Err(mut refusal) => {
            explain::complete(hub, &known, &mut refusal).await;
            Err(refusal)
        }
    }
}

/// A release, as a change.
pub(crate) struct Release(pub(crate) ShowToken);

impl Change for Release {
    type Reply = Released;

    fn decide(&self, record: &SessionRecord, revision: Revision, asked: &Asked<'_>) -> LockDecision<Released> {
        lock::release(record, revision, &self.0.token, asked)
    }

    fn replay(&self, past: &Past, asked: &Asked<'_>) -> Option<Released> {
        past.release(asked.request_id)
    }
}

/// Gives the lock back.
pub(crate) async fn release(hub: &Arc<Hub>, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (shown, call) = incoming.parse::<ShowToken>(&hub.config.limits)?;
    let outcome = change::make(hub, key, &call, &Release(shown)).await;
    Answer::of(&finish(hub, &call, outcome).await?)
}

/// Tells the agent and those who wait of a change, or says why there was none. A session that nobody holds comes back
/// behind the answer.
pub(crate) async fn finish<Reply>(
    hub: &Arc<Hub>,
    call: &Call,
    outcome: Result<Done<Reply>, NotDone>,
) -> Result<Reply, Error> {
    match outcome {
        Ok(Done { known, reply, wrote }) => {
            if wrote != Wrote::Nothing {
                tell(hub, &known).await;
            }
            place::bring_back(hub, &known);
            Ok(reply)
        }
        Err(NotDone::Refused(refusal, known)) => {
            place::bring_back(hub, &known);
            Err(explain::conflict(hub, &known, *refusal, call).await)
        }
        Err(NotDone::Failed(error)) => Err(error),
    }
}

/// Tells whoever should know what was just written.
pub(crate) async fn tell(hub: &Hub, known: &Known) {
    agent::hint(hub, known).await;
    if known.record.lock.is_none() {
        hub.waiters.wake(&known.record.key());
    }
}
