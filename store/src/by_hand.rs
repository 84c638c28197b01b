//! Break-glass: writes a record as a KV client does, for the day when no coordinator can be asked.
//!
//! Invariant: the message has no id of a Holdfast part, so agents and the relay take the revision for a hand edit: the
//! relay announces what it changed, and no request's late copy finds itself in it. Deliberately absent: deciding what
//! to write.

use async_nats::{HeaderMap, header};
use bytes::Bytes;
use holdfast_protocol::{Revision, SessionKey};

use crate::jetstream::Jetstream;
use crate::write::{self, Outcome, Write};
use crate::{Rollup, Storage, StoreError, Stored, read};

impl Jetstream {
    /// Writes a record by hand if it still is at `expected`, and returns its new revision. From then on the storage
    /// refuses everything that was decided on an older revision.
    ///
    /// # Errors
    /// [`StoreError::Moved`] when another writer was first, and the others as they are.
    pub async fn edit_by_hand(
        &self,
        key: &SessionKey,
        expected: Revision,
        record: Bytes,
    ) -> Result<Revision, StoreError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string().as_str());
        let write = Write { subject: self.root.record(key), headers, payload: record.clone(), expected };
        match write::publish(&self.client, &write).await? {
            Outcome::Stored(sequence) => Ok(Revision(sequence)),
            Outcome::Mismatch => Err(write.moved()),
            Outcome::MismatchAfterUnknown => {
                let history = self.history(key, Revision(0)).await;
                let history = history.map_err(|error| StoreError::Unknown(error.to_string()))?;
                landed(&history, expected, &record).ok_or_else(|| write.moved())
            }
        }
    }
}

impl Jetstream {
    /// Stores `note` under the key that tells of a repair after a restored backup, and returns its sequence. It has no
    /// condition: every copy of it moves the stream's sequence on, and nothing else.
    ///
    /// # Errors
    /// [`StoreError`], when no copy was acknowledged.
    pub async fn note_by_hand(&self, note: Bytes, rollup: Rollup) -> Result<u64, StoreError> {
        let mut headers = HeaderMap::new();
        if rollup == Rollup::Replace {
            headers.insert(header::NATS_ROLLUP, "sub");
        }
        let write = Write { subject: self.root.restore_note(), headers, payload: note, expected: Revision(0) };
        match write::publish(&self.client, &write).await? {
            Outcome::Stored(sequence) => Ok(sequence),
            Outcome::Mismatch | Outcome::MismatchAfterUnknown => Err(write.moved()),
        }
    }

    /// The last note of a repair.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the stream's leader does not answer.
    pub async fn last_note(&self) -> Result<Option<Bytes>, StoreError> {
        let note = read::last(&self.sessions, &self.root.restore_note()).await?;
        Ok(note.map(|raw| raw.payload))
    }
}

/// The revision that a copy of the edit made, if one did. Without an id, an edit is known by its place and its bytes:
/// only one write can follow `expected`.
fn landed(history: &[Stored], expected: Revision, record: &Bytes) -> Option<Revision> {
    let next = history.iter().find(|stored| stored.revision > expected)?;
    (next.write_id.is_none() && next.value.as_ref() == Some(record)).then_some(next.revision)
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::{Namespace, SessionId};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn an_edit_of_unknown_outcome_is_found_by_its_place_and_its_bytes() {
        let key = SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse("s1").unwrap());
        let stored = |revision, value: &'static str, write_id: Option<&str>| Stored {
            key: key.clone(),
            revision: Revision(revision),
            value: Some(value.into()),
            write_id: write_id.map(str::to_owned),
            time: Timestamp::UNIX_EPOCH,
        };
        let mine = Bytes::from("mine");
        let history = [stored(4, "old", Some("w1")), stored(7, "mine", None), stored(9, "later", Some("w2"))];
        assert_eq!(landed(&history, Revision(4), &mine), Some(Revision(7)));
        assert_eq!(landed(&history, Revision(7), &mine), None, "another writer followed");
        let by_a_part = [stored(4, "old", Some("w1")), stored(7, "mine", Some("w2"))];
        assert_eq!(landed(&by_a_part, Revision(4), &mine), None, "a part of Holdfast wrote it");
    }
}
