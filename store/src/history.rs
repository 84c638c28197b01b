//! The stored revisions of one record.
//!
//! Invariant: a history is complete up to its last element's revision. A caller that knows of a newer revision asks for
//! it, and gets it or an error: a leader that is behind is never taken for one that is up to date.

use std::time::Duration;

use holdfast_protocol::{Revision, SessionKey};
use tokio::time::Instant;

use crate::jetstream::Jetstream;
use crate::provision::PER_SUBJECT;
use crate::{StoreError, Stored, read};

/// For how long a leader that is behind is asked again.
const CATCH_UP: Duration = Duration::from_secs(2);
/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(20);

/// The stored revisions of `key`, oldest first, up to `at_least` or later.
pub(crate) async fn read(store: &Jetstream, key: &SessionKey, at_least: Revision) -> Result<Vec<Stored>, StoreError> {
    let subject = store.root.record(key);
    let deadline = Instant::now() + CATCH_UP;
    loop {
        let last = read::last(&store.sessions, &subject).await?.map_or(0, |raw| raw.sequence);
        if last >= at_least.0 {
            let messages = read::all_until(&store.client, &store.stream, &subject, last).await?;
            return Ok(messages.into_iter().filter_map(|raw| store.stored(raw)).collect());
        }
        if Instant::now() > deadline {
            return Err(StoreError::Unavailable(format!("the leader knows {last} and not yet revision {at_least}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The revision that the write `id` made over `expected`, if it landed.
pub(crate) async fn find(
    store: &Jetstream,
    key: &SessionKey,
    expected: Revision,
    id: &str,
) -> Result<Option<Revision>, StoreError> {
    // If the history cannot be read, the outcome stays unknown.
    let revisions = read(store, key, Revision(0)).await.map_err(|error| StoreError::Unknown(error.to_string()))?;
    landed(&revisions, expected, id)
}

/// Looks for the write in a complete history. If later revisions pushed out the place after `expected`, the outcome
/// stays unknown.
fn landed(revisions: &[Stored], expected: Revision, id: &str) -> Result<Option<Revision>, StoreError> {
    if let Some(found) = revisions.iter().find(|stored| stored.write_id.as_deref() == Some(id)) {
        return Ok(Some(found.revision));
    }
    let is_full = i64::try_from(revisions.len()).is_ok_and(|count| count >= PER_SUBJECT);
    if is_full && revisions.first().is_some_and(|first| first.revision > expected) {
        return Err(StoreError::Unknown("the revisions of that time are gone".to_owned()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::{Namespace, SessionId};
    use jiff::Timestamp;

    use super::*;

    fn stored(revision: u64) -> Stored {
        let key = SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse("s1").unwrap());
        let write_id = Some(format!("w{revision}"));
        Stored { key, revision: Revision(revision), value: None, write_id, time: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn a_write_that_may_have_been_pushed_out_of_the_history_is_not_said_to_have_failed() {
        let history = |revisions: std::ops::RangeInclusive<u64>| revisions.map(stored).collect::<Vec<_>>();
        let few = history(10..=20);
        assert_eq!(landed(&few, Revision(14), "w15").unwrap(), Some(Revision(15)));
        assert_eq!(landed(&few, Revision(14), "other").unwrap(), None, "somebody else wrote over 14");
        assert_eq!(landed(&few, Revision(9), "other").unwrap(), None, "all that was ever written over 9 is there");
        assert_eq!(landed(&[], Revision(0), "other").unwrap(), None);
        let full = history(10..=73);
        assert_eq!(landed(&full, Revision(10), "other").unwrap(), None, "what came over 10 is there");
        assert!(matches!(landed(&full, Revision(9), "other"), Err(StoreError::Unknown(_))));
        assert_eq!(landed(&full, Revision(9), "w10").unwrap(), Some(Revision(10)));
    }
}
