//! Storage in memory, with JetStream's semantics and, when asked for, every fault that a server can answer with.
//!
//! For simulations: the same seed gives the same faults. It keeps the whole history of accepted writes, so that a test can
//! read back what was accepted, in order.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Namespace, Revision, SessionKey, WorkerName};

use crate::{Rollup, Storage, StoreError, Stored, StoredFrame, WriteId};

/// How often which fault comes, in parts of 1,000 writes.
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
    },
}

#[derive(Default)]
struct Inner {
    sequence: u64,
    records: BTreeMap<SessionKey, Vec<Stored>>,
    logs: BTreeMap<SessionKey, Vec<StoredFrame>>,
    leases: BTreeMap<WorkerName, (Revision, WorkerLease)>,
    accepted: Vec<Accepted>,
    written: BTreeMap<WriteId, u64>,
    random: u64,
}

/// What becomes of one write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    Unavailable,
    LostAck,
    LostWrite,
}

impl Inner {
    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn revision(&self, key: &SessionKey) -> Revision {
        self.records.get(key).and_then(|revisions| revisions.last()).map_or(Revision(0), |stored| stored.revision)
    }

    /// splitmix64
    fn draw(&mut self, faults: Faults) -> Fate {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random ^ faults.seed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let roll = (z ^ (z >> 31)) % 1000;
        if roll < faults.unavailable {
            Fate::Unavailable
        } else if roll < faults.unavailable + faults.lost_ack {
            Fate::LostAck
        } else if roll < faults.unavailable + faults.lost_ack + faults.lost_write {
            Fate::LostWrite
        } else {
            Fate::Fine
        }
    }
}

/// [`Storage`] in memory.
#[derive(Default)]
pub struct Memory {
    inner: Mutex<Inner>,
    faults: Faults,
}

impl Memory {
    /// A store with `faults`.
    pub fn new(faults: Faults) -> Self {
        Self { inner: Mutex::default(), faults }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every accepted write, in commit order.
    pub fn accepted(&self) -> Vec<Accepted> {
        self.inner().accepted.clone()
    }

    /// Writes a record as a KV client would: without a write id, and without faults.
    pub fn edit_by_hand(&self, key: &SessionKey, value: Option<Bytes>) -> Revision {
        let mut inner = self.inner();
        let revision = Revision(inner.next());
        put(&mut inner, Stored { key: key.clone(), revision, value, write_id: None });
        revision
    }

    /// How many messages a log has.
    pub fn log_len(&self, key: &SessionKey) -> usize {
        self.inner().logs.get(key).map_or(0, Vec::len)
    }

    fn write(
        &self,
        id: &WriteId,
        apply: impl FnOnce(&mut Inner) -> Result<u64, StoreError>,
    ) -> Result<u64, StoreError> {
        let mut inner = self.inner();
        let fate = inner.draw(self.faults);
        match fate {
            Fate::Unavailable => return Err(StoreError::Unavailable("simulated".to_owned())),
            Fate::LostWrite => return Err(StoreError::Unknown("simulated: lost write".to_owned())),
            Fate::Fine | Fate::LostAck => {}
        }
        let sequence = match inner.written.get(id) {
            Some(sequence) => *sequence,
            None => apply(&mut inner)?,
        };
        inner.written.insert(id.clone(), sequence);
        if fate == Fate::LostAck {
            return Err(StoreError::Unknown("simulated: lost acknowledgement".to_owned()));
        }
        Ok(sequence)
    }
}

fn put(inner: &mut Inner, stored: Stored) {
    inner.accepted.push(Accepted::Record(stored.clone()));
    let revisions = inner.records.entry(stored.key.clone()).or_default();
    revisions.push(stored);
    let surplus = revisions.len().saturating_sub(64);
    revisions.drain(..surplus);
}

#[async_trait]
impl Storage for Memory {
    fn stream(&self) -> &str {
        "KV_sessions"
    }

    async fn read(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        Ok(self.inner().records.get(key).and_then(|revisions| revisions.last()).cloned())
    }

    async fn commit(
        &self,
        key: &SessionKey,
        expected: Revision,
        record: Bytes,
        id: WriteId,
    ) -> Result<Revision, StoreError> {
        let sequence = self.write(&id, |inner| {
            if inner.revision(key) != expected {
                return Err(StoreError::Moved { expected });
            }
            let sequence = inner.next();
            let stored = Stored {
                key: key.clone(),
                revision: Revision(sequence),
                value: Some(record),
                write_id: Some(id.clone()),
            };
            put(inner, stored);
            Ok(sequence)
        })?;
        Ok(Revision(sequence))
    }

    async fn append(
        &self,
        key: &SessionKey,
        fence: Revision,
        frame: Bytes,
        rollup: Rollup,
        id: WriteId,
    ) -> Result<u64, StoreError> {
        self.write(&id, |inner| {
            if inner.revision(key) != fence {
                return Err(StoreError::Moved { expected: fence });
            }
            let sequence = inner.next();
            inner.accepted.push(Accepted::Frame { key: key.clone(), fence, sequence, value: frame.clone() });
            let log = inner.logs.entry(key.clone()).or_default();
            if rollup == Rollup::Replace {
                log.clear();
            }
            log.push(StoredFrame { sequence, value: frame });
            let surplus = log.len().saturating_sub(64);
            log.drain(..surplus);
            Ok(sequence)
        })
    }

    async fn read_log(&self, key: &SessionKey, after: u64, until: u64) -> Result<Vec<StoredFrame>, StoreError> {
        let inner = self.inner();
        let frames = inner.logs.get(key).map(Vec::as_slice).unwrap_or_default();
        Ok(frames.iter().filter(|frame| frame.sequence > after && frame.sequence <= until).cloned().collect())
    }

    async fn history(&self, key: &SessionKey) -> Result<Vec<Stored>, StoreError> {
        Ok(self.inner().records.get(key).cloned().unwrap_or_default())
    }

    async fn keys(&self, namespace: Option<&Namespace>) -> Result<Vec<SessionKey>, StoreError> {
        let inner = self.inner();
        Ok(inner.records.keys().filter(|key| namespace.is_none_or(|ns| key.namespace == *ns)).cloned().collect())
    }

    async fn read_many(&self, keys: &[SessionKey]) -> Result<Vec<Stored>, StoreError> {
        let inner = self.inner();
        Ok(keys.iter().filter_map(|key| inner.records.get(key)?.last().cloned()).collect())
    }

    async fn put_lease(&self, lease: &WorkerLease, expected: Option<Revision>) -> Result<Revision, StoreError> {
        let mut inner = self.inner();
        let current = inner.leases.get(&lease.worker).map(|(revision, _)| *revision);
        if let Some(expected) = expected.filter(|expected| current != Some(*expected)) {
            return Err(StoreError::Moved { expected });
        }
        let revision = Revision(inner.next());
        inner.leases.insert(lease.worker.clone(), (revision, lease.clone()));
        Ok(revision)
    }

    async fn drop_lease(&self, worker: &WorkerName) -> Result<(), StoreError> {
        self.inner().leases.remove(worker);
        Ok(())
    }

    async fn leases(&self) -> Result<Vec<(Revision, WorkerLease)>, StoreError> {
        Ok(self.inner().leases.values().cloned().collect())
    }
}
