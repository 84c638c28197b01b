//! The storage: session records, their logs, workers' leases and the secret of tokens. Also the wire to other
//! processes.
//!
//! Invariant: every write is conditional and fails in one of three ways that callers must tell apart: *moved*,
//! *unknown*, *unavailable* (see [`StoreError`]). Only `write` publishes to JetStream, with its own headers, because
//! the KV client of async-nats hides the outcome, clears TTLs and may read stale values.
//!
//! It is a crate because coordinators and workers both write and never import each other.
//! Deliberately absent: decisions. The store neither retries on *moved* nor knows what a lock is.

mod by_hand;
pub mod chance;
pub mod connect;
mod fault;
pub mod feed;
mod history;
pub mod jetstream;
mod kept;
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
mod secret;
pub mod service;
pub mod trace;
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
pub use kept::{Begin, KeptMessage, KeptPage};
pub use lease::{ANSWER_TTL, LEASE_RENEW, LEASE_TTL, LeaseSlot};
pub use provision::{Provisioned, fresh_secret, provision, token_secret};
pub use wire::{SharedWire, Wire};

/// Why a read or write failed. Each variant says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another writer was first: read again and decide again. Nothing was written.
    #[error("record moved past revision {expected}")]
    Moved {
        /// The revision that the writer knew.
        expected: Revision,
    },
    /// The write may have taken effect: send it again unchanged, or read it back.
    #[error("outcome of the write is unknown: {0}")]
    Unknown(String),
    /// Nothing was read or written: try again later.
    #[error("storage is not available: {0}")]
    Unavailable(String),
    /// Nothing was written, and trying again will not help; for example, the message is larger than the server's limit.
    #[error("storage refused the write: {0}")]
    Refused(String),
}

/// A stored revision of a record, not parsed.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The session.
    pub key: SessionKey,
    /// Its stream sequence.
    pub revision: Revision,
    /// The value; `None` for a delete marker.
    pub value: Option<Bytes>,
    /// The id that its writer gave it.
    pub write_id: Option<String>,
    /// When it was stored, by the clock of the server.
    pub time: Timestamp,
}

/// A stored frame, not parsed.
#[derive(Clone, Debug)]
pub struct StoredFrame {
    /// Its stream sequence.
    pub sequence: u64,
    /// The frame.
    pub value: Bytes,
}

/// A walk through all records, or those of one namespace, in the order of the stream. Each call of [`Storage::page`]
/// reads one stretch of it.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    /// The namespace; `None`: all.
    pub namespace: Option<&'a Namespace>,
    /// Everything up to this sequence was read before; 0 at the beginning.
    pub after: u64,
    /// The sequence at which the walk ends. Everything up to it must be committed: see [`Storage::last`].
    pub until: u64,
    /// About how many messages one stretch reads at most.
    pub most: usize,
}

/// What one stretch of a [`Walk`] found.
#[derive(Clone, Debug)]
pub struct Page {
    /// Each key once, in the order of `at`: keys whose last revision is in the stretch, and keys that were in the
    /// stretch and have their last revision after the walk's end. Delete markers are included.
    pub records: Vec<PageRecord>,
    /// Everything up to here was read; at [`Walk::until`] the walk has ended.
    pub looked_until: u64,
}

/// A record on a [`Page`].
#[derive(Clone, Debug)]
pub struct PageRecord {
    /// The sequence at which it was seen; a walk that continues after this has seen it.
    pub at: u64,
    /// Its last revision that the answering replica has.
    pub stored: Stored,
}

/// Whether a frame replaces all frames before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollup {
    /// It does not.
    Keep,
    /// It replaces them atomically.
    Replace,
}

/// Identifies one write, so that its copies are recognised. Every decision that is written has its own id.
pub type WriteId = String;

