//! The worker's lease: a sign of life that coordinators see, and the worker's own doubt when it could not give it.
//!
//! No safety rests on it: a worker that lost its lease is refused by the storage anyway. It only stops local reads,
//! since somebody else may own its sessions by now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_protocol::Revision;
use holdfast_protocol::internal::WorkerLease;
use holdfast_store::{LEASE_RENEW, LEASE_TTL, Storage, StoreError};
use tokio::time::Instant;

/// How often a lease is read again because it changed while it was taken away.
const END_TRIES: usize = 16;

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

    /// How long ago the lease was last known to be good.
    pub(crate) fn age(&self) -> Duration {
        let confirmed = Duration::from_millis(self.confirmed_ms.load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(confirmed)
    }

    /// Whether nobody can have thought this worker gone.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.age() < LEASE_TTL
    }
}

/// Another process took the worker's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameTaken;

/// Renews the lease with what `present` says then, at once when `changed` tells of something new, until another process
/// has the name.
pub(crate) async fn keep(
    store: &dyn Storage,
    mut revision: Revision,
    present: impl Fn() -> WorkerLease,
    health: &LeaseHealth,
    changed: &tokio::sync::Notify,
) -> NameTaken {
    loop {
        tokio::select! {
            biased;
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
    for _ in 0..END_TRIES {
        match try_end(store, lease).await {
            Ok(()) => return,
            // A renewal that was under way was stored between the read and the write.
            Err(StoreError::Moved { .. }) => {}
            Err(error) => {
                tracing::debug!(%error, "the worker's lease will run out by itself");
                return;
            }
        }
    }
}

async fn try_end(store: &dyn Storage, lease: &WorkerLease) -> Result<(), StoreError> {
    let slot = store.lease(&lease.worker).await?;
    match slot.lease.is_some_and(|found| found.boot == lease.boot) {
        true => store.drop_lease(&lease.worker, slot.revision).await,
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::WorkerName;
    use holdfast_protocol::id::Boot;
    use holdfast_protocol::reply::WorkerState;
    use holdfast_store::memory::{Faults, Memory};
    use uuid::Uuid;

    use super::*;

    fn lease(boot: u128) -> WorkerLease {
        WorkerLease {
            worker: WorkerName::parse("w1").unwrap(),
            boot: Boot(Uuid::from_u128(boot)),
            state: WorkerState::Ready,
            sessions: 0,
            workspaces: Vec::new(),
            read_only: Vec::new(),
            kinds: Vec::new(),
            version: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_away_also_when_a_late_renewal_is_stored_meanwhile() {
        let memory = Memory::new(Faults { delay_ms: 200, ..Faults::default() });
        let mut revision = memory.put_lease(&lease(1), Revision(0)).await.unwrap();
        let renewals = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                revision = memory.put_lease(&lease(1), revision).await.unwrap_or(revision);
            }
        };
        let own = lease(1);
        tokio::join!(end(&memory, &own), renewals);
        assert!(memory.leases().await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_of_another_process_is_left_alone() {
        let memory = Memory::new(Faults::default());
        memory.put_lease(&lease(2), Revision(0)).await.unwrap();
        end(&memory, &lease(1)).await;
        assert_eq!(memory.leases().await.unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_goes_on_after_the_lease_ran_out_or_an_answer_was_lost_and_ends_when_the_name_is_taken() {
        let memory = Memory::new(Faults::default());
        let lost = memory.put_lease(&lease(1), Revision(0)).await.unwrap();
        let renewed = renew(&memory, &lease(1), Revision(0)).await.unwrap().unwrap();
        assert!(renewed > lost);
        memory.drop_lease(&lease(1).worker, renewed).await.unwrap();
        let renewed = renew(&memory, &lease(1), renewed).await.unwrap().unwrap();
        memory.put_lease(&lease(2), renewed).await.unwrap();
        assert_eq!(renew(&memory, &lease(1), renewed).await.unwrap(), None);
    }
}
