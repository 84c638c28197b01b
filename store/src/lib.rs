//! The one door to what is stored: session records, their logs, workers' leases and the secret.
//!
//! Invariant: every write is conditional and has one of three outcomes that callers must tell apart: *moved*, *unknown*,
//! *unavailable* (see [`StoreError`]). Only `write` publishes to JetStream, with headers of our own, because the KV client of
//! async-nats hides the outcome, clears TTLs and may read stale values.
//!
//! It is a crate of its own because coordinators and workers both write and never import each other.
//! Deliberately absent: decisions. The store neither retries on *moved* nor knows what a lock is.

pub mod chance;
pub mod connect;
mod fault;
pub mod feed;
mod history;
pub mod jetstream;
mod lease;
mod log;
#[cfg(any(test, feature = "simulation"))]
pub mod memory;
pub mod mutant;
#[cfg(any(test, feature = "simulation"))]
pub mod net;
mod page;
pub mod provision;
mod purge;
mod read;
pub mod wire;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Namespace, Revision, SessionKey, WorkerName};
use jiff::Timestamp;

pub use feed::{Feed, SharedFeed};
pub use jetstream::Jetstream;
pub use lease::{ANSWER_TTL, LEASE_RENEW, LEASE_TTL, LeaseSlot};
pub use provision::{Provisioned, provision, token_secret};
pub use wire::{SharedWire, Wire};

/// Why something was not read or written. Each variant says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another writer was first: read again and decide again. Nothing was written.
    #[error("record moved past revision {expected}")]
    Moved {
        /// The revision that the writer knew.
        expected: Revision,
    },
    /// The write may have landed: send it again unchanged, or read back.
    #[error("outcome of the write is unknown: {0}")]
    Unknown(String),
    /// Nothing was read or written: try again later.
    #[error("storage is not available: {0}")]
    Unavailable(String),
    /// Nothing was written, and trying again will not help: the message is over the server's limit, for one.
    #[error("storage refused the write: {0}")]
    Refused(String),
}

/// A value as it is stored, unread.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The session.
    pub key: SessionKey,
    /// Its stream sequence.
    pub revision: Revision,
    /// The value; `None` where a KV client deleted or purged the key.
    pub value: Option<Bytes>,
    /// The id that its writer gave it.
    pub write_id: Option<String>,
    /// When it was stored, by the clock of the server.
    pub time: Timestamp,
}

/// A frame as it is stored, unread.
#[derive(Clone, Debug)]
pub struct StoredFrame {
    /// Its stream sequence.
    pub sequence: u64,
    /// The frame.
    pub value: Bytes,
}

/// A way through all records, or those of one namespace, in the order of the stream; each call of [`Storage::page`] is
/// one stretch of it.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    /// Whose records; `None`: all.
    pub namespace: Option<&'a Namespace>,
    /// Everything up to this sequence was looked at before; 0 at the beginning.
    pub after: u64,
    /// The sequence that the walk goes to. All up to it must be committed: see [`Storage::last`].
    pub until: u64,
    /// About how many messages one stretch has at most.
    pub most: usize,
}

/// What one stretch of a [`Walk`] has.
#[derive(Clone, Debug)]
pub struct Page {
    /// Each key once, in the order of `at`: those whose last revision is here, and those whose last revision is behind
    /// the walk's end. What a KV client deleted is among them.
    pub records: Vec<Found>,
    /// Everything up to here was looked at; at [`Walk::until`] the walk is at its end.
    pub looked_until: u64,
}

/// A record on a [`Page`].
#[derive(Clone, Debug)]
pub struct Found {
    /// Where in the stretch it was seen; a walk that goes on behind this has seen it.
    pub at: u64,
    /// Its last revision, as far as the replica knows that was asked.
    pub stored: Stored,
}

/// Whether a frame replaces all frames before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollup {
    /// It follows them.
    Keep,
    /// It replaces them, in one atomic step.
    Replace,
}

/// Names one write, so that a copy of it is known as one. Every attempt at a decision has its own.
pub type WriteId = String;

