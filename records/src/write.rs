//! The conditional write of a record, and its outcome.
//!
//! Invariant: an unknown outcome is resolved, or reported as unknown. The same write is sent again under the same id,
//! so at most one copy of it takes effect.

use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::{Revision, SessionKey};
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::{Storage, StoreError, chance};
use tokio::time::{Instant, timeout_at};

/// The pause before a write with an unknown outcome is sent again.
const AGAIN: Duration = Duration::from_millis(10);

fn write_id() -> String {
    chance::id().simple().to_string()
}

/// Writes `record` if the key still is at `expected`, and returns its revision.
pub(crate) async fn write(
    store: &dyn Storage,
    key: &SessionKey,
    expected: Revision,
    record: Bytes,
    deadline: Instant,
) -> Result<Revision, StoreError> {
    let mut id = write_id();
    let mut unknown: Option<String> = None;
    loop {
        let late = |_| Err(StoreError::Unknown("the write was not answered in time".to_owned()));
        let copy = store.commit(key, expected, record.clone(), id.clone());
        let outcome = timeout_at(deadline, copy).await.unwrap_or_else(late);
        let is_last = Instant::now() + AGAIN >= deadline;
        match (outcome, &unknown) {
            (Err(StoreError::Unknown(why)), _) if !is_last => unknown = Some(why),
            // An earlier copy may be the write that moved the record.
            (Err(StoreError::Moved { .. }), Some(why)) => return landed(store, key, expected, &id, why).await,
            (Err(StoreError::Unavailable(_)), Some(_)) if !is_last => {}
            // This copy was not written; an earlier one may have been.
            (Err(StoreError::Unavailable(_) | StoreError::Refused(_)), Some(why)) => {
                return Err(StoreError::Unknown(why.clone()));
            }
            (outcome, _) => return outcome,
        }
        tokio::time::sleep(AGAIN).await;
        if mutant::is(Mutant::RetryWithNewId) {
            id = write_id();
        }
    }
}

/// The revision that the write `id` made. It is in the record's history, unless later revisions pushed it out.
async fn landed(
    store: &dyn Storage,
    key: &SessionKey,
    expected: Revision,
    id: &str,
    why: &str,
) -> Result<Revision, StoreError> {
    let unknown = || StoreError::Unknown(why.to_owned());
    let history = store.history(key, Revision(0)).await.map_err(|_| unknown())?;
    if let Some(found) = history.iter().find(|stored| stored.write_id.as_deref() == Some(id)) {
        return Ok(found.revision);
    }
    // The revision after `expected` is in the history, and another writer made it.
    match history.first() {
        Some(first) if first.revision > expected && expected != Revision(0) => Err(unknown()),
        _ => Err(StoreError::Moved { expected }),
    }
}

/// Writes a delete marker over the record of `key`, if it still is at `expected`. Returns the marker's revision.
///
/// # Errors
/// As [`Storage::delete`].
pub async fn delete(store: &dyn Storage, key: &SessionKey, expected: Revision) -> Result<Revision, StoreError> {
    store.delete(key, expected, write_id()).await
}
