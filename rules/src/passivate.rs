//! A session leaves its agent's memory: by idleness, an operator's reclaim, or a drain.
//!
//! Invariant: only idleness closes a session (its own `idle_timeout_ms`, or an operator's `max_idle_ms`), and never a
//! session that is locked or has unsaved changes.

use holdfast_protocol::record::{EventType, OnIdle, SessionRecord, State};

use crate::Author;

/// Why a session leaves memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It had no activity for its idle time.
    Idle,
    /// An operator reclaimed sessions that were idle for a given time.
    Reclaimed,
    /// Its worker drains or ends.
    Drained,
}

/// The record of a session that leaves memory for `cause`. `is_saved` says that closing it would lose nothing.
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
