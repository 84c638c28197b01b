//! The queues for locks, one per session, in order of arrival.
//!
//! Invariant: only the first waiter of a queue tries, and a waiter that leaves without the lock wakes the next one.
//! Each queue is bounded, all together are, and each client's share is, so that no client can keep others from waiting.
//! The queues are this coordinator's own: waiters at another coordinator have another queue.
//!
//! A release may grant the lock to the first waiter in its own write. Then exactly one of both acts: the release takes
//! an [`Offer`] only while the waiter is parked, and the waiter does nothing until the offer is settled.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use holdfast_meters::Gauge;
use holdfast_protocol::internal::Line;
use holdfast_protocol::reply::{Grant, WaiterPreview};
use holdfast_protocol::request::Acquire;
use holdfast_protocol::signal::HANDED_OVER;
use holdfast_protocol::{Error, Reason, Revision, SessionKey};
use holdfast_records::Done;
use holdfast_store::SharedWire;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::context::Context;
use crate::error;
use crate::operation::Operation;

/// All queues.
pub(crate) struct Waiters {
    queues: Mutex<Queues>,
    most: usize,
    most_of_client: usize,
    most_of_session: usize,
    /// How many waiters of one client one queue takes.
    share_of_session: usize,
    waiting: Gauge,
}

#[derive(Default)]
struct Queues {
    by_session: HashMap<SessionKey, Queue>,
    by_client: HashMap<Arc<str>, usize>,
    waiting: usize,
}

struct Queue {
    /// The waiters in order of arrival.
    places: VecDeque<Place>,
    /// Cancelled when the queue is empty.
    empty: CancellationToken,
}

/// A waiter in a queue.
struct Place {
    turn: Arc<Notify>,
    client: Arc<str>,
    wants: Arc<Wants>,
    since: Instant,
    doing: Doing,
}

/// What a waiter waits for.
pub(crate) struct Wants {
    pub(crate) request: Acquire,
    pub(crate) operation: Operation,
    /// When it gives up.
    pub(crate) until: Instant,
}

/// What a waiter does at this moment.
enum Doing {
    /// It tries to get the lock, or decides that it gives up.
    Tries,
    /// It sleeps until it is woken.
    Parked,
    /// A release is writing the record that grants it the lock.
    Offered,
    /// That write has an outcome, which the waiter has not seen yet.
    Settled(Settled),
}

/// The outcome of an offer.
pub(crate) enum Settled {
    /// The lock is granted.
    Granted(Box<Done<Grant>>),
    /// Nothing was granted.
    Nothing,
    /// A write on top of this revision may grant the lock still.
    Unknown(Revision),
}

/// One waiter's place in a queue. Dropping it leaves the queue.
pub(crate) struct Waiting {
    waiters: Arc<Waiters>,
    key: SessionKey,
    client: Arc<str>,
    place: Arc<Notify>,
    /// Whether the next waiter is woken when this one leaves.
    wakes_next: bool,
}

/// The first waiter of a queue, whom a release may grant the lock in its own write. Dropping it without an outcome says
/// that the outcome is unknown.
pub(crate) struct Offer {
    waiters: Arc<Waiters>,
    key: SessionKey,
    place: Arc<Notify>,
    wants: Arc<Wants>,
    /// The revision that the grant is written on top of.
    expected: Option<Revision>,
}

