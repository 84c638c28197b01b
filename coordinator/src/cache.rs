//! The records that this coordinator has seen lately.
//!
//! Invariant: a record here is a hint. A yes may rest on it, because the compare-and-set proves it; a no and a plain answer
//! rest on it only when it was read or written after the request arrived ([`Known::since`]).

use std::sync::Arc;

use holdfast_protocol::{Revision, SessionKey, SessionRecord};
use tokio::time::Instant;

/// A record as this coordinator last saw it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Its revision.
    pub(crate) revision: Revision,
    /// The record.
    pub(crate) record: Arc<SessionRecord>,
    /// It was the current one at some moment after this: when the read or write that told was begun.
    pub(crate) since: Instant,
}

impl Known {
    /// Whether it was current at some moment after `arrived`, so that an answer may rest on it.
    pub(crate) fn is_as_of(&self, arrived: Instant) -> bool {
        self.since >= arrived
    }
}

/// A bounded map of them.
#[derive(Debug)]
pub(crate) struct Cache(moka::sync::Cache<SessionKey, Known>);

impl Cache {
    pub(crate) fn new(entries: u64) -> Self {
        Self(moka::sync::Cache::new(entries))
    }

    pub(crate) fn get(&self, key: &SessionKey) -> Option<Known> {
        self.0.get(key)
    }

    /// Keeps the newest of what is here and `known`, and returns it.
    pub(crate) fn learn(&self, key: &SessionKey, known: Known) -> Known {
        let kept = self.0.entry_by_ref(key).and_upsert_with(|entry| match entry {
            Some(entry) => newest(entry.into_value(), known),
            None => known,
        });
        kept.into_value()
    }

    /// Drops what is here: it turned out to be old, and the next one to ask must read.
    pub(crate) fn forget(&self, key: &SessionKey) {
        self.0.invalidate(key);
    }
}

fn newest(left: Known, right: Known) -> Known {
    if (left.revision, left.since) > (right.revision, right.since) { left } else { right }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        assert_eq!(cache.learn(&key, known(5, now + Duration::from_secs(1))).revision, Revision(7));
        assert_eq!(cache.learn(&key, known(9, now)).revision, Revision(9));
        let later = now + Duration::from_secs(2);
        assert!(cache.learn(&key, known(9, later)).is_as_of(later), "the same revision, seen later, is fresher");
        cache.forget(&key);
        assert!(cache.get(&key).is_none());
    }
}
