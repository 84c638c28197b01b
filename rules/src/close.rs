//! `session.close`.

use holdfast_protocol::record::{EventType, SessionRecord, State};
use holdfast_protocol::reply::Closed;
use holdfast_protocol::{Error, Revision};

use crate::conflict::over;
use crate::validate::may_close;
use crate::{Author, Decision};

/// Closes the session. While the lock is held, or if a token is given, the token must prove the lock. `unsaved` is the
/// refusal for changes that the file does not have, unless the caller discards them.
pub fn close(
    record: &SessionRecord,
    revision: Revision,
    token: Option<&str>,
    unsaved: Option<Error>,
    author: Author<'_>,
) -> Decision<Closed> {
    let refusal = over(record).or_else(|| may_close(record, revision, token).err()).or(unsaved);
    if let Some(refusal) = refusal {
        return Decision::Refuse(refusal);
    }
    let worker = record.owner.as_ref().map(|owner| owner.worker.clone());
    let next = SessionRecord {
        state: State::Closed,
        owner: None,
        lock: None,
        lock_revision: record.lock_revision + u64::from(record.lock.is_some()),
        event: author.event(EventType::SessionClosed, worker),
        ..record.clone()
    };
    Decision::commit((next, Closed { session_id: record.id.clone(), closed: true }))
}
