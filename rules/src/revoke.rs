//! Revoking the tokens of an earlier secret: their locks are freed.
//!
//! Invariant: once a record names a generation of the secret, no lock of an earlier one is in it, and a coordinator
//! that knows only an earlier one grants nothing there. The compare-and-set on the record proves both.

use holdfast_protocol::record::{Event, EventType, SessionRecord, State};

use crate::Author;
use crate::release::freed;

/// Whether `record` is of an earlier generation of the secret than `generation`.
pub fn is_due(record: &SessionRecord, generation: u64) -> bool {
    record.secret < generation && record.state != State::Closed
}

/// The record of this generation, without a lock of an earlier one. `None` if it is of this generation already.
pub fn revoked(record: &SessionRecord, generation: u64, author: Author<'_>) -> Option<SessionRecord> {
    if !is_due(record, generation) {
        return None;
    }
    let next = match &record.lock {
        None => SessionRecord { event: None, ..record.clone() },
        Some(lock) => {
            let event = author.event(EventType::LockReleased, None);
            freed(record, event.map(|event| Event { previous_owner: Some(lock.owner.clone()), ..event })).0
        }
    };
    Some(SessionRecord { secret: generation, ..next })
}
