//! `admin.takeover`: an operator takes the lock from whoever holds it.

use holdfast_protocol::Revision;
use holdfast_protocol::record::{EventType, SessionRecord};
use holdfast_protocol::reply::TakenOver;
use holdfast_protocol::request::Takeover;

use crate::conflict::{moved_since, over};
use crate::{Asked, Decision};

/// `admin.takeover`. Works on a free lock too.
pub fn takeover(
    record: &SessionRecord,
    revision: Revision,
    request: &Takeover,
    asked: &Asked<'_>,
) -> Decision<TakenOver> {
    let previous = record.lock.as_ref().map(|lock| lock.owner.clone());
    if let Some(grant) = asked.regrant(record).filter(|grant| grant.owner == request.owner) {
        let previous_owner = record.event.as_ref().and_then(|event| event.previous_owner.clone());
        return Decision::Unchanged(TakenOver { grant, previous_owner, reason: request.reason.clone() });
    }
    if let Some(refusal) =
        over(record).or_else(|| moved_since(record, revision, request.expected_lock_revision, Some(&request.owner)))
    {
        return Decision::Refuse(refusal);
    }
    let event = asked.event(EventType::LockTakenOver, previous.clone(), Some(request.reason.clone()));
    let (next, grant) = asked.grant(record, revision, &request.owner, request.ttl_ms, event);
    Decision::commit((next, TakenOver { grant, previous_owner: previous, reason: request.reason.clone() }))
}
