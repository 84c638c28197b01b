//! What a token proves: `lock.validate`, `lock.renew`, and whether a document may be changed.

use holdfast_protocol::record::{Lock, LockMode, SessionRecord};
use holdfast_protocol::reply::Validated;
use holdfast_protocol::{Error, Revision};

use crate::conflict::{lock_held, lock_required, not_locked, stale_token};

/// The lock that `token` proves.
///
/// # Errors
/// `not_locked` while the lock is free, else `stale_token`.
pub fn prove<'a>(record: &'a SessionRecord, revision: Revision, token: &str) -> Result<&'a Lock, Error> {
    match &record.lock {
        None => Err(not_locked(record, revision)),
        Some(lock) if lock.is_proven_by(token) => Ok(lock),
        Some(_) => Err(stale_token(record, revision, None)),
    }
}

/// `lock.validate`
///
/// # Errors
/// As [`prove`].
pub fn validate(record: &SessionRecord, revision: Revision, token: &str) -> Result<Validated, Error> {
    prove(record, revision, token).map(|lock| Validated {
        session_id: record.id.clone(),
        valid: true,
        owner: lock.owner.clone(),
        lock_revision: lock.revision,
    })
}

/// Whether the session may be closed with `token`: the token must prove the lock, if the lock is held.
///
/// # Errors
/// `lock_held`, `not_locked` or `stale_token`.
pub fn may_close(record: &SessionRecord, revision: Revision, token: Option<&str>) -> Result<(), Error> {
    match (token, &record.lock) {
        (None, None) => Ok(()),
        _ => may_write(record, revision, token),
    }
}

/// Whether the document may be changed with `token`.
///
/// # Errors
/// `lock_held`, `lock_required`, `not_locked` or `stale_token`.
pub fn may_write(record: &SessionRecord, revision: Revision, token: Option<&str>) -> Result<(), Error> {
    match (token, &record.lock) {
        (Some(token), _) => prove(record, revision, token).map(|_| ()),
        (None, Some(_)) => Err(lock_held(record, revision, None)),
        (None, None) if record.config.lock == LockMode::Required => Err(lock_required(record, revision)),
        (None, None) => Ok(()),
    }
}