/// What coordinators and workers need of the storage. [`Jetstream`] is the real one; `memory::Memory` can answer with
/// every failure that the real one can have.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// The name of the stream that has records and logs.
    fn stream(&self) -> &str;

    /// Reads a record from the stream's leader. It may be old all the same: only a write proves that it is current.
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

    /// The sequence of the log's last frame (0: there is none), from a replica that has the stream up to `through`. If
    /// `through` is the caller's own fence, this is the log's end, because nobody else can append under that fence.
    async fn log_end(&self, key: &SessionKey, through: u64) -> Result<u64, StoreError>;

    /// Reads the log after sequence `after`, up to and including the frame at `until`, oldest first.
    async fn read_log(&self, key: &SessionKey, after: u64, until: u64) -> Result<Vec<StoredFrame>, StoreError>;

    /// The stored revisions of a record (64 at most), oldest first and complete up to the last element's revision,
    /// which is `at_least` or newer. A leader that does not have `at_least` yet is asked again; after a while this is
    /// [`StoreError::Unavailable`]. With 0 the leader's state is taken as it is.
    async fn history(&self, key: &SessionKey, at_least: Revision) -> Result<Vec<Stored>, StoreError>;

    /// Reads one stretch of a walk through the records. A walk from 0 to the stream's last sequence at its beginning
    /// sees every session that existed then and still does. A session that changes meanwhile may be seen again.
    async fn page(&self, walk: &Walk<'_>) -> Result<Page, StoreError>;

    /// The stream's last sequence, from the leader.
    async fn last(&self) -> Result<u64, StoreError>;

    /// Writes a delete marker over a record that still is at `expected`. Returns the marker's revision, which is a
    /// fence like any other.
    async fn delete(&self, key: &SessionKey, expected: Revision, id: WriteId) -> Result<Revision, StoreError>;

    /// Removes a deleted session's remains up to `marker`: its log, then the revisions of its record, marker included.
    /// Later messages stay. After a failure it may be called again.
    async fn purge(&self, key: &SessionKey, marker: Revision) -> Result<(), StoreError>;

    /// Removes messages that clients stored in logs of reserved namespaces, which have no sessions. Returns the number
    /// of namespaces from which something was removed.
    async fn purge_strays(&self) -> Result<usize, StoreError> {
        Ok(0)
    }

    /// When the stream was last written to, by the server's clock.
    async fn clock(&self) -> Result<Timestamp, StoreError>;

    /// Reads a worker's key from the leader.
    async fn lease(&self, worker: &WorkerName) -> Result<LeaseSlot, StoreError>;

    /// Writes a worker's lease if its key still is at `expected` (0: there is none). Returns its new revision. The
    /// lease expires by itself.
    async fn put_lease(&self, lease: &WorkerLease, expected: Revision) -> Result<Revision, StoreError>;

    /// Removes a worker's lease if its key still is at `expected`, for a worker that leaves in order.
    async fn drop_lease(&self, worker: &WorkerName, expected: Revision) -> Result<(), StoreError>;

    /// All unexpired leases with their revisions.
    async fn leases(&self) -> Result<Vec<(Revision, WorkerLease)>, StoreError>;

    /// The kept answer to a request that no record and no log remembers. `None` if there is none, or it is older than
    /// [`ANSWER_TTL`]. `request` identifies the request, as one token of a subject.
    async fn answered(&self, request: &str) -> Result<Option<Bytes>, StoreError>;

    /// The stored secret of tokens (see `Secret::from_stored`) and its revision. `None` where there is none, and for a
    /// part that needs none.
    async fn secret(&self) -> Result<(Revision, Option<Bytes>), StoreError> {
        Ok((Revision(0), None))
    }

    /// Replaces the stored secret if it still is at `expected` (0: there is none). Returns its new revision.
    async fn put_secret(&self, _expected: Revision, _secret: Bytes) -> Result<Revision, StoreError> {
        Err(StoreError::Refused("this part has no secret".to_owned()))
    }

    /// Keeps the answer to such a request, unless one is kept already.
    async fn remember_answer(&self, request: &str, answer: Bytes) -> Result<(), StoreError>;
}

/// A shared store.
pub type Store = Arc<dyn Storage>;

/// The sequence up to which the relay has announced the stream, as far as this process knows.
#[derive(Clone, Debug, Default)]
pub struct Floor(Arc<AtomicU64>);

impl Floor {
    /// The last announced sequence.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Raises it to `floor`; never lowers it.
    pub fn advance(&self, floor: u64) {
        self.0.fetch_max(floor, Ordering::Relaxed);
    }
}
