//! Leaving memory: idleness, an operator's reclaim, a drain.
//!
//! Invariant: only idleness ends a session (its own `idle_timeout_ms`, or an operator's `max_idle_ms`), and never one
//! that is locked or has what its file still lacks.

use holdfast_protocol::record::{EventType, OnIdle, SessionRecord, State};

use crate::Author;

/// Why a session leaves memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nobody asked for anything for longer than its idle time.
    Idle,
    /// An operator reclaimed what was idle for a time of the operator's own.
    Reclaimed,
    /// Its worker is drained or ends.
    Drained,
}

/// The record of a session that leaves memory for `cause`. `is_saved` says that ending it would lose nothing.
pub fn passivate(record: &SessionRecord, cause: Cause, is_saved: bool, author: Author<'_>) -> SessionRecord {
    let worker = record.owner.as_ref().map(|owner| owner.worker.clone());
    let is_idleness = matches!(cause, Cause::Idle | Cause::Reclaimed);
    let ends = is_idleness && record.config.on_idle == OnIdle::Close && record.lock.is_none() && is_saved;
    let (kind, state) = match cause {
        _ if ends => (EventType::SessionClosed, State::Closed),
        Cause::Reclaimed => (EventType::SessionReclaimed, State::Passive),
        Cause::Idle | Cause::Drained => (EventType::SessionPassivated, State::Passive),
    };
    SessionRecord { state, owner: None, event: author.event(kind, worker), ..record.clone() }
}
