//! Storage in memory, with JetStream's semantics and, when asked for, every fault that a server can answer with.
//!
//! For simulations: the same seed gives the same faults. It keeps the whole history of accepted writes, so that a test can
//! read back what was accepted, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Revision, SessionKey, WorkerName};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

mod feed;

use crate::mutant::{self, Mutant};
use crate::page::Sorted;
use crate::{Found, LEASE_TTL, LeaseSlot, Page, Rollup, Storage, StoreError, Stored, StoredFrame, Walk, WriteId};

/// How long three replicas may have a write in flight.
const IN_FLIGHT: Duration = Duration::from_millis(20);

/// How often which fault comes, in parts of 1,000 calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Seed of the choice.
    pub seed: u64,
    /// The write is refused as unavailable.
    pub unavailable: u64,
    /// The write lands, and its acknowledgement is lost.
    pub lost_ack: u64,
    /// The write is lost, and nobody says so.
    pub lost_write: u64,
    /// The write's outcome is unknown, and it is tried some calls later, after its caller has given up.
    pub late: u64,
    /// A record or a log cannot be read.
    pub unreadable: u64,
    /// The longest that a call is under way before it takes effect, and again before it is answered, milliseconds.
    pub delay_ms: u64,
    /// A record is read from a leader that has not heard of its last revision.
    pub stale: u64,
    /// A log is read from a replica that is as far behind as it may be.
    pub behind: u64,
    /// Frames of more bytes are refused, as by a server with a small `max_payload`; 0: none is.
    pub frame_bytes_max: usize,
}

/// An accepted write.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// A revision of a record.
    Record(Stored),
    /// A frame, and the revision of the record that it was accepted under.
    Frame {
        /// The session.
        key: SessionKey,
        /// Revision of the record at that moment.
        fence: Revision,
        /// Its sequence.
        sequence: u64,
        /// The frame.
        value: Bytes,
        /// Whether it replaced those before it.
        rollup: Rollup,
    },
}

impl Accepted {
    /// Its sequence in the stream.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Record(stored) => stored.revision.0,
            Self::Frame { sequence, .. } => *sequence,
        }
    }
}

#[derive(Default)]
struct Inner {
    faults: Faults,
    sequence: u64,
    records: BTreeMap<SessionKey, Vec<Stored>>,
    logs: BTreeMap<SessionKey, Vec<StoredFrame>>,
    /// The last sequence of the bucket of workers, which is another stream.
    lease_sequence: u64,
    leases: BTreeMap<WorkerName, (LeaseSlot, Instant)>,
    consumer: Option<feed::Consumer>,
    answers: BTreeMap<String, Bytes>,
    accepted: Vec<Accepted>,
    /// When each of them was.
    accepted_at: Vec<Instant>,
    written: BTreeMap<WriteId, u64>,
    /// Sessions whose logs are not what the accepted writes make of them.
    forgotten: BTreeSet<SessionKey>,
    late: Vec<Write>,
    /// The revision before each record's last change, and when that was made, for a mutant.
    in_flight: BTreeMap<SessionKey, (Revision, Instant)>,
    random: u64,
    reads: u64,
}

/// One conditional write.
struct Write {
    key: SessionKey,
    expected: Revision,
    id: WriteId,
    value: Bytes,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Record,
    Frame(Rollup),
}

/// What becomes of one write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    Unavailable,
    LostAck,
    LostWrite,
    Late,
}

impl Inner {
    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn revision(&self, key: &SessionKey) -> Revision {
        self.records.get(key).and_then(|revisions| revisions.last()).map_or(Revision(0), |stored| stored.revision)
    }

