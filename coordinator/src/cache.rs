//! A cache of the records that this coordinator has seen lately.
//!
//! Invariant: a cached record is a hint. A commit may rest on it, because the compare-and-set proves it. A refusal or a
//! plain answer may rest on it only when it was read or written after the request arrived ([`Known::since`]).

use std::time::Duration;

use holdfast_protocol::{Revision, SessionKey};
use holdfast_records::Known;
use tokio::time::Instant;

/// One cached record.
#[derive(Clone, Debug)]
struct Seen {
    known: Known,
    /// When it turned out to be old. Since then it must be read again before use.
    stale_since: Option<Instant>,
}

/// For how long a record that is older than an outdated one is refused. Leaders catch up in less time. The bound is
/// there for a stream that lost its last messages: its records must not be refused for ever.
const DISTRUST: Duration = Duration::from_secs(30);

impl Seen {
    fn is_stale(&self) -> bool {
        self.stale_since.is_some()
    }

    fn outranks(&self, read: Revision) -> bool {
        self.known.revision > read && self.stale_since.is_some_and(|since| since.elapsed() < DISTRUST)
    }
}

/// A bounded map of records.
#[derive(Debug)]
pub(crate) struct Cache(moka::sync::Cache<SessionKey, Seen>);

impl Cache {
    pub(crate) fn new(entries: u64) -> Self {
        Self(moka::sync::Cache::new(entries))
    }

    pub(crate) fn get(&self, key: &SessionKey) -> Option<Known> {
        self.0.get(key).filter(|seen| !seen.is_stale()).map(|seen| seen.known)
    }

    /// Keeps the newer of the cached record and `known`, and returns it. `None` when the cached one is outdated and
    /// `known` is older still: a replica that is behind must not bring an old state back.
    pub(crate) fn learn(&self, key: &SessionKey, known: Known) -> Option<Known> {
        let read = known.revision;
        let kept = self.0.entry_by_ref(key).and_upsert_with(|entry| match entry.map(moka::Entry::into_value) {
            Some(seen) if seen.outranks(read) => seen,
            Some(seen) if seen.is_stale() => Seen { known, stale_since: None },
            Some(seen) => Seen { known: newest(seen.known, known), stale_since: None },
            None => Seen { known, stale_since: None },
        });
        Some(kept.into_value()).filter(|seen| !seen.is_stale()).map(|seen| seen.known)
    }

    /// Marks the cached record as outdated: it must be read again before use, and nothing older is accepted.
    pub(crate) fn doubt(&self, key: &SessionKey) {
        let doubted = |entry: Option<moka::Entry<SessionKey, Seen>>| match entry {
            Some(entry) => {
                moka::ops::compute::Op::Put(Seen { stale_since: Some(Instant::now()), ..entry.into_value() })
            }
            None => moka::ops::compute::Op::Nop,
        };
        self.0.entry_by_ref(key).and_compute_with(doubted);
    }

    /// Drops the cached record, because the record is gone from the store.
    pub(crate) fn forget(&self, key: &SessionKey) {
        self.0.invalidate(key);
    }
}

fn newest(left: Known, right: Known) -> Known {
    if (left.revision, left.since) > (right.revision, right.since) { left } else { right }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fixture;

    #[test]
    fn the_newest_revision_wins_whatever_the_order() {
        let cache = Cache::new(8);
        let key = fixture::key("s1");
        let now = Instant::now();
        let known = |revision, since| Known {
            revision: Revision(revision),
            record: Arc::new(fixture::active("s1", "w1")),
            since,
        };
        cache.learn(&key, known(7, now));
        let learn = |revision, since| cache.learn(&key, known(revision, since));
        assert_eq!(learn(5, now + Duration::from_secs(1)).unwrap().revision, Revision(7));
        assert_eq!(learn(9, now).unwrap().revision, Revision(9));
        let later = now + Duration::from_secs(2);
        assert!(learn(9, later).unwrap().is_as_of(later), "the same revision, seen later, is fresher");
        cache.forget(&key);
        assert!(cache.get(&key).is_none());
    }

    #[test]
    fn what_turned_out_to_be_old_is_not_followed_by_anything_older() {
        let cache = Cache::new(8);
        let key = fixture::key("s1");
        let known = |revision| Known {
            revision: Revision(revision),
            record: Arc::new(fixture::active("s1", "w1")),
            since: Instant::now(),
        };
        cache.learn(&key, known(7));
        cache.doubt(&key);
        assert!(cache.get(&key).is_none(), "the next one must read");
        assert!(cache.learn(&key, known(6)).is_none(), "a leader that is behind");
        assert!(cache.get(&key).is_none());
        assert_eq!(cache.learn(&key, known(7)).unwrap().revision, Revision(7), "it was the current one after all");
        assert!(cache.get(&key).is_some());
    }
}
