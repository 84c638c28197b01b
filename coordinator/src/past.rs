//! What earlier copies of a request did: a record's stored revisions are the memory of `request_id`s.
//!
//! Invariant: the same request gets the same answer, for as long as the bucket keeps the revision that it made (64 changes),
//! whichever coordinator is asked.

use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::lock::{Asked, was_freed_by};
use holdfast_protocol::record::{EventType, SessionRecord};
use holdfast_protocol::reply::{Grant, Released, TakenOver, Unlocked};
use holdfast_protocol::{RequestId, Revision, SessionKey};
use holdfast_store::Stored;

/// The revisions of a record that say which request made them.
#[derive(Debug)]
pub(crate) struct Past(Vec<SessionRecord>);

impl Past {
    /// Reads stored revisions. Those that no request made, or that do not parse, answer nobody.
    pub(crate) fn of(key: &SessionKey, history: &[Stored]) -> Self {
        let records = history.iter().filter_map(|stored| SessionRecord::from_json(stored.value.as_deref()?, key).ok());
        Self(records.filter(|record| requested(record).is_some()).collect())
    }

    /// The latest revision that `request_id` made, if it was one of `kinds`.
    pub(crate) fn made_by(&self, request_id: &RequestId, kinds: &[EventType]) -> Option<&SessionRecord> {
        self.0.iter().rev().find(|record| is_made_by(record, request_id, kinds))
    }

    /// The grant that this request got.
    pub(crate) fn grant(&self, asked: &Asked<'_>) -> Option<Grant> {
        asked.regrant(self.made_by(asked.request_id, &[EventType::LockAcquired, EventType::LockRotated])?)
    }

    /// What this takeover got.
    pub(crate) fn takeover(&self, asked: &Asked<'_>) -> Option<TakenOver> {
        let record = self.made_by(asked.request_id, &[EventType::LockTakenOver])?;
        let event = record.event.as_ref()?;
        Some(TakenOver {
            grant: asked.regrant(record)?,
            previous_owner: event.previous_owner.clone(),
            reason: event.reason.clone().unwrap_or_default(),
        })
    }

    /// What this release got.
    pub(crate) fn release(&self, request_id: &RequestId) -> Option<Released> {
        was_freed_by(self.made_by(request_id, &[EventType::LockReleased])?, request_id, EventType::LockReleased)
    }

    /// What this unlock got.
    pub(crate) fn unlock(&self, request_id: &RequestId) -> Option<Unlocked> {
        let record = self.made_by(request_id, &[EventType::LockReleased])?;
        let released = was_freed_by(record, request_id, EventType::LockReleased)?;
        Some(Unlocked { released, previous_owner: record.event.as_ref()?.previous_owner.clone() })
    }
}

fn requested(record: &SessionRecord) -> Option<&RequestId> {
    record.event.as_ref()?.request_id.as_ref()
}

/// Whether `request_id` made this revision of a record, as one of `kinds`.
pub(crate) fn is_made_by(record: &SessionRecord, request_id: &RequestId, kinds: &[EventType]) -> bool {
    requested(record) == Some(request_id) && record.event.as_ref().is_some_and(|event| kinds.contains(&event.kind))
}

/// Pasts that were read a moment ago: the many who lose one lock at one revision share one reading.
pub(crate) struct Pasts(moka::sync::Cache<SessionKey, (Revision, Arc<Past>)>);

impl Default for Pasts {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(256).time_to_live(Duration::from_secs(10)).build())
    }
}

impl Pasts {
    pub(crate) fn get(&self, key: &SessionKey, revision: Revision) -> Option<Arc<Past>> {
        self.0.get(key).filter(|(read_at, _)| *read_at >= revision).map(|(_, past)| past)
    }

    pub(crate) fn keep(&self, key: &SessionKey, revision: Revision, past: Past) -> Arc<Past> {
        let past = Arc::new(past);
        self.0.insert(key.clone(), (revision, past.clone()));
        past
    }
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::lock::{LockDecision, Secret, acquire, release, takeover};
    use holdfast_protocol::request::{Acquire, Takeover};
    use uuid::Uuid;

    use super::*;
    use crate::fixture;

    fn committed<Reply: std::fmt::Debug>(decision: LockDecision<Reply>) -> (SessionRecord, Reply) {
        match decision {
            LockDecision::Commit { next, reply } => (*next, reply),
            other => panic!("{other:?}"),
        }
    }

    fn stored(revision: u64, record: &SessionRecord) -> Stored {
        Stored {
            key: fixture::key("s1"),
            revision: Revision(revision),
            value: Some(record.to_json().into()),
            write_id: Some("w".to_owned()),
            time: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_late_retry_gets_what_its_first_copy_got_though_the_lock_has_moved_on() {
        let secret = Secret::new([7; 32]);
        let ids: Vec<RequestId> = ["r1", "r2", "r3"].iter().map(|id| RequestId::parse(id).unwrap()).collect();
        let asked = |n: usize| Asked {
            request_id: &ids[n],
            actor: None,
            at: "2026-11-22T12:00:00Z",
            nonce: Uuid::from_u128(n as u128),
            secret: &secret,
        };
        let wants: Acquire = serde_json::from_str(r#"{"owner":"a"}"#).unwrap();
        let takes: Takeover = serde_json::from_str(r#"{"owner":"ops","reason":"stuck"}"#).unwrap();
        let start = fixture::active("s1", "w1");
        let (held, grant) = committed(acquire(&start, Revision(1), &wants, &asked(0)));
        let (taken, over) = committed(takeover(&held, Revision(2), &takes, &asked(1)));
        let (free, released) = committed(release(&taken, Revision(3), &over.grant.lock_token, &asked(2)));

        let mut garbage = stored(5, &free);
        garbage.value = Some("nonsense".into());
        let history = [stored(1, &start), stored(2, &held), stored(3, &taken), stored(4, &free), garbage];
        let past = Past::of(&fixture::key("s1"), &history);
        let later = |n| Asked { nonce: Uuid::from_u128(99), ..asked(n) };
        assert_eq!(past.grant(&later(0)), Some(grant));
        assert_eq!(past.takeover(&later(1)), Some(over));
        assert_eq!(past.release(&ids[2]), Some(released));
        assert_eq!(past.unlock(&ids[2]).unwrap().previous_owner.as_deref(), Some("ops"));
        assert_eq!(past.grant(&later(1)), None, "a takeover is no acquire");
        assert_eq!(past.release(&ids[0]), None);
    }
}
