//! Taking a worker's name: refused while another process of that name is alive.
//!
//! Invariant: the lease is written by compare-and-set on the very revision that was looked at, so that of two processes
//! that start at once one has the name and the other one sees it. Whether a process is alive is asked of itself and of
//! the movement of its lease; clocks of two machines are not compared, and no lease is waited for where nobody listens.

use std::time::Duration;

use holdfast_protocol::id::Boot;
use holdfast_protocol::internal::{WorkerLease, control};
use holdfast_protocol::subject::Root;
use holdfast_protocol::{Revision, WorkerName};
use holdfast_store::wire::{Request, RequestError};
use holdfast_store::{LEASE_RENEW, LeaseSlot, Storage, StoreError, Wire};
use tokio::time::{Instant, sleep};

use crate::config::NameRule;
use crate::lease::LeaseHealth;

/// How long one question to a process may stay unanswered.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// For how long nobody must listen for a process before it counts as gone: it may be on its way to another nats-server.
const NOBODY: Duration = Duration::from_millis(300);
/// How often it is asked again meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// For how long a process that does not answer is watched. One that misses two renewals as well stands still: it would
/// be failed over soon, and taking its name costs it no more than that, since the storage refuses whatever it writes
/// later.
const WATCH: Duration = LEASE_RENEW.saturating_mul(2);
/// How often the name is looked at anew because somebody wrote the lease meanwhile.
const TRIES: usize = 16;

/// How long a storage that is away is waited for, which it may be when a whole fleet starts with its servers.
const STORAGE_AWAY: Duration = Duration::from_secs(30);
/// How often it is tried again meanwhile.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// Why the name is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    /// Another process has it and is alive.
    #[error("worker {worker} is alive as boot {boot}")]
    Taken {
        /// The name.
        worker: WorkerName,
        /// The other process.
        boot: Boot,
    },
    /// The lease cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was heard of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// It answered.
    Answer,
    /// Nobody listens.
    Nobody,
    /// It did not answer in time.
    Silence,
}

/// The way to ask the process of a lease whether it is there.
pub(crate) struct Asking<'a> {
    pub(crate) wire: &'a dyn Wire,
    pub(crate) root: &'a Root,
}

impl Asking<'_> {
    async fn ask(&self, lease: &WorkerLease) -> Heard {
        let subject = self.root.worker_control(&lease.worker, lease.boot, control::PING).into();
        let request = Request { subject, headers: None, payload: "{}".into(), timeout: ASK_TIMEOUT };
        match self.wire.request(request).await {
            Ok(_) => Heard::Answer,
            Err(RequestError::NoResponders) => Heard::Nobody,
            Err(RequestError::TooLarge(_) | RequestError::Refused(_) | RequestError::Unknown(_)) => Heard::Silence,
        }
    }
}

/// Writes the first lease of this process, unless another one of its name is alive and `rule` respects that. Waits for a
/// storage that is away.
pub(crate) async fn take(
    store: &dyn Storage,
    lease: &WorkerLease,
    rule: NameRule,
    holder: &Asking<'_>,
    health: &LeaseHealth,
) -> Result<Revision, ClaimError> {
    let deadline = Instant::now() + STORAGE_AWAY;
    let mut tries = 0;
    loop {
        let error = match try_take(store, lease, rule, holder).await {
            Ok((revision, sent)) => {
                health.confirm(sent);
                return Ok(revision);
            }
            Err(ClaimError::Store(error)) => error,
            Err(taken) => return Err(taken),
        };
        match error {
            // Somebody wrote it since it was looked at.
            StoreError::Moved { .. } if tries < TRIES => tries += 1,
            StoreError::Unavailable(_) | StoreError::Unknown(_) if Instant::now() < deadline => {
                tracing::warn!(worker = %lease.worker, %error, "the worker cannot be registered yet");
                sleep(TRY_AGAIN).await;
            }
            error => return Err(error.into()),
        }
    }
}

/// Looks at the name once, and writes the lease. Returns its revision, and when it was sent.
async fn try_take(
    store: &dyn Storage,
    lease: &WorkerLease,
    rule: NameRule,
    holder: &Asking<'_>,
) -> Result<(Revision, Instant), ClaimError> {
    let slot = store.lease(&lease.worker).await?;
    let other = slot.lease.as_ref().filter(|found| found.boot != lease.boot);
    if let Some(other) = other.filter(|_| rule == NameRule::Respect)
        && is_alive(store, other, slot.revision, holder).await?
    {
        return Err(ClaimError::Taken { worker: lease.worker.clone(), boot: other.boot });
    }
    let sent = Instant::now();
    Ok((store.put_lease(lease, slot.revision).await?, sent))
}

/// Whether the process of `other`, whose lease was at `revision`, is alive.
async fn is_alive(
    store: &dyn Storage,
    other: &WorkerLease,
    revision: Revision,
    holder: &Asking<'_>,
) -> Result<bool, StoreError> {
    let begun = Instant::now();
    let mut nobody_since = None;
    loop {
        let asked = Instant::now();
        match holder.ask(other).await {
            Heard::Answer => return Ok(true),
            Heard::Nobody if nobody_since.get_or_insert(asked).elapsed() >= NOBODY => return Ok(false),
            Heard::Nobody => {}
            Heard::Silence => nobody_since = None,
        }
        let LeaseSlot { revision: now, lease } = store.lease(&other.worker).await?;
        if now != revision {
            // Renewed by that process, or else not its lease any more: then the write is refused and the name looked at
            // anew.
            return Ok(lease.is_some_and(|lease| lease.boot == other.boot));
        }
        if begun.elapsed() >= WATCH {
            return Ok(false);
        }
        sleep(ASK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests;
