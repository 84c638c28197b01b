//! The worker's lease: a sign of life that coordinators see, and the worker's own doubt when it could not give it.
//!
//! No safety rests on it: a worker that lost its lease is refused by the storage anyway. It only stops local reads, since
//! somebody else may own its sessions by now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Revision, WorkerName};
use holdfast_store::{LEASE_RENEW, LEASE_TTL, Storage, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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

/// Why the renewing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseEnd {
    /// The worker ends.
    Stopped,
    /// Another process took the worker's name.
    NameTaken,
}

/// Writes the first lease, over whatever an earlier process of this name left.
pub(crate) async fn begin(
    store: &dyn Storage,
    lease: &WorkerLease,
    health: &LeaseHealth,
) -> Result<Revision, StoreError> {
    let sent = Instant::now();
    let revision = store.put_lease(lease, None).await?;
    health.confirm(sent);
    Ok(revision)
}

/// Renews the lease until `stop`, with what `present` says then; at once when `changed` tells of something new.
pub(crate) async fn keep(
    store: &dyn Storage,
    mut revision: Revision,
    present: impl Fn() -> WorkerLease,
    health: &LeaseHealth,
    changed: &tokio::sync::Notify,
    stop: &CancellationToken,
) -> LeaseEnd {
    loop {
        tokio::select! {
            () = stop.cancelled() => return LeaseEnd::Stopped,
            () = changed.notified() => {}
            () = tokio::time::sleep(LEASE_RENEW) => {}
        }
        let sent = Instant::now();
        let lease = present();
        let renewed = match store.put_lease(&lease, Some(revision)).await {
            Err(StoreError::Moved { .. }) => match is_taken(store, &lease).await {
                Ok(true) => return LeaseEnd::NameTaken,
                // It ran out while nobody could write it.
                Ok(false) => store.put_lease(&lease, None).await,
                Err(error) => Err(error),
            },
            other => other,
        };
        match renewed {
            Ok(renewed) => {
                revision = renewed;
                health.confirm(sent);
            }
            Err(error) => tracing::warn!(%error, "the worker's lease could not be renewed"),
        }
    }
}

async fn is_taken(store: &dyn Storage, lease: &WorkerLease) -> Result<bool, StoreError> {
    let leases = store.leases().await?;
    Ok(leases.iter().any(|(_, found)| found.worker == lease.worker && found.boot != lease.boot))
}

/// Takes the lease away: the worker leaves in order, and nobody need wait for it.
pub(crate) async fn end(store: &dyn Storage, worker: &WorkerName) {
    if let Err(error) = store.drop_lease(worker).await {
        tracing::debug!(%error, "the worker's lease will run out by itself");
    }
}
