//! Those who wait for locks, in order of arrival per session.
//!
//! Invariant: only the head of a line tries; whoever leaves, for whatever reason, hands the turn on. Lines are bounded and
//! live in this coordinator only: waiters of another one have their own line.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use holdfast_protocol::{Error, Reason, SessionKey};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error;
use crate::hub::Hub;

/// All lines.
pub(crate) struct Waiters {
    lines: Mutex<Lines>,
    most: usize,
}

#[derive(Default)]
struct Lines {
    by_session: HashMap<SessionKey, Line>,
    waiting: usize,
}

struct Line {
    /// With the moment of arrival, by which they stand.
    places: VecDeque<(Instant, Arc<Notify>)>,
    /// Cancelled when nobody is left.
    empty: CancellationToken,
}

/// One place in a line; dropping it leaves.
pub(crate) struct Waiting {
    waiters: Arc<Waiters>,
    key: SessionKey,
    place: Arc<Notify>,
}

impl Waiters {
    pub(crate) fn new(most: usize) -> Self {
        Self { lines: Mutex::default(), most }
    }

    // Every change leaves the lines whole.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn has(&self, key: &SessionKey) -> bool {
        self.lines().by_session.contains_key(key)
    }

    /// The lock may be free: whoever is first should try.
    pub(crate) fn wake(&self, key: &SessionKey) {
        if let Some(first) = self.lines().by_session.get(key).and_then(|line| line.places.front()) {
            first.1.notify_one();
        }
    }

    /// Takes the place in a line that is due to `arrived`: tasks may get here in another order. The token is there for whoever opens a line, and is cancelled when it is empty.
    ///
    /// # Errors
    /// `busy` when too many wait already.
    fn join(
        self: &Arc<Self>,
        key: &SessionKey,
        arrived: Instant,
    ) -> Result<(Waiting, Option<CancellationToken>), Error> {
        let mut lines = self.lines();
        if lines.waiting >= self.most {
            return Err(error::busy(Reason::MailboxFull, "too many requests wait for locks"));
        }
        lines.waiting += 1;
        let place = Arc::new(Notify::new());
        let mut opened = None;
        let line = lines.by_session.entry(key.clone()).or_insert_with(|| {
            let empty = CancellationToken::new();
            opened = Some(empty.clone());
            Line { places: VecDeque::new(), empty }
        });
        let at = line.places.partition_point(|(earlier, _)| *earlier <= arrived);
        line.places.insert(at, (arrived, place.clone()));
        Ok((Waiting { waiters: self.clone(), key: key.clone(), place }, opened))
    }
}

impl Waiting {
    /// Whether everybody who came before has left.
    pub(crate) fn is_first(&self) -> bool {
        let lines = self.waiters.lines();
        let first = lines.by_session.get(&self.key).and_then(|line| line.places.front());
        first.is_some_and(|(_, first)| Arc::ptr_eq(first, &self.place))
    }

    /// Waits until there is a reason to look.
    pub(crate) async fn woken(&self) {
        self.place.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut lines = self.waiters.lines();
        lines.waiting -= 1;
        let Some(line) = lines.by_session.get_mut(&self.key) else { return };
        line.places.retain(|(_, place)| !Arc::ptr_eq(place, &self.place));
        match line.places.front() {
            Some((_, first)) => first.notify_one(),
            None => {
                line.empty.cancel();
                lines.by_session.remove(&self.key);
            }
        }
    }
}

/// Takes the place of whoever came at `arrived` in the line for `key`, and listens for its lock to become free while there is a line.
///
/// # Errors
/// `busy` when too many wait already.
pub(crate) fn join(hub: &Hub, key: &SessionKey, arrived: Instant) -> Result<Waiting, Error> {
    let (waiting, opened) = hub.waiters.join(key, arrived)?;
    if let Some(empty) = opened {
        let listen =
            listen(hub.client.clone(), hub.config.root.signals(key, Some("lock")), hub.waiters.clone(), key.clone());
        hub.tasks.spawn(empty.run_until_cancelled_owned(listen));
    }
    Ok(waiting)
}

/// Wakes whoever is first at each signal that may mean a free lock. Missing one costs a waiter one poll.
async fn listen(client: async_nats::Client, subject: String, waiters: Arc<Waiters>, key: SessionKey) {
    match client.subscribe(subject).await {
        Ok(mut signals) => {
            while let Some(signal) = signals.next().await {
                let event = signal.subject.rsplit('.').next().unwrap_or_default();
                if matches!(event, "released" | "expired" | "changed") {
                    waiters.wake(&key);
                }
            }
        }
        Err(error) => tracing::warn!(%key, %error, "lock signals cannot be heard; waiters poll"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;
    use crate::fixture::key;

    const SOON: Duration = Duration::from_secs(5);

    fn join(waiters: &Arc<Waiters>, id: &str) -> Waiting {
        waiters.join(&key(id), Instant::now()).unwrap().0
    }

    #[tokio::test]
    async fn waiters_get_their_turn_in_order_of_arrival() {
        let waiters = Arc::new(Waiters::new(100));
        let (served, mut order) = mpsc::channel(50);
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..50 {
            let waiting = join(&waiters, "s1");
            let served = served.clone();
            tasks.spawn(async move {
                while !waiting.is_first() {
                    waiting.woken().await;
                }
                served.send(n).await.unwrap();
            });
        }
        timeout(SOON, tasks.join_all()).await.unwrap();
        for n in 0..50 {
            assert_eq!(order.recv().await, Some(n));
        }
        assert!(!waiters.has(&key("s1")));
    }

    #[test]
    fn who_came_first_is_first_though_its_task_ran_later() {
        let waiters = Arc::new(Waiters::new(100));
        let early = Instant::now();
        let (second, _) = waiters.join(&key("s1"), early + Duration::from_micros(1)).unwrap();
        let (first, _) = waiters.join(&key("s1"), early).unwrap();
        assert!(first.is_first() && !second.is_first());
    }

    #[tokio::test]
    async fn a_wake_reaches_the_first_only_and_is_kept_until_heard() {
        let waiters = Arc::new(Waiters::new(100));
        let (first, second, other) = (join(&waiters, "s1"), join(&waiters, "s1"), join(&waiters, "s2"));
        waiters.wake(&key("s1"));
        timeout(SOON, first.woken()).await.unwrap();
        assert!(timeout(Duration::from_millis(5), second.woken()).await.is_err());
        assert!(timeout(Duration::from_millis(5), other.woken()).await.is_err());
        assert!(first.is_first() && !second.is_first() && other.is_first());
        drop(first);
        timeout(SOON, second.woken()).await.unwrap();
        assert!(second.is_first());
    }

    #[test]
    fn lines_are_bounded_and_end_with_their_last_waiter() {
        let waiters = Arc::new(Waiters::new(2));
        let (first, opened) = waiters.join(&key("s1"), Instant::now()).unwrap();
        let (second, again) = waiters.join(&key("s1"), Instant::now()).unwrap();
        let empty = opened.unwrap();
        assert!(again.is_none());
        assert_eq!(waiters.join(&key("s2"), Instant::now()).err().unwrap().reason, Reason::MailboxFull);
        drop(first);
        assert!(!empty.is_cancelled());
        drop(second);
        assert!(empty.is_cancelled() && !waiters.has(&key("s1")));
        assert!(waiters.join(&key("s2"), Instant::now()).unwrap().1.is_some());
    }
}
