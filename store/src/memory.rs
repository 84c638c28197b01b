//! Storage in memory, with JetStream's semantics and, on request, every failure that a server can answer with.
//!
//! For simulations: the same seed gives the same faults. It keeps the whole history of accepted writes, so that a test
//! can check what was accepted, and in which order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Revision, SessionKey, WorkerName};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

mod feed;
mod inner;
mod storage;

use inner::{Fate, Inner, What, Write};

use crate::{Rollup, StoreError, Stored, StoredFrame, chance};

/// The rate of each fault, per 1,000 calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The seed of the faults.
    pub seed: u64,
    /// The write is refused as unavailable.
    pub unavailable: u64,
    /// The write takes effect, and its acknowledgement is lost.
    pub lost_ack: u64,
    /// The write is lost, and its outcome is unknown.
    pub lost_write: u64,
    /// The write's outcome is unknown, and it arrives some calls later, after its caller has given up.
    pub late: u64,
    /// A record or a log cannot be read.
    pub unreadable: u64,
    /// The longest delay of a call before it takes effect, and again before it is answered, milliseconds.
    pub delay_ms: u64,
    /// A record is read from a leader that does not have its last revision yet.
    pub stale: u64,
    /// A log is read from a replica that is as far behind as is allowed.
    pub behind: u64,
    /// Larger frames are refused, as by a server with a small `max_payload`; 0: no limit.
    pub frame_bytes_max: usize,
}

/// An accepted write.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// A revision of a record.
    Record(Stored),
    /// A frame, and the record's revision that it was accepted under.
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
        /// When it was stored.
        time: Timestamp,
    },
}

impl Accepted {
    /// When it was stored.
    fn time(&self) -> Timestamp {
        match self {
            Self::Record(stored) => stored.time,
            Self::Frame { time, .. } => *time,
        }
    }

    /// Its sequence in the stream.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Record(stored) => stored.revision.0,
            Self::Frame { sequence, .. } => *sequence,
        }
    }
}

/// [`crate::Storage`] and [`crate::Feed`] in memory. Clones are the same storage.
#[derive(Clone, Default)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    /// Notified when the stream or the consumer changes.
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

    /// Uses `faults` from now on.
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
        inner.put(Stored { key: key.clone(), revision, value, write_id: None, time: chance::now() });
        drop(inner);
        self.shared.grown.notify_waiters();
        revision
    }

    /// The server that has the consumer is lost, with what was acknowledged since the last checkpoint.
    pub fn lose_consumer(&self) {
        let mut inner = self.inner();
        inner.is_consumer_away |= inner.consumer.take().is_some();
        drop(inner);
        self.shared.grown.notify_waiters();
    }

    /// The current log, without faults.
    pub fn log_now(&self, key: &SessionKey) -> Vec<StoredFrame> {
        self.inner().logs.get(key).cloned().unwrap_or_default()
    }

    /// Restores removed frames of a log, as far as the log has room: a killed nats-server may lose its deletions
    /// (nats-server #7384 and #7387 report such cases).
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
                // A late copy of a lease needs no simulation: its revision is refused, or it is the same lease.
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