    /// A number below `bound` (splitmix64).
    fn roll(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random ^ self.faults.seed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn draw(&mut self) -> Fate {
        let Faults { unavailable, lost_ack, lost_write, late, .. } = self.faults;
        let mut roll = self.roll(1000);
        for (share, fate) in [
            (unavailable, Fate::Unavailable),
            (lost_ack, Fate::LostAck),
            (lost_write, Fate::LostWrite),
            (late, Fate::Late),
        ] {
            if roll < share {
                return fate;
            }
            roll -= share;
        }
        Fate::Fine
    }

    /// Some of the writes that are late arrive now.
    fn arrive(&mut self) {
        for write in std::mem::take(&mut self.late) {
            if self.roll(4) > 0 {
                self.late.push(write);
            } else {
                // Nobody waits for the answer any more.
                self.apply(write).ok();
            }
        }
    }

    fn apply(&mut self, write: Write) -> Result<u64, StoreError> {
        let Write { key, expected, id, value, what } = write;
        if let Some(sequence) = self.written.get(&id) {
            return Ok(*sequence);
        }
        if self.revision(&key) != expected && !self.is_let_in(&key, expected, what) {
            return Err(StoreError::Moved { expected });
        }
        let sequence = self.next();
        self.written.insert(id.clone(), sequence);
        match what {
            What::Record => {
                let value = (!value.is_empty()).then_some(value);
                let time = time_of(sequence);
                self.put(Stored { key, revision: Revision(sequence), value, write_id: Some(id), time });
            }
            What::Frame(rollup) => {
                self.accept(Accepted::Frame {
                    key: key.clone(),
                    fence: self.revision(&key),
                    sequence,
                    value: value.clone(),
                    rollup,
                });
                let log = self.logs.entry(key).or_default();
                if rollup == Rollup::Replace {
                    log.clear();
                }
                log.push(StoredFrame { sequence, value });
                let surplus = log.len().saturating_sub(64);
                log.drain(..surplus);
            }
        }
        Ok(sequence)
    }

    /// Whether a mutant has the storage take a write whose condition does not hold.
    fn is_let_in(&self, key: &SessionKey, expected: Revision, what: What) -> bool {
        let in_flight = self.in_flight.get(key).filter(|(_, since)| since.elapsed() < IN_FLIGHT);
        let is_frame = matches!(what, What::Frame(_));
        is_frame && mutant::is(Mutant::FrameWithoutCondition)
            || is_frame
                && mutant::is(Mutant::ConditionOnWildcard)
                && in_flight.is_some_and(|(before, _)| *before == expected)
    }

    /// The log as a replica has it that has the stream up to `at`.
    fn log_at(&self, key: &SessionKey, at: u64) -> Vec<StoredFrame> {
        if at >= self.sequence || self.forgotten.contains(key) {
            return self.logs.get(key).cloned().unwrap_or_default();
        }
        let mut log: Vec<StoredFrame> = Vec::new();
        for accepted in &self.accepted {
            match accepted {
                Accepted::Frame { key: of, sequence, value, rollup, .. } if of == key && *sequence <= at => {
                    if *rollup == Rollup::Replace {
                        log.clear();
                    }
                    log.push(StoredFrame { sequence: *sequence, value: value.clone() });
                }
                Accepted::Frame { .. } | Accepted::Record(_) => {}
            }
        }
        log.drain(..log.len().saturating_sub(64));
        log
    }

    /// The revisions that one stretch of `walk` passes.
    fn stretch(&self, walk: &Walk<'_>) -> Vec<Stored> {
        let is_in = |stored: &&Stored| {
            let is_wanted = walk.namespace.is_none_or(|namespace| stored.key.namespace == *namespace);
            is_wanted && stored.revision.0 > walk.after && stored.revision.0 <= walk.until
        };
        let mut all: Vec<Stored> = self.records.values().flatten().filter(is_in).cloned().collect();
        all.sort_unstable_by_key(|stored| stored.revision);
        all.truncate(walk.most);
        all
    }

    /// Leases that were not written again in time are gone; what is left of them has a revision of its own.
    fn expire_leases(&mut self) {
        let now = Instant::now();
        for (slot, until) in self.leases.values_mut().filter(|(slot, until)| slot.lease.is_some() && *until <= now) {
            self.lease_sequence += 1;
            *slot = LeaseSlot { revision: Revision(self.lease_sequence), lease: None };
            *until = now;
        }
    }

    fn put_lease(
        &mut self,
        worker: &WorkerName,
        lease: Option<WorkerLease>,
        expected: Revision,
    ) -> Result<Revision, StoreError> {
        self.expire_leases();
        let current = self.leases.get(worker).map_or(Revision(0), |(slot, _)| slot.revision);
        if current != expected {
            return Err(StoreError::Moved { expected });
        }
        self.lease_sequence += 1;
        let revision = Revision(self.lease_sequence);
        self.leases.insert(worker.clone(), (LeaseSlot { revision, lease }, Instant::now() + LEASE_TTL));
        Ok(revision)
    }

    fn accept(&mut self, accepted: Accepted) {
        self.accepted.push(accepted);
        self.accepted_at.push(Instant::now());
    }

    fn put(&mut self, stored: Stored) {
        self.accept(Accepted::Record(stored.clone()));
        if mutant::is(Mutant::ConditionOnWildcard) {
            self.in_flight.insert(stored.key.clone(), (self.revision(&stored.key), Instant::now()));
        }
        let revisions = self.records.entry(stored.key.clone()).or_default();
        revisions.push(stored);
        let surplus = revisions.len().saturating_sub(64);
        revisions.drain(..surplus);
    }
}

/// Its clock: one second a write.
fn time_of(sequence: u64) -> Timestamp {
    Timestamp::from_second(i64::try_from(sequence).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX)
}

/// [`Storage`] and [`crate::Feed`] in memory. Clones are the same storage.
#[derive(Clone, Default)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    /// The stream or the consumer has something new.
    grown: Notify,
}

