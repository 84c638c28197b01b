//! [`Storage`] over [`Memory`].

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Revision, SessionKey, WorkerName};
use jiff::Timestamp;
use tokio::time::Instant;

use super::inner::{Inner, What, Write};
use super::{Accepted, Memory};
use crate::page::Sorted;
use crate::{LeaseSlot, Page, PageRecord, Rollup, Storage, StoreError, Stored, StoredFrame, Walk, WriteId};

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
        let history = self.look(|inner| inner.records.get(key).cloned().unwrap_or_default()).await?;
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
        // A second read a moment later, as on a server.
        let last = |inner: &Inner| newest.keys().filter_map(|key| inner.records.get(key)?.last().cloned()).collect();
        let last: Vec<Stored> = self.look(last).await?;
        let last = last.into_iter().map(|stored| (stored.key.clone(), stored)).collect();
        let Sorted { mut records, moved } = Sorted::of(newest.into_values(), last, walk.until);
        let is_between = |found: &PageRecord, revision: u64| revision > found.at && revision <= walk.until;
        let has_another = |inner: &Inner, found: &PageRecord| {
            let revisions = inner.records.get(&found.stored.key);
            revisions.is_some_and(|all| all.iter().any(|stored| is_between(found, stored.revision.0)))
        };
        let kept = |inner: &Inner| moved.into_iter().filter(|found| !has_another(inner, found)).collect();
        let kept: Vec<PageRecord> = self.look(kept).await?;
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
        // May fail with a simulated fault; the caller then repeats the purge.
        self.look(|_| ()).await?;
        let mut inner = self.inner();
        inner.logs.entry(key.clone()).or_default().retain(|frame| frame.sequence > marker.0);
        inner.forgotten.insert(key.clone());
        inner.records.entry(key.clone()).or_default().retain(|stored| stored.revision > marker);
        inner.records.retain(|_, revisions| !revisions.is_empty());
        Ok(())
    }

    async fn clock(&self) -> Result<Timestamp, StoreError> {
        let last = |inner: &Inner| inner.accepted.last().map_or(Timestamp::UNIX_EPOCH, Accepted::time);
        self.look(last).await
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

    async fn secret(&self) -> Result<(Revision, Option<Bytes>), StoreError> {
        self.look(|inner| inner.secret.clone()).await
    }

    async fn put_secret(&self, expected: Revision, secret: Bytes) -> Result<Revision, StoreError> {
        self.look(|_| ()).await?;
        let mut inner = self.inner();
        if inner.secret.0 != expected {
            return Err(StoreError::Moved { expected });
        }
        inner.secret = (Revision(expected.0 + 1), Some(secret));
        Ok(inner.secret.0)
    }

    async fn remember_answer(&self, request: &str, answer: Bytes) -> Result<(), StoreError> {
        self.look(|_| ()).await?;
        self.inner().answers.entry(request.to_owned()).or_insert(answer);
        Ok(())
    }
}
