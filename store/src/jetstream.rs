//! Storage on NATS JetStream: the stream behind the bucket of sessions, and the bucket of workers.
//!
//! Invariant: records are read from the leader and written under a condition on their own subject. Frames are appended
//! under a condition on the record's subject, so there is no window between check and write.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use async_nats::{Client, HeaderMap, header, jetstream};
use async_trait::async_trait;
use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::subject::Root;
use holdfast_protocol::{Revision, SessionKey, WorkerName};
use jiff::Timestamp;

mod feed;

use crate::page::Beginnings;
use crate::write::{Outcome, Write};
use crate::{
    LeaseSlot, Page, Rollup, Storage, StoreError, Stored, StoredFrame, Walk, WriteId, history, lease, log, page, purge,
    read, secret, trace, write,
};

/// The condition's subject, when it is not the message's own (ADR-1 of optimistic writes; nats-server 2.14).
const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// How long to wait for an answer of the stream's leader. A request that was lost with its leader gets none.
const STATE_TIMEOUT: Duration = Duration::from_secs(2);

/// [`Storage`] on one JetStream stream.
#[derive(Clone, Debug)]
pub struct Jetstream {
    pub(crate) client: Client,
    pub(crate) context: jetstream::Context,
    pub(crate) root: Root,
    pub(crate) stream: String,
    pub(crate) sessions: Stream<()>,
    beginnings: Arc<Mutex<Beginnings>>,
}

impl Jetstream {
    /// The store of the installation below `root`. [`crate::provision()`] creates its streams.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the stream's name is not valid.
    pub async fn new(client: Client, root: Root) -> Result<Self, StoreError> {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(STATE_TIMEOUT);
        let stream = root.sessions_stream();
        let sessions =
            context.get_stream_no_info(&stream).await.map_err(|error| StoreError::Refused(error.to_string()))?;
        Ok(Self { client, context, root, stream, sessions, beginnings: Arc::default() })
    }

    pub(crate) fn beginnings(&self) -> MutexGuard<'_, Beginnings> {
        self.beginnings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn headers(&self, id: &WriteId, expected: Revision) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, id.as_str());
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string().as_str());
        trace::stamp(&mut headers);
        headers
    }

    async fn write_record(&self, key: &SessionKey, id: &str, write: Write) -> Result<Revision, StoreError> {
        match write::publish(&self.client, &write).await? {
            Outcome::Stored(sequence) => Ok(Revision(sequence)),
            Outcome::Mismatch => Err(write.moved()),
            Outcome::MismatchAfterUnknown => {
                history::find(self, key, write.expected, id).await?.ok_or_else(|| write.moved())
            }
        }
    }

    pub(crate) fn stored(&self, raw: read::Raw) -> Option<Stored> {
        let key = self.root.parse_record(&raw.subject)?;
        let write_id = raw.write_id();
        let value = (!raw.is_marker()).then_some(raw.payload);
        Some(Stored { key, revision: Revision(raw.sequence), value, write_id, time: raw.time })
    }
}

#[async_trait]
impl Storage for Jetstream {
    fn stream(&self) -> &str {
        &self.stream
    }

    async fn read(&self, key: &SessionKey) -> Result<Option<Stored>, StoreError> {
        Ok(read::last(&self.sessions, &self.root.record(key)).await?.and_then(|raw| self.stored(raw)))
    }

    async fn commit(
        &self,
        key: &SessionKey,
        expected: Revision,
        record: Bytes,
        id: WriteId,
    ) -> Result<Revision, StoreError> {
        let headers = self.headers(&id, expected);
        let write = Write { subject: self.root.record(key), headers, payload: record, expected };
        self.write_record(key, &id, write).await
    }

    async fn append(
        &self,
        key: &SessionKey,
        fence: Revision,
        frame: Bytes,
        rollup: Rollup,
        id: WriteId,
    ) -> Result<u64, StoreError> {
        let mut headers = self.headers(&id, fence);
        headers.insert(EXPECTED_SUBJECT, self.root.record(key).as_str());
        if rollup == Rollup::Replace {
            headers.insert(header::NATS_ROLLUP, "sub");
        }
        let write = Write { subject: self.root.log(key), headers, payload: frame, expected: fence };
        match write::publish(&self.client, &write).await? {
            Outcome::Stored(sequence) => Ok(sequence),
            Outcome::Mismatch => Err(write.moved()),
            // A later snapshot may have replaced the frame, so only a reader of the log under a newer fence can tell.
            Outcome::MismatchAfterUnknown => {
                Err(StoreError::Unknown("an earlier copy of the frame may have landed".to_owned()))
            }
        }
    }

    async fn log_end(&self, key: &SessionKey, through: u64) -> Result<u64, StoreError> {
        log::end(self, key, through).await
    }

    async fn read_log(&self, key: &SessionKey, after: u64, until: u64) -> Result<Vec<StoredFrame>, StoreError> {
        log::read(self, key, after, until).await
    }

    async fn history(&self, key: &SessionKey, at_least: Revision) -> Result<Vec<Stored>, StoreError> {
        history::read(self, key, at_least).await
    }

    async fn page(&self, walk: &Walk<'_>) -> Result<Page, StoreError> {
        page::read(self, walk).await
    }

    async fn last(&self) -> Result<u64, StoreError> {
        Ok(purge::state(self).await?.last_sequence)
    }

    async fn delete(&self, key: &SessionKey, expected: Revision, id: WriteId) -> Result<Revision, StoreError> {
        let mut headers = self.headers(&id, expected);
        headers.insert("KV-Operation", "DEL");
        let write = Write { subject: self.root.record(key), headers, payload: Bytes::new(), expected };
        self.write_record(key, &id, write).await
    }

    async fn purge(&self, key: &SessionKey, marker: Revision) -> Result<(), StoreError> {
        purge::session(self, key, marker).await
    }

    async fn purge_strays(&self) -> Result<usize, StoreError> {
        purge::strays(self).await
    }

    async fn clock(&self) -> Result<Timestamp, StoreError> {
        purge::clock(self).await
    }

    async fn lease(&self, worker: &WorkerName) -> Result<LeaseSlot, StoreError> {
        lease::one(self, worker).await
    }

    async fn put_lease(&self, lease: &WorkerLease, expected: Revision) -> Result<Revision, StoreError> {
        lease::put(self, lease, expected).await
    }

    async fn drop_lease(&self, worker: &WorkerName, expected: Revision) -> Result<(), StoreError> {
        lease::drop(self, worker, expected).await
    }

    async fn leases(&self) -> Result<Vec<(Revision, WorkerLease)>, StoreError> {
        lease::all(self).await
    }

    async fn answered(&self, request: &str) -> Result<Option<Bytes>, StoreError> {
        lease::answered(self, request).await
    }

    async fn secret(&self) -> Result<(Revision, Option<Bytes>), StoreError> {
        secret::read(self).await
    }

    async fn put_secret(&self, expected: Revision, secret: Bytes) -> Result<Revision, StoreError> {
        secret::write(self, expected, secret).await
    }

    async fn remember_answer(&self, request: &str, answer: Bytes) -> Result<(), StoreError> {
        lease::remember_answer(self, request, answer).await
    }
}
