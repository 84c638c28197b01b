//! `lock.release`, and the hand-over to the next waiter.

use holdfast_protocol::record::{Event, EventType, HandOver, SessionRecord};
use holdfast_protocol::reply::{Grant, Released};
use holdfast_protocol::request::Acquire;
use holdfast_protocol::{Reason, RequestId, Revision};

use crate::conflict::over;
use crate::validate::prove;
use crate::{Asked, Decision};

/// `lock.release`
pub fn release(record: &SessionRecord, revision: Revision, token: &str, asked: &Asked<'_>) -> Decision<Released> {
    if let Some(released) = was_freed_by(record, asked.request_id, EventType::LockReleased) {
        return Decision::Unchanged(released);
    }
    if let Some(over) = over(record) {
        return Decision::Refuse(over);
    }
    match prove(record, revision, token) {
        Ok(lock) => {
            let event = asked.event(EventType::LockReleased, Some(lock.owner.clone()), None);
            Decision::commit(freed(record, event))
        }
        // The lock is free already, as the caller wants it.
        Err(refusal) if refusal.reason == Reason::NotLocked => Decision::Refuse(refusal.advise(&[])),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

/// `freed`, the record after a release, with the lock granted to the waiter who asked `request`. One write does both,
/// so `revision` is the record's before the release.
pub fn hand_over(
    freed: &SessionRecord,
    revision: Revision,
    request: &Acquire,
    asked: &Asked<'_>,
) -> (SessionRecord, Grant) {
    let hand_over = freed.event.clone().map(|release| HandOver {
        actor: release.actor,
        actor_proven: release.actor_proven,
        previous_owner: release.previous_owner,
        request_id: release.request_id,
    });
    let event = asked.event(EventType::LockAcquired, None, None).map(|event| Event { hand_over, ..event });
    asked.grant(freed, revision, &request.owner, request.ttl_ms, event)
}

/// The answer to a release or unlock, if an earlier copy of it made this revision of the record.
pub fn was_freed_by(record: &SessionRecord, request_id: &RequestId, kind: EventType) -> Option<Released> {
    let event = record.event.as_ref()?;
    let lock_revision = if is_handed_over_by(event, request_id, kind) {
        record.lock_revision.checked_sub(1)?
    } else {
        let is_freed = event.kind == kind && event.request_id.as_ref() == Some(request_id) && record.lock.is_none();
        is_freed.then_some(record.lock_revision)?
    };
    Some(Released { session_id: record.id.clone(), released: true, lock_revision })
}

/// Whether `request_id` released the lock in a write that also granted it to the next waiter.
pub(crate) fn is_handed_over_by(event: &Event, request_id: &RequestId, kind: EventType) -> bool {
    let release = event.hand_over.as_ref().and_then(|release| release.request_id.as_ref());
    kind == EventType::LockReleased && release == Some(request_id)
}

pub(crate) fn freed(record: &SessionRecord, event: Option<Event>) -> (SessionRecord, Released) {
    let lock_revision = record.lock_revision + 1;
    let next = SessionRecord { lock: None, lock_revision, event, ..record.clone() };
    (next, Released { session_id: record.id.clone(), released: true, lock_revision })
}
