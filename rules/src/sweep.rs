//! What the sweep does about a session whose worker is gone.

use holdfast_protocol::record::{EventType, Owner, SessionRecord, State};

use crate::Author;
use crate::place::{Ownership, ownership};

/// The record of a session whose worker is gone and that nobody needs just now.
pub fn reclaimed(record: &SessionRecord, author: Author<'_>) -> SessionRecord {
    let previous = record.owner.as_ref().map(|owner| owner.worker.clone());
    let event = author.event(EventType::SessionReclaimed, previous);
    SessionRecord { state: State::Passive, owner: None, event, ..record.clone() }
}

/// What the sweep does about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepDecision {
    /// Nothing.
    Keep,
    /// Give it to another worker: its lock has a lease, and somebody must count it down.
    Move,
    /// Take it from the worker that is gone; the next request brings it back.
    Reclaim,
}

/// Decides on one record of a sweep.
pub fn sweep(record: &SessionRecord, is_gone: impl FnOnce(&Owner) -> bool) -> SweepDecision {
    match ownership(record, is_gone) {
        Ownership::Active(_) | Ownership::Passive | Ownership::Closed => SweepDecision::Keep,
        Ownership::Orphaned(_) if record.lock.as_ref().is_some_and(|lock| lock.ttl_ms.is_some()) => SweepDecision::Move,
        Ownership::Orphaned(_) => SweepDecision::Reclaim,
    }
}