impl Memory {
    /// A store with `faults`.
    pub fn new(faults: Faults) -> Self {
        let inner = Mutex::new(Inner { faults, ..Inner::default() });
        Self { shared: Arc::new(Shared { inner, grown: Notify::new() }) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, `faults`.
    pub fn set_faults(&self, faults: Faults) {
        self.inner().faults = faults;
    }

    /// Every accepted write, in commit order.
    pub fn accepted(&self) -> Vec<Accepted> {
        self.inner().accepted.clone()
    }

    /// Every accepted write and when it was, in commit order.
    pub fn timeline(&self) -> Vec<(Instant, Accepted)> {
        let inner = self.inner();
        inner.accepted_at.iter().copied().zip(inner.accepted.iter().cloned()).collect()
    }

    /// How often records were read.
    pub fn reads(&self) -> u64 {
        self.inner().reads
    }

    /// The sequence of the last accepted write.
    pub fn last_sequence(&self) -> u64 {
        self.inner().sequence
    }

    /// Writes a record as a KV client would: without a write id, and without faults.
    pub fn edit_by_hand(&self, key: &SessionKey, value: Option<Bytes>) -> Revision {
        let mut inner = self.inner();
        let revision = Revision(inner.next());
        inner.put(Stored { key: key.clone(), revision, value, write_id: None, time: time_of(revision.0) });
        drop(inner);
        self.shared.grown.notify_waiters();
        revision
    }

    /// A log as it is this very moment, without faults.
    pub fn log_now(&self, key: &SessionKey) -> Vec<StoredFrame> {
        self.inner().logs.get(key).cloned().unwrap_or_default()
    }

    /// Brings back what is no longer in a log, as far as it has room: a nats-server that is killed may have lost its deletions
    /// (nats-server #7384 and #7387 tell of such cases).
    pub fn forget_deletions(&self, key: &SessionKey) {
        let mut inner = self.inner();
        let all = inner.accepted.iter().filter_map(|accepted| match accepted {
            Accepted::Frame { key: of, sequence, value, .. } if of == key => {
                Some(StoredFrame { sequence: *sequence, value: value.clone() })
            }
            Accepted::Frame { .. } | Accepted::Record(_) => None,
        });
        let mut all: Vec<StoredFrame> = all.collect();
        let surplus = all.len().saturating_sub(64);
        inner.logs.insert(key.clone(), all.split_off(surplus));
        inner.forgotten.insert(key.clone());
    }

    fn is_behind(&self) -> bool {
        let mut inner = self.inner();
        let behind = inner.faults.behind;
        behind > 0 && inner.roll(1000) < behind
    }

    async fn delay(&self) {
        let delay_ms = {
            let mut inner = self.inner();
            let bound = inner.faults.delay_ms;
            if bound == 0 { 0 } else { inner.roll(bound + 1) }
        };
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
    }

    async fn write(&self, write: Write) -> Result<u64, StoreError> {
        self.delay().await;
        let written = self.try_write(write);
        self.shared.grown.notify_waiters();
        self.delay().await;
        written
    }

    fn try_write(&self, write: Write) -> Result<u64, StoreError> {
        let mut inner = self.inner();
        inner.arrive();
        let bytes_max = inner.faults.frame_bytes_max;
        if matches!(write.what, What::Frame(_)) && bytes_max > 0 && write.value.len() > bytes_max {
            return Err(StoreError::Refused("simulated: maximum payload exceeded".to_owned()));
        }
        match inner.draw() {
            Fate::Unavailable => Err(StoreError::Unavailable("simulated".to_owned())),
            Fate::LostWrite => Err(StoreError::Unknown("simulated: lost write".to_owned())),
            Fate::Late => {
                inner.late.push(write);
                Err(StoreError::Unknown("simulated: late write".to_owned()))
            }
            Fate::LostAck => {
                inner.apply(write)?;
                Err(StoreError::Unknown("simulated: lost acknowledgement".to_owned()))
            }
            Fate::Fine => inner.apply(write),
        }
    }

    async fn write_lease(
        &self,
        worker: &WorkerName,
        lease: Option<WorkerLease>,
        expected: Revision,
    ) -> Result<Revision, StoreError> {
        self.delay().await;
        let written = {
            let mut inner = self.inner();
            match inner.draw() {
                Fate::Unavailable => Err(StoreError::Unavailable("simulated".to_owned())),
                // A late copy of a lease is refused for its revision, or is the same lease.
                Fate::LostWrite | Fate::Late => Err(StoreError::Unknown("simulated: lost write".to_owned())),
                Fate::LostAck => {
                    inner.put_lease(worker, lease, expected).ok();
                    Err(StoreError::Unknown("simulated: lost acknowledgement".to_owned()))
                }
                Fate::Fine => inner.put_lease(worker, lease, expected),
            }
        };
        self.delay().await;
        written
    }

    async fn look<T>(&self, look: impl FnOnce(&Inner) -> T) -> Result<T, StoreError> {
        self.delay().await;
        let seen = {
            let mut inner = self.inner();
            inner.arrive();
            let unreadable = inner.faults.unreadable;
            if inner.roll(1000) < unreadable {
                Err(StoreError::Unavailable("simulated: not readable".to_owned()))
            } else {
                Ok(look(&inner))
            }
        };
        self.delay().await;
        seen
    }
}

#[async_trait]
impl Storage for Memory {
    fn stream(&self) -> &str {
        "KV_sessions"
    }

    async fn read(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        let is_stale = {
            let mut inner = self.inner();
            inner.reads += 1;
            let stale = inner.faults.stale;
            stale > 0 && inner.roll(1000) < stale
        };
        self.look(|inner| {
            let revisions = inner.records.get(key).map(Vec::as_slice).unwrap_or_default();
            let known = if is_stale && revisions.len() > 1 { revisions.len() - 1 } else { revisions.len() };
            revisions[..known].last().cloned()
        })
        .await
    }

    async fn commit(
        &self,
        key: &SessionKey,
        expected: Revision,
        record: Bytes,
        id: WriteId,
    ) -> Result<Revision, StoreError> {
        self.write(Write { key: key.clone(), expected, id, value: record, what: What::Record }).await.map(Revision)
    }

    async fn append(
        &self,
        key: &SessionKey,
        fence: Revision,
        frame: Bytes,
        rollup: Rollup,
        id: WriteId,
    ) -> Result<u64, StoreError> {
        self.write(Write { key: key.clone(), expected: fence, id, value: frame, what: What::Frame(rollup) }).await
    }

    async fn log_end(&self, key: &SessionKey, through: u64) -> Result<u64, StoreError> {
        let is_behind = self.is_behind();
        self.look(|inner| {
            let log = inner.log_at(key, if is_behind { through } else { inner.sequence });
            log.last().map_or(0, |frame| frame.sequence)
        })
        .await
    }

    async fn read_log(&self, key: &SessionKey, after: u64, until: u64) -> Result<Vec<StoredFrame>, StoreError> {
        let is_behind = self.is_behind();
        let read: Vec<StoredFrame> = self
            .look(|inner| {
                let frames = inner.log_at(key, if is_behind { until } else { inner.sequence });
                frames.into_iter().filter(|frame| frame.sequence > after && frame.sequence <= until).collect()
            })
            .await?;
        if read.last().is_none_or(|last| last.sequence != until) {
            return Err(StoreError::Unavailable("simulated: the log was replaced while it was read".to_owned()));
        }
        Ok(read)
    }

    async fn history(&self, key: &SessionKey, at_least: Revision) -> Result<Vec<Stored>, StoreError> {
        let history = self.inner().records.get(key).cloned().unwrap_or_default();
        if history.last().map_or(Revision(0), |last| last.revision) < at_least {
            return Err(StoreError::Unavailable(format!("simulated: revision {at_least} is not known")));
        }
        Ok(history)
    }

    async fn page(&self, walk: &Walk<'_>) -> Result<Page, StoreError> {
        let stretch = self.look(|inner| inner.stretch(walk)).await?;
        let looked_until =
            if stretch.len() < walk.most { walk.until } else { stretch.last().map_or(0, |seen| seen.revision.0) };
        let newest: BTreeMap<SessionKey, Stored> = stretch.into_iter().map(|seen| (seen.key.clone(), seen)).collect();
        // A moment later, as on a server.
        let last = |inner: &Inner| newest.keys().filter_map(|key| inner.records.get(key)?.last().cloned()).collect();
        let last: Vec<Stored> = self.look(last).await?;
        let last = last.into_iter().map(|stored| (stored.key.clone(), stored)).collect();
        let Sorted { mut records, moved } = Sorted::of(newest.into_values(), last, walk.until);
        let is_between = |found: &Found, revision: u64| revision > found.at && revision <= walk.until;
        let has_another = |inner: &Inner, found: &Found| {
            let revisions = inner.records.get(&found.stored.key);
            revisions.is_some_and(|all| all.iter().any(|stored| is_between(found, stored.revision.0)))
        };
        let kept = |inner: &Inner| moved.into_iter().filter(|found| !has_another(inner, found)).collect();
        let kept: Vec<Found> = self.look(kept).await?;
        records.extend(kept);
        records.sort_unstable_by_key(|found| found.at);
        Ok(Page { records, looked_until })
    }

    async fn last(&self) -> Result<u64, StoreError> {
        self.look(|inner| inner.sequence).await
    }

    async fn delete(&self, key: &SessionKey, expected: Revision, id: WriteId) -> Result<Revision, StoreError> {
        self.commit(key, expected, Bytes::new(), id).await
    }

    async fn purge(&self, key: &SessionKey, marker: Revision) -> Result<(), StoreError> {
        let mut inner = self.inner();
        inner.logs.entry(key.clone()).or_default().retain(|frame| frame.sequence > marker.0);
        inner.forgotten.insert(key.clone());
        inner.records.entry(key.clone()).or_default().retain(|stored| stored.revision > marker);
        inner.records.retain(|_, revisions| !revisions.is_empty());
        Ok(())
    }

    async fn clock(&self) -> Result<Timestamp, StoreError> {
        Ok(time_of(self.inner().sequence))
    }

    async fn lease(&self, worker: &WorkerName) -> Result<LeaseSlot, StoreError> {
        self.inner().expire_leases();
        self.look(|inner| inner.leases.get(worker).map(|(slot, _)| slot.clone()).unwrap_or_default()).await
    }

    async fn put_lease(&self, lease: &WorkerLease, expected: Revision) -> Result<Revision, StoreError> {
        self.write_lease(&lease.worker, Some(lease.clone()), expected).await
    }

    async fn drop_lease(&self, worker: &WorkerName, expected: Revision) -> Result<(), StoreError> {
        self.write_lease(worker, None, expected).await.map(|_| ())
    }

    async fn leases(&self) -> Result<Vec<(Revision, WorkerLease)>, StoreError> {
        self.inner().expire_leases();
        let there = |(slot, _): &(LeaseSlot, Instant)| Some((slot.revision, slot.lease.clone()?));
        self.look(|inner| inner.leases.values().filter_map(there).collect()).await
    }

    async fn answered(&self, request: &str) -> Result<Option<Bytes>, StoreError> {
        self.look(|inner| inner.answers.get(request).cloned()).await
    }

    async fn remember_answer(&self, request: &str, answer: Bytes) -> Result<(), StoreError> {
        self.inner().answers.entry(request.to_owned()).or_insert(answer);
        Ok(())
    }
}
