//! Who owns a session, and placing it on a worker: moved from one, or brought back from nobody.

use holdfast_protocol::record::{EventType, Owner, SessionRecord, State};

use crate::Author;

/// Who owns a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership<'a> {
    /// This owner.
    Active(&'a Owner),
    /// This owner according to the record, but its worker is gone.
    Orphaned(&'a Owner),
    /// Nobody.
    Passive,
    /// Nobody any more: the session is closed.
    Closed,
}

/// Who owns the session of `record`.
pub fn ownership(record: &SessionRecord, is_gone: impl FnOnce(&Owner) -> bool) -> Ownership<'_> {
    match (record.state, &record.owner) {
        (State::Closed, _) => Ownership::Closed,
        (State::Active, Some(owner)) if is_gone(owner) => Ownership::Orphaned(owner),
        (State::Active, Some(owner)) => Ownership::Active(owner),
        (State::Active, None) | (State::Passive, _) => Ownership::Passive,
    }
}

/// The record after the session was placed on `owner`: moved from its owner before, or brought back if it had none.
pub fn placed(record: &SessionRecord, owner: Owner, author: Author<'_>) -> SessionRecord {
    let previous = record.owner.as_ref().map(|owner| owner.worker.clone());
    let kind = if previous.is_some() { EventType::SessionMoved } else { EventType::SessionActivated };
    SessionRecord { state: State::Active, owner: Some(owner), event: author.event(kind, previous), ..record.clone() }
}

/// The same record for a new revision, so that writes under the revision before are refused.
pub fn fenced(record: &SessionRecord, author: Author<'_>) -> SessionRecord {
    let worker = record.owner.as_ref().map(|owner| owner.worker.clone());
    SessionRecord { event: author.event(EventType::SessionActivated, worker), ..record.clone() }
}