impl Waiters {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            queues: Mutex::default(),
            most: config.max_waiters,
            most_of_client: config.max_waiters_of_client,
            most_of_session: config.max_waiters_of_session,
            share_of_session: (config.max_waiters_of_session / 2).max(1),
            waiting: config.meters.waiters().clone(),
        }
    }

    // Every change leaves the queues consistent, so a poisoned lock is safe to use.
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn has(&self, key: &SessionKey) -> bool {
        self.queues().by_session.contains_key(key)
    }

    /// Wakes the first waiter for `key`, because the lock may be free.
    pub(crate) fn wake(&self, key: &SessionKey) {
        if let Some(first) = self.queues().by_session.get(key).and_then(|queue| queue.places.front()) {
            first.turn.notify_one();
        }
    }

    /// Who waits for `key`: how many, and the first `most` of them.
    pub(crate) fn line(&self, key: &SessionKey, most: usize) -> Line {
        let queues = self.queues();
        let Some(queue) = queues.by_session.get(key) else { return Line::default() };
        let shown = |place: &Place| WaiterPreview {
            owner: place.wants.request.owner.clone(),
            waited_ms: u64::try_from(place.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        Line { waiting: queue.places.len() as u64, first: queue.places.iter().take(most).map(shown).collect() }
    }

    /// The first waiter for `key`, if it is parked and has time left. It stays parked until the offer is settled.
    pub(crate) fn offer(self: &Arc<Self>, key: &SessionKey) -> Option<Offer> {
        let mut queues = self.queues();
        let first = queues.by_session.get_mut(key)?.places.front_mut()?;
        if !matches!(first.doing, Doing::Parked) || first.wants.until <= Instant::now() {
            return None;
        }
        first.doing = Doing::Offered;
        let (place, wants) = (first.turn.clone(), first.wants.clone());
        Some(Offer { waiters: self.clone(), key: key.clone(), place, wants, expected: None })
    }

    /// Changes what a waiter does; `next` gets what it does now. `None`: it has left.
    fn change<T>(&self, key: &SessionKey, turn: &Arc<Notify>, next: impl FnOnce(Doing) -> (Doing, T)) -> Option<T> {
        let mut queues = self.queues();
        let mut places = queues.by_session.get_mut(key)?.places.iter_mut();
        let place = places.find(|place| Arc::ptr_eq(&place.turn, turn))?;
        let (doing, outcome) = next(std::mem::replace(&mut place.doing, Doing::Tries));
        place.doing = doing;
        Some(outcome)
    }

    /// Joins the queue for `key` at its end, for `client`, see `Asker::client`. A caller that opens the queue also gets
    /// a token, which is cancelled when the queue is empty.
    ///
    /// # Errors
    /// `busy` when a bound is reached.
    fn join(
        self: &Arc<Self>,
        key: &SessionKey,
        client: &str,
        wants: &Arc<Wants>,
    ) -> Result<(Waiting, Option<CancellationToken>), Error> {
        let mut queues = self.queues();
        let queue = queues.by_session.get(key);
        let in_queue = queue.map_or(0, |queue| queue.places.len());
        // Counted only if the queue is long enough for the client's share to matter.
        let own_in_queue = queue.filter(|_| in_queue >= self.share_of_session).map_or(0, |queue| queue.of(client));
        let of_client = queues.by_client.get(client).copied().unwrap_or(0);
        let full = [
            (queues.waiting >= self.most, "too many requests wait for locks"),
            (in_queue >= self.most_of_session, "too many requests wait for this lock"),
            (own_in_queue >= self.share_of_session, "too many requests of this client wait for this lock"),
            (of_client >= self.most_of_client, "too many requests of this client wait for locks"),
        ];
        if let Some((_, why)) = full.into_iter().find(|(is_full, _)| *is_full) {
            return Err(error::busy(Reason::MailboxFull, why));
        }
        queues.waiting += 1;
        self.waiting.inc();
        let client: Arc<str> = client.into();
        *queues.by_client.entry(client.clone()).or_default() += 1;
        let place = Arc::new(Notify::new());
        let mut opened = None;
        let queue = queues.by_session.entry(key.clone()).or_insert_with(|| {
            let empty = CancellationToken::new();
            opened = Some(empty.clone());
            Queue { places: VecDeque::new(), empty }
        });
        queue.places.push_back(Place {
            turn: place.clone(),
            client: client.clone(),
            wants: wants.clone(),
            since: Instant::now(),
            doing: Doing::Tries,
        });
        Ok((Waiting { waiters: self.clone(), key: key.clone(), client, place, wakes_next: true }, opened))
    }
}

impl Queue {
    fn of(&self, client: &str) -> usize {
        self.places.iter().filter(|place| *place.client == *client).count()
    }
}

impl Waiting {
    /// Whether it is the first waiter of its queue.
    pub(crate) fn is_first(&self) -> bool {
        let queues = self.waiters.queues();
        let first = queues.by_session.get(&self.key).and_then(|queue| queue.places.front());
        first.is_some_and(|first| Arc::ptr_eq(&first.turn, &self.place))
    }

    /// Waits until there is a reason to try.
    pub(crate) async fn woken(&self) {
        self.place.notified().await;
    }

    /// From now on a release may grant the lock to this waiter.
    pub(crate) fn park(&self) {
        self.waiters.change(&self.key, &self.place, |_| (Doing::Parked, ()));
    }

    /// From now on no release grants the lock to this waiter. Waits for the outcome of one that is just doing so.
    pub(crate) async fn unpark(&self) -> Settled {
        let stop = |doing| match doing {
            Doing::Settled(settled) => (Doing::Tries, Some(settled)),
            Doing::Offered => (Doing::Offered, None),
            Doing::Tries | Doing::Parked => (Doing::Tries, Some(Settled::Nothing)),
        };
        loop {
            match self.waiters.change(&self.key, &self.place, stop) {
                Some(None) => self.woken().await,
                Some(Some(settled)) => return settled,
                None => return Settled::Nothing,
            }
        }
    }

    /// Leaves the queue with the lock: nobody else can get it now, so the next waiter is not woken.
    pub(crate) fn leave_with_lock(mut self) {
        self.wakes_next = false;
    }
}

impl Offer {
    /// What the waiter wants.
    pub(crate) fn wants(&self) -> &Wants {
        &self.wants
    }

    /// Notes that a grant will be written on top of `expected`.
    pub(crate) fn expect(&mut self, expected: Revision) {
        self.expected = Some(expected);
    }

    /// Tells the waiter the outcome.
    pub(crate) fn settle(&self, settled: Settled) {
        let told = self.waiters.change(&self.key, &self.place, |doing| match doing {
            Doing::Offered => (Doing::Settled(settled), true),
            doing => (doing, false),
        });
        if told == Some(true) {
            self.place.notify_one();
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.settle(self.expected.map_or(Settled::Nothing, Settled::Unknown));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut queues = self.waiters.queues();
        queues.waiting -= 1;
        self.waiters.waiting.dec();
        if let Some(of_client) = queues.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                queues.by_client.remove(&self.client);
            }
        }
        let Some(queue) = queues.by_session.get_mut(&self.key) else { return };
        queue.places.retain(|place| !Arc::ptr_eq(&place.turn, &self.place));
        match queue.places.front() {
            Some(first) if self.wakes_next => first.turn.notify_one(),
            Some(_) => {}
            None => {
                queue.empty.cancel();
                queues.by_session.remove(&self.key);
            }
        }
    }
}

