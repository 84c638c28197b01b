//! Leases of locks that no agent may be counting down: the session has no agent, or its agent missed the hint.
//!
//! A session's agent counts the lease of its lock on its own clock. This file makes sure that one does. When a lease
//! should have run out, or a client waits for the lock, it reads the record and asks the agent. If there is no agent,
//! it counts the whole lease here, starting then, and frees the lock by compare-and-set.
//!
//! Invariant: a lock may live longer than asked, never shorter. A lock is freed here only after its whole lease passed
//! while its session had no owner, or an owner that is gone (no responder, or its worker's lease ran out). A worker
//! that does not answer but holds its lease is waited for. Any number of coordinators may count the same lock.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use holdfast_protocol::record::Lock;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};
use holdfast_records::{Change, Done, Known, Wrote, change};
use holdfast_rules::{Decision, expire};
use holdfast_store::mutant::{self, Mutant};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::link::{self, Counting};
use crate::operation::Operation;
use crate::writer::Writer;

/// How many locks are watched at most. The sweep finds those that did not fit.
const MOST: usize = 262_144;
/// How many locks are checked concurrently.
const SIDE_BY_SIDE: usize = 32;
/// The bounds of the extra time that the agent's own countdown gets before the agent is asked.
const SLACK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// When to check again after a check without a result.
const AGAIN: Duration = Duration::from_millis(500);

/// The watched locks, ordered by the time of their next check.
#[derive(Default)]
pub(crate) struct Countdown {
    watched: Mutex<Watched>,
    changed: Notify,
}

#[derive(Default)]
struct Watched {
    by_key: HashMap<SessionKey, Watch>,
    due: BTreeSet<(Instant, SessionKey)>,
}

/// One watched lock.
#[derive(Clone, Copy, Debug)]
struct Watch {
    lock_revision: u64,
    at: Instant,
    /// Since when no agent counts the lease, and the record's revision at which that was found. At another revision, an
    /// agent may have counted it in between.
    orphaned: Option<(Instant, Revision)>,
}

impl Watched {
    fn set(&mut self, key: &SessionKey, watch: Watch) {
        if let Some(before) = self.by_key.insert(key.clone(), watch) {
            self.due.remove(&(before.at, key.clone()));
        }
        self.due.insert((watch.at, key.clone()));
    }

    fn remove(&mut self, key: &SessionKey) {
        if let Some(before) = self.by_key.remove(key) {
            self.due.remove(&(before.at, key.clone()));
        }
    }

    fn take_due(&mut self, now: Instant) -> Option<(SessionKey, Watch)> {
        let (at, key) = self.due.first().filter(|(at, _)| *at <= now).cloned()?;
        self.due.remove(&(at, key.clone()));
        self.by_key.get(&key).copied().map(|watch| (key, watch))
    }
}

fn leased(record: &SessionRecord) -> Option<(&Lock, Duration)> {
    let lock = record.lock.as_ref()?;
    Some((lock, Duration::from_millis(lock.ttl_ms?)))
}

impl Countdown {
    // Every change leaves both maps consistent, so a poisoned lock is safe to use.
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a record that the sweep found. It may be older than what the relay has seen, so it begins a watch and
    /// never ends one.
    pub(crate) fn find(&self, record: &SessionRecord) {
        if leased(record).is_some() {
            self.see(record);
        }
    }

    /// Notes a revision of a record that the relay read.
    pub(crate) fn see(&self, record: &SessionRecord) {
        let key = record.key();
        let Some((lock, ttl)) = leased(record) else {
            self.watched().remove(&key);
            return;
        };
        self.watch(&key, lock.revision, Instant::now() + ttl + slack(ttl));
    }

    /// Notes that a client waits for the lock of `record`, so the lock is checked soon.
    pub(crate) fn ask_soon(&self, record: &SessionRecord) {
        if let Some((lock, _)) = leased(record) {
            self.watch(&record.key(), lock.revision, Instant::now());
        }
    }

    fn watch(&self, key: &SessionKey, lock_revision: u64, at: Instant) {
        let mut watched = self.watched();
        match watched.by_key.get(key) {
            // It is counted or will be checked by then.
            Some(watch) if watch.lock_revision == lock_revision && (watch.orphaned.is_some() || watch.at <= at) => {
                return;
            }
            None if watched.by_key.len() >= MOST => return,
            _ => {}
        }
        watched.set(key, Watch { lock_revision, at, orphaned: None });
        self.changed.notify_one();
    }

    fn next_due(&self) -> Option<Instant> {
        self.watched().due.first().map(|(at, _)| *at)
    }

    /// Stores the result of a check of `key`, unless another lock was seen there meanwhile.
    fn settle(&self, key: &SessionKey, looked_at: Watch, next: Option<Watch>) {
        let mut watched = self.watched();
        let is_same = watched.by_key.get(key).is_some_and(|watch| watch.lock_revision == looked_at.lock_revision);
        match next {
            _ if !is_same => {}
            Some(next) => watched.set(key, next),
            None => watched.remove(key),
        }
    }
}

fn slack(ttl: Duration) -> Duration {
    (ttl / 10).clamp(SLACK.0, SLACK.1)
}

/// Checks the locks that are due, until `cancel`.
pub(crate) async fn run(context: Arc<Context>, cancel: CancellationToken) {
    let mut looks = FuturesUnordered::new();
    loop {
        while looks.len() < SIDE_BY_SIDE {
            let due = context.countdown.watched().take_due(Instant::now());
            let Some((key, watch)) = due else { break };
            let context = context.clone();
            looks.push(async move {
                let next = look(&context, &key, watch).await;
                context.countdown.settle(&key, watch, next);
            });
        }
        let is_full = looks.len() >= SIDE_BY_SIDE;
        let due = context.countdown.next_due();
        let is_due = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            Some(()) = looks.next() => {}
            () = is_due, if !is_full => {}
            () = context.countdown.changed.notified() => {}
        }
    }
}

