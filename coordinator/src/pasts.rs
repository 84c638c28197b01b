//! A cache of records' pasts: what their stored revisions say.

use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::{Revision, SessionKey, SessionRecord};
use holdfast_rules::Past;
use holdfast_store::mutant::{self, Mutant};

/// How many revisions are cached, of all sessions together.
const KEPT: u64 = 65_536;

/// The cached pasts. This coordinator's own commits extend them, so a session that only it changes is read once.
pub(crate) struct Pasts(moka::sync::Cache<SessionKey, Arc<Past>>);

impl Default for Pasts {
    fn default() -> Self {
        let weigh = |_: &SessionKey, past: &Arc<Past>| u32::try_from(past.len() + 1).unwrap_or(u32::MAX);
        let cache = moka::sync::Cache::builder().weigher(weigh).max_capacity(KEPT);
        Self(cache.time_to_idle(Duration::from_secs(60)).build())
    }
}

impl Pasts {
    /// The past up to `revision` or later.
    pub(crate) fn get(&self, key: &SessionKey, revision: Revision) -> Option<Arc<Past>> {
        self.0.get(key).filter(|past| past.covers() >= revision || mutant::is(Mutant::PastOfLess))
    }

    pub(crate) fn keep(&self, key: &SessionKey, past: Past) -> Arc<Past> {
        let past = Arc::new(past);
        self.0.insert(key.clone(), past.clone());
        past
    }

    /// Extends the past by `record`, which a compare-and-set wrote at `revision` on top of `expected`.
    pub(crate) fn wrote(&self, key: &SessionKey, expected: Revision, revision: Revision, record: &Arc<SessionRecord>) {
        use moka::ops::compute::Op;
        // Most sessions never need a past.
        if self.0.get(key).is_none() {
            return;
        }
        let continued = |entry: Option<moka::Entry<SessionKey, Arc<Past>>>| match entry.map(moka::Entry::into_value) {
            Some(mut past) if past.covers() == expected => {
                Arc::make_mut(&mut past).push(revision, record.clone());
                Op::Put(past)
            }
            Some(_) | None => Op::Nop,
        };
        self.0.entry_by_ref(key).and_compute_with(continued);
    }
}