/// What coordinators and workers need of storage. [`Jetstream`] is the real one; `memory::Memory` answers with every
/// fault that the real one can have.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// The stream that records and logs are in.
    fn stream(&self) -> &str;

    /// Reads a record from the stream's leader. A hint still: only a write proves it.
    async fn read(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError>;

    /// Writes a record if it still is at `expected` (0: there is none), and returns its new revision.
    async fn commit(
        &self,
        key: &SessionKey,
        expected: Revision,
        record: Bytes,
        id: WriteId,
    ) -> Result<Revision, StoreError>;

    /// Appends a frame if the record still is at `fence`, and returns its sequence.
    async fn append(
        &self,
        key: &SessionKey,
        fence: Revision,
        frame: Bytes,
        rollup: Rollup,
        id: WriteId,
    ) -> Result<u64, StoreError>;

    /// Sequence of the log's last frame (0: there is none) on a replica that has everything of the stream up to
    /// `through`. Where that is a fence that nobody else can append under, the log ends there, whichever replica it
    /// was.
    async fn log_end(&self, key: &SessionKey, through: u64) -> Result<u64, StoreError>;

    /// Reads the log behind sequence `after`, up to and with the frame at `until`, oldest first.
    async fn read_log(&self, key: &SessionKey, after: u64, until: u64) -> Result<Vec<StoredFrame>, StoreError>;

    /// The stored revisions of a record (64 at most), oldest first: all of them up to the last element's revision,
    /// which is `at_least` or newer. A store that does not know `at_least` yet is asked again, and then is
    /// [`StoreError::Unavailable`]; 0 takes what the leader knows.
    async fn history(&self, key: &SessionKey, at_least: Revision) -> Result<Vec<Stored>, StoreError>;

    /// One stretch of a walk through the records. Whoever walks from 0 to a sequence that was the last at the walk's
    /// begin has seen every session that was there then and still is; one that changes meanwhile may be seen again.
    async fn page(&self, walk: &Walk<'_>) -> Result<Page, StoreError>;

    /// The stream's last sequence, as the leader knows it.
    async fn last(&self) -> Result<u64, StoreError>;

    /// Puts a delete marker over a record that still is at `expected`, and returns the marker's revision. It fences like any
    /// revision.
    async fn delete(&self, key: &SessionKey, expected: Revision, id: WriteId) -> Result<Revision, StoreError>;

    /// Removes what a deleted session left up to `marker`: its log, then the revisions of its record, the marker included.
    /// What came later stays. Until it is done it may be asked for again.
    async fn purge(&self, key: &SessionKey, marker: Revision) -> Result<(), StoreError>;

    /// Removes what clients stored in logs that belong to no session, since their namespaces are reserved and have no
    /// records. Returns from how many namespaces something went.
    async fn purge_strays(&self) -> Result<usize, StoreError> {
        Ok(0)
    }

    /// When the stream was last written to, by the clock of the server.
    async fn clock(&self) -> Result<Timestamp, StoreError>;

    /// Reads what stands under a worker's name, from the leader.
    async fn lease(&self, worker: &WorkerName) -> Result<LeaseSlot, StoreError>;

    /// Writes a worker's lease if its key still is at `expected` (0: there is none), and returns its new revision. It
    /// expires by itself.
    async fn put_lease(&self, lease: &WorkerLease, expected: Revision) -> Result<Revision, StoreError>;

    /// Takes a worker's lease away if its key still is at `expected`: it leaves in order.
    async fn drop_lease(&self, worker: &WorkerName, expected: Revision) -> Result<(), StoreError>;

    /// All unexpired leases with their revisions.
    async fn leases(&self) -> Result<Vec<(Revision, WorkerLease)>, StoreError>;

    /// What was answered to a request that no record and no log remembers; `None` if nothing was, or more than
    /// [`ANSWER_TTL`] ago. `request` names it, as one token of a subject.
    async fn answered(&self, request: &str) -> Result<Option<Bytes>, StoreError>;

    /// Remembers what such a request was answered, unless it was answered before.
    async fn remember_answer(&self, request: &str, answer: Bytes) -> Result<(), StoreError>;
}

/// A shared store.
pub type Store = Arc<dyn Storage>;

/// How far the relay has announced the stream, as far as this process knows.
#[derive(Clone, Debug, Default)]
pub struct Floor(Arc<AtomicU64>);

impl Floor {
    /// The last sequence that is announced.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Learns of progress; never goes back.
    pub fn advance(&self, floor: u64) {
        self.0.fetch_max(floor, Ordering::Relaxed);
    }
}
