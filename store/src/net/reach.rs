//! The storage as one simulated process reaches it: over the same connection as its messages.
//!
//! Invariant: a write without an acknowledgement is *unknown*, and a write that was not sent is *unavailable*. A
//! process that is stopped or dead gets no answers.

use std::future::Future;
use std::time::Duration;

use async_nats::Subject;
use async_trait::async_trait;
use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Revision, SessionKey, WorkerName};
use jiff::Timestamp;
use tokio::time::timeout;

use super::{Link, Process};
use crate::feed::{Batch, Deliveries, Feed, FeedConfig, FeedState, Posted};
use crate::memory::Memory;
use crate::{LeaseSlot, Page, Rollup, Storage, StoreError, Stored, StoredFrame, Walk, WriteId};

/// How long a call tries to reach the storage, as the real one does.
const PATIENCE: Duration = Duration::from_secs(5);

/// [`Storage`] and [`Feed`] of one process.
pub struct Reach {
    process: Process,
    memory: Memory,
}

impl Reach {
    pub(super) fn new(process: Process, memory: Memory) -> Self {
        Self { process, memory }
    }

    async fn read<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let late = || StoreError::Unavailable("simulated: no answer".to_owned());
        self.go(work, late, late).await
    }

    async fn write<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let is_known = || self.process.link() == Link::Broken;
        let not_sent = || match is_known() {
            true => StoreError::Unavailable("simulated: not connected".to_owned()),
            false => StoreError::Unknown("simulated: no acknowledgement".to_owned()),
        };
        self.go(work, not_sent, || StoreError::Unknown("simulated: no acknowledgement".to_owned())).await
    }

    async fn go<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
        not_sent: impl Fn() -> StoreError,
        unanswered: impl Fn() -> StoreError,
    ) -> Result<T, StoreError> {
        self.process.runs().await;
        let out = timeout(PATIENCE, self.process.gets_out()).await;
        self.process.runs().await;
        if out.is_err() {
            return Err(not_sent());
        }
        let outcome = work.await;
        self.process.runs().await;
        let back = timeout(PATIENCE, self.process.gets_in()).await;
        self.process.runs().await;
        if back.is_err() { Err(unanswered()) } else { outcome }
    }
}

#[async_trait]
impl Storage for Reach {
    fn stream(&self) -> &str {
        self.memory.stream()
    }

    async fn read(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        self.read(self.memory.read(key)).await
    }

    async fn commit(
        &self,
        key: &SessionKey,
        expected: Revision,
        record: Bytes,
        id: WriteId,
    ) -> Result<Revision, StoreError> {
        self.write(self.memory.commit(key, expected, record, id)).await
    }

    async fn append(
        &self,
        key: &SessionKey,
        fence: Revision,
        frame: Bytes,
        rollup: Rollup,
        id: WriteId,
    ) -> Result<u64, StoreError> {
        self.write(self.memory.append(key, fence, frame, rollup, id)).await
    }

    async fn log_end(&self, key: &SessionKey, through: u64) -> Result<u64, StoreError> {
        self.read(self.memory.log_end(key, through)).await
    }

    async fn read_log(&self, key: &SessionKey, after: u64, until: u64) -> Result<Vec<StoredFrame>, StoreError> {
        self.read(self.memory.read_log(key, after, until)).await
    }

    async fn history(&self, key: &SessionKey, at_least: Revision) -> Result<Vec<Stored>, StoreError> {
        self.read(self.memory.history(key, at_least)).await
    }

    async fn page(&self, walk: &Walk<'_>) -> Result<Page, StoreError> {
        self.read(self.memory.page(walk)).await
    }

    async fn last(&self) -> Result<u64, StoreError> {
        self.read(self.memory.last()).await
    }

    async fn delete(&self, key: &SessionKey, expected: Revision, id: WriteId) -> Result<Revision, StoreError> {
        self.write(self.memory.delete(key, expected, id)).await
    }

    async fn purge(&self, key: &SessionKey, marker: Revision) -> Result<(), StoreError> {
        // A purge without an answer may be repeated, so it fails like a read and not like a write.
        self.read(self.memory.purge(key, marker)).await
    }

    async fn purge_strays(&self) -> Result<usize, StoreError> {
        self.read(self.memory.purge_strays()).await
    }

    async fn clock(&self) -> Result<Timestamp, StoreError> {
        self.read(self.memory.clock()).await
    }

    async fn lease(&self, worker: &WorkerName) -> Result<LeaseSlot, StoreError> {
        self.read(self.memory.lease(worker)).await
    }

    async fn put_lease(&self, lease: &WorkerLease, expected: Revision) -> Result<Revision, StoreError> {
        self.write(self.memory.put_lease(lease, expected)).await
    }

    async fn drop_lease(&self, worker: &WorkerName, expected: Revision) -> Result<(), StoreError> {
        self.write(self.memory.drop_lease(worker, expected)).await
    }

    async fn leases(&self) -> Result<Vec<(Revision, WorkerLease)>, StoreError> {
        self.read(self.memory.leases()).await
    }

    async fn answered(&self, request: &str) -> Result<Option<Bytes>, StoreError> {
        self.read(self.memory.answered(request)).await
    }

    async fn remember_answer(&self, request: &str, answer: Bytes) -> Result<(), StoreError> {
        self.write(self.memory.remember_answer(request, answer)).await
    }
}

#[async_trait]
impl Feed for Reach {
    async fn open(&self, config: &FeedConfig) -> Result<Box<dyn Deliveries>, StoreError> {
        let deliveries = self.read(self.memory.open(config)).await?;
        Ok(Box::new(Reached { process: self.process.clone(), deliveries, arrived: None }))
    }

    async fn ensure(&self, config: &FeedConfig) -> Result<FeedState, StoreError> {
        self.read(self.memory.ensure(config)).await
    }

    async fn renew(&self, config: &FeedConfig) -> Result<(), StoreError> {
        self.read(self.memory.renew(config)).await
    }

    async fn checkpoint(&self, until: u64) -> Result<(), StoreError> {
        // A checkpoint without an answer may be written again.
        self.read(self.memory.checkpoint(until)).await
    }

    async fn state(&self, config: &FeedConfig) -> Result<FeedState, StoreError> {
        self.read(self.memory.state(config)).await
    }

    /// A plain message: nothing confirms its arrival.
    async fn acknowledge(&self, ack: &Subject) -> Result<(), StoreError> {
        self.process.runs().await;
        if self.process.gets_out_now() { self.memory.acknowledge(ack).await } else { Ok(()) }
    }

    async fn unpin(&self, config: &FeedConfig) -> Result<(), StoreError> {
        self.read(self.memory.unpin(config)).await
    }

    async fn first(&self, subject: Option<&str>, from: u64) -> Result<Option<Posted>, StoreError> {
        self.read(self.memory.first(subject, from)).await
    }
}

/// The consumer's deliveries to one process. While the process is cut off it sends no pull requests, and its pin
/// expires.
struct Reached {
    process: Process,
    deliveries: Box<dyn Deliveries>,
    arrived: Option<Batch>,
}

#[async_trait]
impl Deliveries for Reached {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            self.process.is_up().await;
            if let Some(batch) = self.arrived.take() {
                return Ok(batch);
            }
            tokio::select! {
                biased;
                () = self.process.is_troubled() => {}
                batch = self.deliveries.next() => self.arrived = Some(batch?),
            }
        }
    }
}
