//! The storage as one worker's process reaches it: a process that stands still, or is gone, gets no answers.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Revision, SessionKey, WorkerName};
use holdfast_store::memory::Memory;
use holdfast_store::{LeaseSlot, Page, Rollup, Storage, StoreError, Stored, StoredFrame, Walk, WriteId};
use tokio::sync::watch;

/// What a worker's process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Process {
    Runs,
    /// Stands still, as in a long pause; goes on later and does not know.
    Stalls,
    /// Is gone for good.
    Dead,
}

/// The storage as one worker's process reaches it.
pub(crate) struct Reach {
    pub(crate) memory: Arc<Memory>,
    pub(crate) process: watch::Receiver<Process>,
}

impl Reach {
    /// Returns once the process runs; never, when it is dead.
    async fn pass(&self) {
        let mut process = self.process.clone();
        if process.wait_for(|process| *process == Process::Runs).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Storage for Reach {
    fn stream(&self) -> &str {
        self.memory.stream()
    }

    async fn read(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        self.pass().await;
        let read = self.memory.read(key).await;
        self.pass().await;
        read
    }

    async fn commit(&self, key: &SessionKey, at: Revision, record: Bytes, id: WriteId) -> Result<Revision, StoreError> {
        self.pass().await;
        let written = self.memory.commit(key, at, record, id).await;
        self.pass().await;
        written
    }

    async fn append(
        &self,
        key: &SessionKey,
        fence: Revision,
        frame: Bytes,
        rollup: Rollup,
        id: WriteId,
    ) -> Result<u64, StoreError> {
        self.pass().await;
        let written = self.memory.append(key, fence, frame, rollup, id).await;
        self.pass().await;
        written
    }

    async fn log_end(&self, key: &SessionKey, through: u64) -> Result<u64, StoreError> {
        self.pass().await;
        let read = self.memory.log_end(key, through).await;
        self.pass().await;
        read
    }

    async fn read_log(&self, key: &SessionKey, after: u64, until: u64) -> Result<Vec<StoredFrame>, StoreError> {
        self.pass().await;
        let read = self.memory.read_log(key, after, until).await;
        self.pass().await;
        read
    }

    async fn history(&self, _: &SessionKey, _: Revision) -> Result<Vec<Stored>, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn page(&self, _: &Walk<'_>) -> Result<Page, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn last(&self) -> Result<u64, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn delete(&self, _: &SessionKey, _: Revision, _: WriteId) -> Result<Revision, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn purge(&self, _: &SessionKey, _: Revision) -> Result<(), StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn clock(&self) -> Result<jiff::Timestamp, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn lease(&self, _: &WorkerName) -> Result<LeaseSlot, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn put_lease(&self, _: &WorkerLease, _: Revision) -> Result<Revision, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn drop_lease(&self, _: &WorkerName, _: Revision) -> Result<(), StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn leases(&self) -> Result<Vec<(Revision, WorkerLease)>, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn answered(&self, _: &str) -> Result<Option<Bytes>, StoreError> {
        unreachable!("agents do not ask for it")
    }

    async fn remember_answer(&self, _: &str, _: Bytes) -> Result<(), StoreError> {
        unreachable!("agents do not ask for it")
    }
}