/// Checks one lock. Returns when to check again, if at all.
async fn look(context: &Context, key: &SessionKey, watch: Watch) -> Option<Watch> {
    let operation = Operation::own(context.config.request_timeout).urgent();
    let known = match context.records.read_record(key, operation.deadline).await {
        Ok(known) => known,
        Err(error) if error.retryable => return Some(Watch { at: Instant::now() + AGAIN, ..watch }),
        // The session is gone, or its record must be repaired by an operator.
        Err(_) => return None,
    };
    let (lock, ttl) = leased(&known.record)?;
    if lock.revision != watch.lock_revision {
        let at = Instant::now() + ttl + slack(ttl);
        return Some(Watch { lock_revision: lock.revision, at, orphaned: None });
    }
    let now = Instant::now();
    let later = |pause: Duration| Some(Watch { at: Instant::now() + pause, orphaned: None, ..watch });
    match counting(context, &known).await {
        Counting::For(left) => later(left + slack(ttl)),
        Counting::Nobody if mutant::is(Mutant::LeaseUncounted) => later(AGAIN),
        Counting::Untold | Counting::Silent => later(AGAIN),
        Counting::Nobody => match watch.orphaned.filter(|(_, found)| *found == known.revision) {
            None => Some(Watch { at: now + ttl, orphaned: Some((now, known.revision)), ..watch }),
            Some((since, _)) if since.elapsed() < ttl => Some(Watch { at: since + ttl, ..watch }),
            Some(_) => free(context, key, &known, &operation).await.then(|| Watch { at: now + AGAIN, ..watch }),
        },
    }
}

/// Who counts down the lease of the lock of `known`.
async fn counting(context: &Context, known: &Known) -> Counting {
    let Some(owner) = &known.record.owner else { return Counting::Nobody };
    match link::counting(context, known, owner).await {
        Counting::Silent if context.fleet.is_gone(owner) => Counting::Nobody,
        counting => counting,
    }
}

/// Frees the lock. Returns whether this must be tried again.
async fn free(context: &Context, key: &SessionKey, known: &Known, operation: &Operation) -> bool {
    let expiring = Expiring { at: known.revision, lock_revision: known.record.lock_revision };
    match change(&mut Writer::new(context, key, operation), &expiring).await {
        Ok(Done { wrote: Wrote::Nothing, .. }) => false,
        Ok(_) => {
            tracing::info!(%key, "expired the lock of a session without an agent");
            false
        }
        Err(_) => true,
    }
}

/// Expires a lock whose session has had no agent since the record reached this revision.
struct Expiring {
    at: Revision,
    lock_revision: u64,
}

impl Change<Writer<'_>> for Expiring {
    type Reply = ();

    async fn decide(&self, _: &Writer<'_>, known: &Known) -> Result<Decision<()>, Error> {
        Ok(match expire::expire(&known.record, self.lock_revision) {
            Some(next) => Decision::Commit { next: Box::new(next), reply: () },
            None => Decision::Unchanged(()),
        })
    }

    fn pinned(&self) -> Option<Revision> {
        Some(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn locked(lock_revision: u64, ttl_ms: Option<u64>) -> SessionRecord {
        let mut record = fixture::passive("s1");
        record.lock_revision = lock_revision;
        record.lock = Some(
            serde_json::from_value(serde_json::json!({"owner": "a", "revision": lock_revision, "ttl_ms": ttl_ms}))
                .unwrap(),
        );
        record
    }

    fn due(countdown: &Countdown) -> Option<(u64, Instant)> {
        let watched = countdown.watched();
        assert_eq!(watched.by_key.len(), watched.due.len());
        watched.by_key.values().next().map(|watch| (watch.lock_revision, watch.at))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_looked_at_when_it_should_be_over_and_at_once_for_who_waits() {
        let countdown = Countdown::default();
        let now = Instant::now();
        countdown.see(&locked(1, Some(10_000)));
        assert_eq!(due(&countdown), Some((1, now + Duration::from_secs(11))));
        countdown.see(&locked(1, Some(10_000)));
        countdown.ask_soon(&locked(1, Some(10_000)));
        assert_eq!(due(&countdown), Some((1, now)));
        countdown.see(&locked(3, Some(1_000)));
        assert_eq!(due(&countdown), Some((3, now + Duration::from_millis(1_100))), "another lock is another lease");
        countdown.see(&locked(4, None));
        assert_eq!(due(&countdown), None, "it has no lease");
        countdown.see(&locked(5, Some(1_000)));
        countdown.see(&fixture::passive("s1"));
        assert_eq!(due(&countdown), None, "it is free");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_does_not_begin_a_count_anew() {
        let countdown = Countdown::default();
        let key = fixture::key("s1");
        countdown.ask_soon(&locked(1, Some(10_000)));
        let (_, watch) = countdown.watched().take_due(Instant::now()).unwrap();
        let orphaned = Some((Instant::now(), Revision(7)));
        let counted = Watch { at: Instant::now() + Duration::from_secs(10), orphaned, ..watch };
        countdown.settle(&key, watch, Some(counted));
        countdown.ask_soon(&locked(1, Some(10_000)));
        assert_eq!(due(&countdown), Some((1, counted.at)));
        // A new lock was seen while the old one was looked at.
        countdown.see(&locked(3, Some(1_000)));
        let at = due(&countdown);
        countdown.settle(&key, watch, None);
        assert_eq!(due(&countdown), at);
    }
}
