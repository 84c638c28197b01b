//! `lock.validate` and `lock.release`.

use holdfast_protocol::lock::{self, Asked, LockDecision};
use holdfast_protocol::reply::Released;
use holdfast_protocol::request::ShowToken;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};

use crate::agent::{self, Beginning};
use crate::answer::Answer;
use crate::call::{Call, Incoming};
use crate::change::{self, Change, Done, NotDone};
use crate::decide::{self, Standing};
use crate::error;
use crate::explain;
use crate::hub::Hub;
use crate::past::Past;
use crate::place;

/// Checks a token against the record as the leader has it.
pub(crate) async fn validate(hub: &Hub, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (shown, call) = incoming.parse::<ShowToken>(&hub.config.limits)?;
    let mut known = hub.records.read_record(key, call.deadline).await?;
    match decide::standing(&known.record, |owner| hub.registry.is_lost(owner)) {
        Standing::Active(_) => {}
        Standing::Closed => return Err(error::no_session(key)),
        Standing::Passive | Standing::Orphaned(_) => {
            known = place::place(hub, key, &call, &Beginning::Log).await?;
            if !known.is_as_of(call.arrived) {
                known = hub.records.read_record(key, call.deadline).await?;
            }
        }
    }
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
    const LOOKS_BACK_FIRST: bool = false;

    fn decide(&self, record: &SessionRecord, revision: Revision, asked: &Asked<'_>) -> LockDecision<Released> {
        lock::release(record, revision, &self.0.token, asked)
    }

    fn replay(&self, past: &Past, asked: &Asked<'_>) -> Option<Released> {
        past.release(asked.request_id)
    }
}

/// Gives the lock back.
pub(crate) async fn release(hub: &Hub, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (shown, call) = incoming.parse::<ShowToken>(&hub.config.limits)?;
    let outcome = change::make(hub, key, &call, &Release(shown)).await;
    Answer::of(&finish(hub, key, &call, outcome).await?)
}

/// Tells the agent and those who wait of a change, or says why there was none.
pub(crate) async fn finish<Reply>(
    hub: &Hub,
    key: &SessionKey,
    call: &Call,
    outcome: Result<Done<Reply>, NotDone>,
) -> Result<Reply, Error> {
    match outcome {
        Ok(Done { known, reply, written }) => {
            if written {
                agent::hint(hub, &known).await;
                if known.record.lock.is_none() {
                    hub.waiters.wake(key);
                }
            }
            Ok(reply)
        }
        Err(NotDone::Refused(refusal, known)) => Err(explain::conflict(hub, &known, *refusal, call).await),
        Err(NotDone::Failed(error)) => Err(error),
    }
}
