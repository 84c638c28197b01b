//! The worker's lease: a sign of life that coordinators see, and the worker's own doubt when it could not give it.
//!
//! No safety rests on it: a worker that lost its lease is refused by the storage anyway. It only stops local reads, since
//! somebody else may own its sessions by now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_protocol::Revision;
use holdfast_protocol::internal::WorkerLease;
use holdfast_store::{LEASE_RENEW, LEASE_TTL, Storage, StoreError};
use tokio::time::Instant;

/// When the lease was last known to be good, counted from when the renewal was sent.
#[derive(Clone)]
pub(crate) struct LeaseHealth {
    epoch: Instant,
    confirmed_ms: Arc<AtomicU64>,
}

impl LeaseHealth {
    pub(crate) fn new(epoch: Instant) -> Self {
        Self { epoch, confirmed_ms: Arc::default() }
    }

    pub(crate) fn confirm(&self, sent: Instant) {
        let ms = sent.saturating_duration_since(self.epoch).as_millis();
        self.confirmed_ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether nobody can have thought this worker gone.
    pub(crate) fn is_confirmed(&self) -> bool {
        let confirmed = Duration::from_millis(self.confirmed_ms.load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(confirmed) < LEASE_TTL
    }
}

/// Another process took the worker's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameTaken;

/// Renews the lease with what `present` says then, at once when `changed` tells of something new, until another process has
/// the name.
pub(crate) async fn keep(
    store: &dyn Storage,
    mut revision: Revision,
    present: impl Fn() -> WorkerLease,
    health: &LeaseHealth,
    changed: &tokio::sync::Notify,
) -> NameTaken {
    loop {
        tokio::select! {
            () = changed.notified() => {}
            () = tokio::time::sleep(LEASE_RENEW) => {}
        }
        let sent = Instant::now();
        match renew(store, &present(), revision).await {
            Ok(Some(renewed)) => {
                revision = renewed;
                health.confirm(sent);
            }
            Ok(None) => return NameTaken,
            Err(error) => tracing::warn!(%error, "the worker's lease could not be renewed"),
        }
    }
}

/// Writes the lease on top of `revision`; `None`: another process has the name.
async fn renew(store: &dyn Storage, lease: &WorkerLease, revision: Revision) -> Result<Option<Revision>, StoreError> {
    match store.put_lease(lease, revision).await {
        Err(StoreError::Moved { .. }) => {}
        other => return other.map(Some),
    }
    let slot = store.lease(&lease.worker).await?;
    if slot.lease.is_some_and(|found| found.boot != lease.boot) {
        return Ok(None);
    }
    // It ran out while nobody could write it, or an earlier renewal was stored whose answer was lost.
    store.put_lease(lease, slot.revision).await.map(Some)
}

/// Takes the lease of this process away, if it has the name still: it leaves in order, and nobody need wait for it.
pub(crate) async fn end(store: &dyn Storage, lease: &WorkerLease) {
    let ended = async {
        let slot = store.lease(&lease.worker).await?;
        match slot.lease.is_some_and(|found| found.boot == lease.boot) {
            true => store.drop_lease(&lease.worker, slot.revision).await,
            false => Ok(()),
        }
    };
    if let Err(error) = ended.await {
        tracing::debug!(%error, "the worker's lease will run out by itself");
    }
}
