//! What earlier copies of a request did: a record's stored revisions are the memory of `request_id`s.
//!
//! Invariant: a request that took effect takes no second one, for as long as the bucket keeps the revision that it made
//! (64 revisions), whichever coordinator is asked. A past answers only for the revisions that it covers: one that has
//! not seen a release or a close must not answer for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::lock::{Asked, was_freed_by};
use holdfast_protocol::record::{EventType, REVISIONS_KEPT, SessionRecord};
use holdfast_protocol::reply::{Grant, Released, TakenOver, Unlocked};
use holdfast_protocol::{RequestId, Revision, SessionKey};
use holdfast_store::Stored;

/// How many revisions of records are kept at hand, of all sessions together.
const KEPT: u64 = 65_536;

/// The stored revisions of one record, the latest last, complete up to [`Past::covers`].
#[derive(Clone, Debug)]
pub(crate) struct Past {
    records: VecDeque<Arc<SessionRecord>>,
    covers: Revision,
}

impl Past {
    /// Reads stored revisions. Those that do not parse answer nobody.
    pub(crate) fn of(key: &SessionKey, history: &[Stored]) -> Self {
        let records = history.iter().filter_map(|stored| {
            let record = SessionRecord::from_json(stored.value.as_deref()?, key).ok()?;
            // A hand edit mostly leaves the event of the revision before it in its place.
            let event = record.event.clone().filter(|_| stored.write_id.is_some());
            Some(SessionRecord { event, ..record })
        });
        let covers = history.last().map_or(Revision(0), |stored| stored.revision);
        Self { records: records.map(Arc::new).collect(), covers }
    }

    /// Up to which revision nothing is missing.
    pub(crate) fn covers(&self) -> Revision {
        self.covers
    }

    fn push(&mut self, revision: Revision, record: Arc<SessionRecord>) {
        self.records.push_back(record);
        self.covers = revision;
        if self.records.len() > REVISIONS_KEPT as usize {
            self.records.pop_front();
        }
    }

    fn all(&self) -> impl DoubleEndedIterator<Item = &SessionRecord> {
        self.records.iter().map(|record| &**record)
    }

    /// The latest revision that `request_id` made, if it was one of `kinds`.
    pub(crate) fn made_by(&self, request_id: &RequestId, kinds: &[EventType]) -> Option<&SessionRecord> {
        self.all().rev().find(|record| is_made_by(record, request_id, kinds))
    }

    /// The session that `request_id` opened, as it began. One whose worker refused it was never there.
    pub(crate) fn opened_by(&self, request_id: &RequestId) -> Option<&SessionRecord> {
        let opened = self.made_by(request_id, &[EventType::SessionOpened])?;
        let is_its_end =
            |record: &&SessionRecord| record.log_after == opened.log_after && is_closed_by(record, request_id);
        self.all().find(is_its_end).is_none().then_some(opened)
    }

    /// Whether `request_id` closed a session of this id, be it this one or an earlier one.
    pub(crate) fn was_closed_by(&self, request_id: &RequestId) -> bool {
        self.all().any(|record| is_closed_by(record, request_id))
    }

    /// The grant that this request got, unless it was taken back because it reached nobody.
    pub(crate) fn grant(&self, asked: &Asked<'_>) -> Option<Grant> {
        let granted = self.made_by(asked.request_id, &[EventType::LockAcquired, EventType::LockRotated])?;
        let is_its_end =
            |record: &SessionRecord| record.log_after == granted.log_after && record.took_back(granted.lock_revision);
        if self.all().any(is_its_end) { None } else { asked.regrant(granted) }
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

/// Whether `request_id` made this revision of a record, as one of `kinds`.
pub(crate) fn is_made_by(record: &SessionRecord, request_id: &RequestId, kinds: &[EventType]) -> bool {
    let event = record.event.as_ref();
    event.is_some_and(|event| event.request_id.as_ref() == Some(request_id) && kinds.contains(&event.kind))
}

fn is_closed_by(record: &SessionRecord, request_id: &RequestId) -> bool {
    is_made_by(record, request_id, &[EventType::SessionClosed])
}

/// Pasts at hand. This coordinator's own commits continue them, so that a session that it alone changes is read once.
pub(crate) struct Pasts(moka::sync::Cache<SessionKey, Arc<Past>>);

impl Default for Pasts {
    fn default() -> Self {
        let weigh = |_: &SessionKey, past: &Arc<Past>| u32::try_from(past.records.len() + 1).unwrap_or(u32::MAX);
        let cache = moka::sync::Cache::builder().weigher(weigh).max_capacity(KEPT);
        Self(cache.time_to_idle(Duration::from_secs(60)).build())
    }
}

impl Pasts {
    /// The past up to `revision` or further.
    pub(crate) fn get(&self, key: &SessionKey, revision: Revision) -> Option<Arc<Past>> {
        self.0.get(key).filter(|past| past.covers >= revision)
    }

    pub(crate) fn keep(&self, key: &SessionKey, past: Past) -> Arc<Past> {
        let past = Arc::new(past);
        self.0.insert(key.clone(), past.clone());
        past
    }

    /// `record` was written at `revision` on top of `expected`, which a compare-and-set proved.
    pub(crate) fn wrote(&self, key: &SessionKey, expected: Revision, revision: Revision, record: &Arc<SessionRecord>) {
        use moka::ops::compute::Op;
        // Most sessions never need one.
        if self.0.get(key).is_none() {
            return;
        }
        let continued = |entry: Option<moka::Entry<SessionKey, Arc<Past>>>| match entry.map(moka::Entry::into_value) {
            Some(mut past) if past.covers == expected => {
                Arc::make_mut(&mut past).push(revision, record.clone());
                Op::Put(past)
            }
            Some(_) | None => Op::Nop,
        };
        self.0.entry_by_ref(key).and_compute_with(continued);
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
