//! The state of the storage in memory, and how a write changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Revision, SessionKey, WorkerName};
use tokio::time::Instant;

use super::feed::Consumer;
use super::{Accepted, Faults};
use crate::mutant::{self, Mutant};
use crate::{LEASE_TTL, LeaseSlot, Rollup, StoreError, Stored, StoredFrame, Walk, WriteId, chance};

/// How long three replicas may have a write in flight.
const IN_FLIGHT: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(super) struct Inner {
    pub(super) faults: Faults,
    pub(super) sequence: u64,
    pub(super) records: BTreeMap<SessionKey, Vec<Stored>>,
    pub(super) logs: BTreeMap<SessionKey, Vec<StoredFrame>>,
    /// The last sequence of the bucket of workers, which is a separate stream.
    pub(super) lease_sequence: u64,
    pub(super) leases: BTreeMap<WorkerName, (LeaseSlot, Instant)>,
    /// `None`: there is none, or its server is away.
    pub(super) consumer: Option<Consumer>,
    /// Whether the consumer's server is away; nobody answers for the consumer then.
    pub(super) is_consumer_away: bool,
    /// How many consumers there were.
    pub(super) consumers: u64,
    /// How many readers were opened, of all consumers.
    pub(super) readers: u64,
    /// The relay's checkpoint.
    pub(super) checkpoint: u64,
    pub(super) answers: BTreeMap<String, Bytes>,
    /// The secret of tokens and its revision.
    pub(super) secret: (Revision, Option<Bytes>),
    pub(super) accepted: Vec<Accepted>,
    /// When each of them was.
    pub(super) accepted_at: Vec<Instant>,
    pub(super) written: BTreeMap<WriteId, u64>,
    /// Sessions whose logs have frames that were removed and restored.
    pub(super) forgotten: BTreeSet<SessionKey>,
    pub(super) late: Vec<Write>,
    /// The revision before each record's last change, and when that was made, for a mutant.
    pub(super) in_flight: BTreeMap<SessionKey, (Revision, Instant)>,
    pub(super) random: u64,
    pub(super) reads: u64,
}

/// One conditional write.
pub(super) struct Write {
    pub(super) key: SessionKey,
    pub(super) expected: Revision,
    pub(super) id: WriteId,
    pub(super) value: Bytes,
    pub(super) what: What,
}

#[derive(Clone, Copy)]
pub(super) enum What {
    Record,
    Frame(Rollup),
}

/// The fate of one write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Fine,
    Unavailable,
    LostAck,
    LostWrite,
    Late,
}

impl Inner {
    pub(super) fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(super) fn revision(&self, key: &SessionKey) -> Revision {
        self.records.get(key).and_then(|revisions| revisions.last()).map_or(Revision(0), |stored| stored.revision)
    }

    /// A number below `bound` (splitmix64).
    pub(super) fn roll(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random ^ self.faults.seed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub(super) fn draw(&mut self) -> Fate {
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

    /// Delivers some of the late writes.
    pub(super) fn arrive(&mut self) {
        for write in std::mem::take(&mut self.late) {
            if self.roll(4) > 0 {
                self.late.push(write);
            } else {
                // Its caller has given up, so the result is dropped.
                self.apply(write).ok();
            }
        }
    }

    pub(super) fn apply(&mut self, write: Write) -> Result<u64, StoreError> {
        let Write { key, expected, id, value, what } = write;
        if let Some(sequence) = self.written.get(&id) {
            return Ok(*sequence);
        }
        if self.revision(&key) != expected && !self.is_let_in(&key, expected, what) {
            return Err(StoreError::Moved { expected });
        }
        let (sequence, time) = (self.next(), chance::now());
        self.written.insert(id.clone(), sequence);
        match what {
            What::Record => {
                let value = (!value.is_empty()).then_some(value);
                self.put(Stored { key, revision: Revision(sequence), value, write_id: Some(id), time });
            }
            What::Frame(rollup) => {
                self.accept(Accepted::Frame {
                    key: key.clone(),
                    fence: self.revision(&key),
                    sequence,
                    value: value.clone(),
                    rollup,
                    time,
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

    /// Whether a mutant makes the storage accept a write whose condition does not hold.
    fn is_let_in(&self, key: &SessionKey, expected: Revision, what: What) -> bool {
        let in_flight = self.in_flight.get(key).filter(|(_, since)| since.elapsed() < IN_FLIGHT);
        let is_frame = matches!(what, What::Frame(_));
        is_frame && mutant::is(Mutant::FrameWithoutCondition)
            || is_frame
                && mutant::is(Mutant::ConditionOnWildcard)
                && in_flight.is_some_and(|(before, _)| *before == expected)
    }

    fn accept(&mut self, accepted: Accepted) {
        self.accepted.push(accepted);
        self.accepted_at.push(Instant::now());
    }

    /// The log on a replica that has the stream up to `at`.
    pub(super) fn log_at(&self, key: &SessionKey, at: u64) -> Vec<StoredFrame> {
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

    /// The revisions in one stretch of `walk`.
    pub(super) fn stretch(&self, walk: &Walk<'_>) -> Vec<Stored> {
        let is_in = |stored: &&Stored| {
            let is_wanted = walk.namespace.is_none_or(|namespace| stored.key.namespace == *namespace);
            is_wanted && stored.revision.0 > walk.after && stored.revision.0 <= walk.until
        };
        let mut all: Vec<Stored> = self.records.values().flatten().filter(is_in).cloned().collect();
        all.sort_unstable_by_key(|stored| stored.revision);
        all.truncate(walk.most);
        all
    }

    /// Expires leases that were not renewed in time; each leaves a marker with a revision of its own.
    pub(super) fn expire_leases(&mut self) {
        let now = Instant::now();
        for (slot, until) in self.leases.values_mut().filter(|(slot, until)| slot.lease.is_some() && *until <= now) {
            self.lease_sequence += 1;
            *slot = LeaseSlot { revision: Revision(self.lease_sequence), lease: None };
            *until = now;
        }
    }

    pub(super) fn put_lease(
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

    pub(super) fn put(&mut self, stored: Stored) {
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
