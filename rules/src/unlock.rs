//! `admin.unlock`: an operator frees the lock, whoever holds it.

use holdfast_protocol::Revision;
use holdfast_protocol::record::{EventType, SessionRecord};
use holdfast_protocol::reply::Unlocked;
use holdfast_protocol::request::Unlock;

use crate::conflict::{moved_since, not_locked, over};
use crate::release::{freed, was_freed_by};
use crate::{Asked, Decision};

/// `admin.unlock`
pub fn unlock(record: &SessionRecord, revision: Revision, request: &Unlock, asked: &Asked<'_>) -> Decision<Unlocked> {
    if let Some(released) = was_freed_by(record, asked.request_id, EventType::LockReleased) {
        let previous_owner = record.event.as_ref().and_then(|event| event.holder_before()).map(str::to_owned);
        return Decision::Unchanged(Unlocked { released, previous_owner });
    }
    if let Some(refusal) = over(record).or_else(|| moved_since(record, revision, request.expected_lock_revision, None))
    {
        return Decision::Refuse(refusal);
    }
    let Some(lock) = &record.lock else {
        // The lock is free already, as the operator wants it.
        return Decision::Refuse(not_locked(record, revision).advise(&[]));
    };
    let previous_owner = Some(lock.owner.clone());
    let event = asked.event(EventType::LockReleased, previous_owner.clone(), Some(request.reason.clone()));
    let (next, released) = freed(record, event);
    Decision::commit((next, Unlocked { released, previous_owner }))
}
