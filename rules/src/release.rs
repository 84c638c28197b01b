//! `lock.release`.

use holdfast_protocol::record::{Event, EventType, SessionRecord};
use holdfast_protocol::reply::Released;
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

/// The answer to a release or unlock, if an earlier copy of it made this revision of the record.
pub fn was_freed_by(record: &SessionRecord, request_id: &RequestId, kind: EventType) -> Option<Released> {
    let event = record.event.as_ref()?;
    (event.kind == kind && event.request_id.as_ref() == Some(request_id) && record.lock.is_none()).then(|| Released {
        session_id: record.id.clone(),
        released: true,
        lock_revision: record.lock_revision,
    })
}

pub(crate) fn freed(record: &SessionRecord, event: Option<Event>) -> (SessionRecord, Released) {
    let lock_revision = record.lock_revision + 1;
    let next = SessionRecord { lock: None, lock_revision, event, ..record.clone() };
    (next, Released { session_id: record.id.clone(), released: true, lock_revision })
}
