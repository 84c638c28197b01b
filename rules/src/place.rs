//! Where a session stands, and giving it to a worker: placed, moved, or brought back.

use holdfast_protocol::record::{EventType, Owner, SessionRecord, State};

use crate::Author;

/// Where a session stands, as far as requests on it are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership<'a> {
    /// This agent holds it.
    Active(&'a Owner),
    /// This agent held it, and its worker is gone.
    Orphaned(&'a Owner),
    /// Nobody holds it.
    Passive,
    /// It is over.
    Closed,
}

/// Where `record` stands.
pub fn ownership(record: &SessionRecord, is_gone: impl FnOnce(&Owner) -> bool) -> Ownership<'_> {
    match (record.state, &record.owner) {
        (State::Closed, _) => Ownership::Closed,
        (State::Active, Some(owner)) if is_gone(owner) => Ownership::Orphaned(owner),
        (State::Active, Some(owner)) => Ownership::Active(owner),
        (State::Active, None) | (State::Passive, _) => Ownership::Passive,
    }
}

/// The record once `owner` has the session: moved from whoever had it, or brought back from nobody.
pub fn placed(record: &SessionRecord, owner: Owner, author: Author<'_>) -> SessionRecord {
    let previous = record.owner.as_ref().map(|owner| owner.worker.clone());
    let kind = if previous.is_some() { EventType::SessionMoved } else { EventType::SessionActivated };
    SessionRecord { state: State::Active, owner: Some(owner), event: author.event(kind, previous), ..record.clone() }
}

/// The same record under a new revision, so that what was sent under the one before can no longer land.
pub fn fenced(record: &SessionRecord, author: Author<'_>) -> SessionRecord {
    let worker = record.owner.as_ref().map(|owner| owner.worker.clone());
    SessionRecord { event: author.event(EventType::SessionActivated, worker), ..record.clone() }
}
