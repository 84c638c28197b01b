//! The sweep: what to do about a session whose worker is gone.

use holdfast_protocol::record::{EventType, Owner, SessionRecord, State};

use crate::Author;
use crate::place::{Ownership, ownership};

/// The record after a session was taken from a worker that is gone.
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
    /// Move it to another worker: its lock has a lease that an agent must count down.
    Move,
    /// Take it from the worker that is gone. The next request places it again.
    Reclaim,
}

/// Decides on one record.
pub fn sweep(record: &SessionRecord, is_gone: impl FnOnce(&Owner) -> bool) -> SweepDecision {
    match ownership(record, is_gone) {
        Ownership::Active(_) | Ownership::Passive | Ownership::Closed => SweepDecision::Keep,
        Ownership::Orphaned(_) if record.lock.as_ref().is_some_and(|lock| lock.ttl_ms.is_some()) => SweepDecision::Move,
        Ownership::Orphaned(_) => SweepDecision::Reclaim,
    }
}
