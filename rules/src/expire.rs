//! A lock that expires, and a grant that is taken back.

use holdfast_protocol::record::{Event, EventType, SessionRecord};

use crate::release::freed;

/// The record after the lease of the lock at `lock_revision` ran out; `None` when that lock is gone already.
pub fn expire(record: &SessionRecord, lock_revision: u64) -> Option<SessionRecord> {
    let lock = record.lock.as_ref().filter(|lock| lock.revision == lock_revision && lock.ttl_ms.is_some())?;
    let event = Event {
        kind: EventType::LockExpired,
        actor: None,
        actor_proven: None,
        reason: Some(format!("not renewed for {} ms", lock.ttl_ms.unwrap_or_default())),
        previous_owner: Some(lock.owner.clone()),
        previous_worker: None,
        request_id: None,
        unheard: false,
        hand_over: None,
    };
    Some(freed(record, Some(event)).0)
}

/// The record after the grant with this fence was taken back, because its reply had no responder. `None` when that lock
/// is gone already, or when another copy of its request was answered since.
pub fn take_back(record: &SessionRecord, fence: u64) -> Option<SessionRecord> {
    let lock = record.lock.as_ref().filter(|lock| lock.fence == fence && !lock.reasked)?;
    let event = Event {
        kind: EventType::LockReleased,
        actor: None,
        actor_proven: None,
        reason: Some("whoever asked was gone before the grant".to_owned()),
        previous_owner: Some(lock.owner.clone()),
        previous_worker: None,
        request_id: None,
        unheard: true,
        hand_over: None,
    };
    Some(freed(record, Some(event)).0)
}