/// Joins the queue for `key` at its end. While the queue exists, a task follows the signals of the lock. Awaits
/// nothing, so the queue has the order in which requests arrive.
///
/// # Errors
/// `busy` when a bound is reached.
pub(crate) fn join(context: &Context, key: &SessionKey, client: &str, wants: &Arc<Wants>) -> Result<Waiting, Error> {
    let (waiting, opened) = context.waiters.join(key, client, wants)?;
    if let Some(empty) = opened {
        let listen = listen(
            context.wire.clone(),
            context.config.root.signals(key, Some("lock")),
            context.waiters.clone(),
            key.clone(),
        );
        context.tasks.spawn(empty.run_until_cancelled_owned(listen));
    }
    Ok(waiting)
}

/// Wakes the first waiter at each signal that may mean a free lock. A missed signal costs the waiter one poll interval.
/// A release that handed the lock over says so in a header.
async fn listen(wire: SharedWire, subject: String, waiters: Arc<Waiters>, key: SessionKey) {
    match wire.subscribe(subject.into(), None).await {
        Ok(mut signals) => {
            while let Some(signal) = signals.next().await {
                let event = signal.subject.rsplit('.').next().unwrap_or_default();
                let is_handed_over = signal.headers.is_some_and(|headers| headers.get(HANDED_OVER).is_some());
                if matches!(event, "released" | "expired" | "changed") && !is_handed_over {
                    waiters.wake(&key);
                }
            }
        }
        Err(error) => tracing::warn!(%key, %error, "cannot subscribe to lock signals; waiters poll"),
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

    fn waiters() -> Arc<Waiters> {
        Arc::new(Waiters::new(&Config::default()))
    }

    fn wants(owner: &str) -> Arc<Wants> {
        let request = serde_json::from_value(serde_json::json!({"owner": owner})).unwrap();
        let operation = Operation::own(SOON);
        Arc::new(Wants { until: operation.deadline, request, operation })
    }

    fn join(waiters: &Arc<Waiters>, id: &str) -> Waiting {
        waiters.join(&key(id), "a", &wants("a")).unwrap().0
    }

    #[tokio::test]
    async fn waiters_get_their_turn_in_order_of_arrival() {
        let waiters = waiters();
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

    #[tokio::test]
    async fn a_wake_reaches_the_first_only_and_is_kept_until_heard() {
        let waiters = waiters();
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

    #[tokio::test]
    async fn an_offer_is_for_a_parked_waiter_and_holds_it_until_its_outcome() {
        let waiters = waiters();
        let (first, second) = (join(&waiters, "s1"), join(&waiters, "s1"));
        second.park();
        assert!(waiters.offer(&key("s1")).is_none(), "the first one tries by itself");
        first.park();
        let offer = waiters.offer(&key("s1")).unwrap();
        assert!(waiters.offer(&key("s1")).is_none(), "one release at a time");
        assert!(timeout(Duration::from_millis(5), first.unpark()).await.is_err(), "it waits for the outcome");
        drop(offer);
        assert!(matches!(timeout(SOON, first.unpark()).await.unwrap(), Settled::Nothing), "nothing was written");
        first.park();
        let mut offer = waiters.offer(&key("s1")).unwrap();
        offer.expect(Revision(7));
        drop(offer);
        let unknown = timeout(SOON, first.unpark()).await.unwrap();
        assert!(matches!(unknown, Settled::Unknown(Revision(7))), "a write without an outcome");
        assert!(waiters.offer(&key("s1")).is_none(), "it tries again");
    }

    #[tokio::test]
    async fn who_leaves_with_the_lock_wakes_nobody() {
        let waiters = waiters();
        let (first, second, third) = (join(&waiters, "s1"), join(&waiters, "s1"), join(&waiters, "s1"));
        first.leave_with_lock();
        assert!(timeout(Duration::from_millis(5), second.woken()).await.is_err());
        drop(second);
        timeout(SOON, third.woken()).await.unwrap();
    }

    #[test]
    fn a_line_ends_with_its_last_waiter() {
        let waiters = waiters();
        let (first, opened) = waiters.join(&key("s1"), "a", &wants("ann")).unwrap();
        let (second, again) = waiters.join(&key("s1"), "a", &wants("bob")).unwrap();
        let empty = opened.unwrap();
        let line = waiters.line(&key("s1"), 1);
        assert_eq!((line.waiting, line.first.len(), line.first[0].owner.as_str()), (2, 1, "ann"));
        assert_eq!(waiters.line(&key("s2"), 1).waiting, 0);
        assert!(again.is_none());
        drop(first);
        assert!(!empty.is_cancelled());
        drop(second);
        assert!(empty.is_cancelled() && !waiters.has(&key("s1")));
        assert!(waiters.queues().by_client.is_empty() && waiters.queues().waiting == 0);
    }

    #[test]
    fn neither_one_line_nor_one_client_locks_the_others_out() {
        let bounds =
            Config { max_waiters: 10, max_waiters_of_client: 6, max_waiters_of_session: 4, ..Config::default() };
        let waiters = Arc::new(Waiters::new(&bounds));
        let join = |id: &str, client: &str| waiters.join(&key(id), client, &wants("a")).map(|(waiting, _)| waiting);
        let refused = |outcome: Result<Waiting, Error>| outcome.err().map(|error| error.reason);
        let mut all: Vec<Waiting> = (0..2).map(|_| join("s1", "a").unwrap()).collect();
        assert_eq!(refused(join("s1", "a")), Some(Reason::MailboxFull), "half a queue is one client's share");
        all.extend((0..2).map(|n| join("s1", &format!("b{n}")).unwrap()));
        assert_eq!(refused(join("s1", "c")), Some(Reason::MailboxFull), "the queue is full");
        all.extend((0..4).map(|n| join(&format!("a{}", n % 2), "a").unwrap()));
        assert_eq!(refused(join("s3", "a")), Some(Reason::MailboxFull), "the client has its share");
        all.extend((0..2).map(|n| join(&format!("t{n}"), &format!("c{n}")).unwrap()));
        assert_eq!(refused(join("s4", "d")), Some(Reason::MailboxFull), "all places are taken");
        all.clear();
        assert!(join("s1", "b").is_ok());
    }
}
