//! Refusals about a lock: who holds it, since when, and what the caller asked for.

use holdfast_protocol::record::{EventType, SessionRecord, State};
use holdfast_protocol::{Error, Reason, Revision};
use serde_json::Value;

/// `no_session`, if the session is closed.
pub(crate) fn over(record: &SessionRecord) -> Option<Error> {
    (record.state == State::Closed).then(|| Error::no_session(&record.key()))
}

pub(crate) fn moved_since(
    record: &SessionRecord,
    revision: Revision,
    expected: Option<u64>,
    who: Option<&str>,
) -> Option<Error> {
    let expected = expected.filter(|expected| *expected != record.lock_revision)?;
    let message = format!("the lock of session {} is at revision {}, not {expected}", record.id, record.lock_revision);
    Some(
        describe(Error::new(Reason::LockMoved, message), record, revision, who)
            .detail("expected_lock_revision", expected),
    )
}

/// Adds what every conflict about a lock has: who holds it, since when, and what the caller asked for.
fn describe(error: Error, record: &SessionRecord, revision: Revision, who: Option<&str>) -> Error {
    let lock = record.lock.as_ref();
    error
        .detail("session_id", record.id.as_str())
        .detail("owner", lock.map_or(Value::Null, |lock| lock.owner.clone().into()))
        .detail("requested_owner", who.map_or(Value::Null, Value::from))
        .detail("lock_revision", record.lock_revision)
        .detail("acquired_at", lock.map_or(Value::Null, |lock| lock.acquired_at.clone().into()))
        .detail("held_for_ms", Value::Null)
        .detail("expires_in_ms", Value::Null)
        .detail("revision", revision.0)
}

pub(crate) fn lock_held(record: &SessionRecord, revision: Revision, who: Option<&str>) -> Error {
    let owner = record.lock.as_ref().map_or("nobody", |lock| lock.owner.as_str());
    let error = Error::new(Reason::LockHeld, format!("session {} is locked by {owner}", record.id));
    describe(error, record, revision, who).detail("same_owner", who == Some(owner))
}

pub(crate) fn stale_token(record: &SessionRecord, revision: Revision, who: Option<&str>) -> Error {
    let (message, actions): (_, &[&str]) = match &record.lock {
        Some(lock) => (format!("session {} is locked by {}", record.id, lock.owner), &["wait", "takeover"]),
        None => (format!("session {} is not locked", record.id), &["acquire"]),
    };
    let error = Error::new(Reason::StaleToken, format!("the token is not the current one: {message}"));
    describe(error.advise(actions), record, revision, who)
}

pub(crate) fn not_locked(record: &SessionRecord, revision: Revision) -> Error {
    let error = Error::new(Reason::NotLocked, format!("session {} is not locked", record.id));
    let error = describe(error, record, revision, None);
    because(error, released_because(record))
}

/// Why the lock was freed, if its holder did not do it: by an operator, or with the secret of its token.
pub fn released_because(record: &SessionRecord) -> Option<&str> {
    let released = record.event.as_ref().filter(|event| event.kind == EventType::LockReleased)?;
    released.reason.as_deref().filter(|_| record.lock.is_none())
}

/// Adds to the refusal of a free lock why it was freed.
pub fn because(error: Error, reason: Option<&str>) -> Error {
    match reason.filter(|_| error.reason == Reason::NotLocked) {
        Some(reason) => error.detail("released_because", reason),
        None => error,
    }
}

pub(crate) fn lock_required(record: &SessionRecord, revision: Revision) -> Error {
    let message = format!("session {} is changed under its lock only, and none was shown", record.id);
    describe(Error::new(Reason::LockRequired, message), record, revision, None)
}

/// Adds to a conflict about a lock what needs a clock: how long the lock has been held, and when it expires.
pub fn explain(error: &mut Error, held_for_ms: Option<u64>, expires_in_ms: Option<u64>) {
    if !matches!(error.reason, Reason::LockHeld | Reason::StaleToken | Reason::LockMoved) {
        return;
    }
    if let Some(held) = held_for_ms {
        error.details.insert("held_for_ms".to_owned(), held.into());
        if error.reason == Reason::LockHeld {
            error.message = format!("{} for {} s", error.message, held / 1000);
        }
    }
    if let Some(expires) = expires_in_ms {
        error.details.insert("expires_in_ms".to_owned(), expires.into());
        if error.reason == Reason::LockHeld {
            error.retry_after_ms = Some(expires);
        }
    }
}
