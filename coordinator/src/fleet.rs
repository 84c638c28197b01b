//! Which workers seem alive: from their leases, read every second, and from messages that had no responder.
//!
//! Invariant: this only decides whom to ask and when. A wrong belief costs a little time and never safety, because the
//! record decides who holds a session.
//!
//! Words: a process is *unheard* while messages for it have no responder; *gone* when that was confirmed or its lease
//! ran out; *lost* when its sessions should therefore move.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use holdfast_protocol::id::WorkspaceName;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::record::Owner;
use holdfast_protocol::reply::WorkerState;
use holdfast_protocol::{Error, Process, Reason, SessionKey, WorkerName};
use holdfast_store::{SharedWire, Store, StoreError, chance};
use tokio::sync::futures::Notified;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error;
use placement::{Candidate, Needs};

pub(crate) mod placement;
mod workers;

pub(crate) use workers::CONFIRM;
pub(crate) use workers::Liveness;
use workers::Workers;

/// How long a caller that can answer without leases waits for them.
const LOOK: Duration = Duration::from_millis(250);

/// What this coordinator knows of the workers.
pub(crate) struct Fleet {
    store: Store,
    workers: RwLock<Workers>,
    /// When the last reading of all leases began. Locked during a reading.
    reading: Mutex<Option<Instant>>,
    lost: Notify,
    /// Notifies all waiters, in their order of arrival, that a process was found to be gone.
    losses: Notify,
    /// This coordinator's connection.
    wire: SharedWire,
    /// How many times it had connected when that was last checked.
    connects: AtomicU64,
}

impl Fleet {
    pub(crate) fn new(store: Store, config: &Config, wire: SharedWire) -> Self {
        Self {
            connects: AtomicU64::new(wire.connects()),
            wire,
            store,
            workers: RwLock::new(Workers::new(config.lease_ttl, config.lease_grace)),
            reading: Mutex::new(None),
            lost: Notify::new(),
            losses: Notify::new(),
        }
    }

    // Every change leaves the value consistent, so a poisoned lock is safe to use.
    fn workers(&self) -> RwLockReadGuard<'_, Workers> {
        self.workers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn workers_mut(&self) -> RwLockWriteGuard<'_, Workers> {
        self.workers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all leases. Callers that arrive during a reading share the next one.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let asked = Instant::now();
        let mut begun = self.reading.lock().await;
        if begun.is_some_and(|begun| begun >= asked) {
            return Ok(());
        }
        let now = Instant::now();
        let leases = self.store.leases().await?;
        *begun = Some(now);
        if self.workers_mut().learn(leases, now) {
            self.lost.notify_one();
        }
        Ok(())
    }

    /// Reads all leases periodically, until `cancel`.
    pub(crate) async fn run(&self, poll: Duration, cancel: CancellationToken) {
        let mut blind = false;
        loop {
            let pause = poll.mul_f64(chance::share(0.9..1.1));
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            self.notice_reconnect();
            let read = self.refresh().await;
            if read.is_err() {
                self.workers_mut().outage(Instant::now());
            }
            match read {
                Ok(()) if blind => tracing::info!("workers' leases can be read again"),
                Err(error) if !blind => tracing::warn!(%error, "workers' leases cannot be read"),
                Ok(()) | Err(_) => {}
            }
            blind = self.last_reading_is_older_than(poll * 2).await;
        }
    }

    async fn last_reading_is_older_than(&self, age: Duration) -> bool {
        self.reading.lock().await.is_none_or(|begun| begun.elapsed() > age)
    }

    /// Waits until a worker seems lost.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }

    /// Notes that a message for `process` had no responder. Once that lasts for [`CONFIRM`], the process counts as
    /// gone: it ended, or is cut off from NATS.
    pub(crate) fn unheard(&self, process: &Process) {
        self.notice_reconnect();
        if self.workers_mut().unheard(process, Instant::now()) {
            tracing::warn!(worker = %process.worker, boot = %process.boot, "no responder; its sessions are moved");
            self.lost.notify_one();
            self.losses.notify_waiters();
        }
    }

    /// Notes that the process of `owner` answered.
    pub(crate) fn heard(&self, owner: &Owner) {
        // Every answer passes here, and a write lock is rarely needed.
        if self.workers().is_doubted(owner) {
            self.workers_mut().heard(owner);
        }
    }

    /// Checks whether this coordinator has reconnected since the last check. If so, other processes may still be
    /// reconnecting.
    fn notice_reconnect(&self) {
        let connects = self.wire.connects();
        if self.connects.swap(connects, Ordering::Relaxed) != connects {
            self.workers_mut().outage(Instant::now());
        }
    }

    /// Completes when a process is found to be gone, from this call on.
    pub(crate) fn next_loss(&self) -> Notified<'_> {
        self.losses.notified()
    }

    /// Waits until a process is found to be gone, for at most `time`.
    pub(crate) async fn loss_within(&self, time: Duration) {
        // A timeout is not an error here.
        if tokio::time::timeout(time, self.next_loss()).await.is_err() {
            tracing::trace!("no process was found to be gone");
        }
    }

    /// Whether the process of `owner` counts as gone because its messages have had no responder for [`CONFIRM`].
    pub(crate) fn is_unheard(&self, owner: &Owner) -> bool {
        self.workers().is_unheard(owner)
    }

    /// Whether the last message for the process of `owner` had no responder. It may not be confirmed yet.
    pub(crate) fn is_doubted(&self, owner: &Owner) -> bool {
        self.workers().is_doubted(owner)
    }

    /// Whether the caller should probe the process of `owner`, because nobody has within `every`.
    pub(crate) fn begin_probe(&self, owner: &Owner, every: Duration) -> bool {
        self.workers_mut().begin_probe(owner, every, Instant::now())
    }

    /// Notes that `worker` was set to `state`.
    pub(crate) fn told(&self, worker: &WorkerName, state: WorkerState) {
        self.workers_mut().told(worker, state);
    }

    /// Whether sessions of `owner` should move: its process is gone, and there is an alternative or a message proved
    /// it.
    pub(crate) fn is_lost(&self, owner: &Owner) -> bool {
        self.workers().is_lost(owner)
    }

    /// Whether the process of `owner` is gone: its messages have no responder, or its lease ran out.
    pub(crate) fn is_gone(&self, owner: &Owner) -> bool {
        matches!(self.liveness(owner), Liveness::Suspect | Liveness::Gone)
    }

    /// Whether the process of `owner` seems alive.
    pub(crate) fn liveness(&self, owner: &Owner) -> Liveness {
        self.workers().liveness(owner)
    }

    /// The workers that seem alive, ordered by name.
    pub(crate) fn live(&self) -> Vec<WorkerLease> {
        let mut live: Vec<WorkerLease> = self.workers().live().cloned().collect();
        live.sort_by(|left, right| left.worker.cmp(&right.worker));
        live
    }

    /// Chooses a process for the session `key` and counts the session there. Leases are read again before this fails.
    ///
    /// # Errors
    /// `no_live_worker` or `no_workspace`.
    pub(crate) async fn choose(
        &self,
        key: &SessionKey,
        needs: Needs<'_>,
        except: Option<&WorkerName>,
        deadline: Instant,
    ) -> Result<Process, Error> {
        let process = self.pick(key, needs, except, deadline).await?;
        self.workers_mut().placed(&process.worker);
        Ok(process)
    }

    /// As [`Fleet::choose`], for a question: the session is not counted there.
    pub(crate) async fn pick(
        &self,
        key: &SessionKey,
        needs: Needs<'_>,
        except: Option<&WorkerName>,
        deadline: Instant,
    ) -> Result<Process, Error> {
        if let Ok(picked) = self.pick_known(key, needs, except) {
            return Ok(picked);
        }
        self.refresh_or_explain(deadline).await?;
        self.pick_known(key, needs, except)
    }

    /// Whether a known worker may take a session with these needs.
    pub(crate) fn has_taker(&self, needs: Needs<'_>) -> bool {
        self.workers().candidates(needs, None).is_ok()
    }

    fn pick_known(&self, key: &SessionKey, needs: Needs<'_>, except: Option<&WorkerName>) -> Result<Process, Error> {
        let workers = self.workers();
        let candidates = workers.candidates(needs, except)?;
        let Some(Candidate { process, .. }) = placement::choose(key, &candidates) else {
            return Err(error::no_live_worker("no worker is there to take the session"));
        };
        Ok(process.clone())
    }

    /// Whether `owner` can save files of `workspace`, according to its lease.
    pub(crate) fn may_write(&self, owner: &Owner, workspace: &WorkspaceName) -> bool {
        self.workers().may_write(owner, workspace)
    }

    /// Chooses a process for `key` that can also save files of its workspace. Leases are read again before this fails,
    /// if that is possible within [`LOOK`].
    pub(crate) async fn choose_writer(&self, key: &SessionKey, needs: Needs<'_>, deadline: Instant) -> Option<Process> {
        let find = || {
            let writers = self.workers().writers(needs);
            placement::choose(key, &writers).map(|found| found.process.clone())
        };
        let found = match find() {
            Some(found) => found,
            None => {
                self.refresh_or_explain(deadline.min(Instant::now() + LOOK)).await.ok()?;
                find()?
            }
        };
        self.workers_mut().placed(&found.worker);
        Some(found)
    }

    /// The process of the worker `name`, which must be able to take a session with these needs.
    ///
    /// # Errors
    /// `no_worker` when it is not live, is draining, or does not host the kind; `no_workspace` when it does not have
    /// the workspace.
    pub(crate) async fn named(&self, name: &WorkerName, needs: Needs<'_>, deadline: Instant) -> Result<Process, Error> {
        let lease = self.find(name, deadline).await?;
        if lease.state != WorkerState::Ready {
            let message = format!("worker {name} is draining and takes no sessions");
            return Err(Error::new(Reason::NoWorker, message).detail("worker", name.as_str()));
        }
        if !workers::hosts(&lease, needs.kind) {
            let message = format!("worker {name} does not host sessions of kind {}", needs.kind);
            return Err(Error::new(Reason::NoWorker, message)
                .detail("worker", name.as_str())
                .detail("kind", needs.kind));
        }
        match needs.workspace.filter(|workspace| !workers::has(&lease, workspace)) {
            Some(workspace) => Err(workers::no_workspace(workspace).detail("worker", name.as_str())),
            None => Ok(lease.process()),
        }
    }

    /// The live worker `name`.
    ///
    /// # Errors
    /// `no_worker`.
    pub(crate) async fn find(&self, name: &WorkerName, deadline: Instant) -> Result<WorkerLease, Error> {
        self.refresh_or_explain(deadline).await?;
        self.live().into_iter().find(|lease| lease.worker == *name).ok_or_else(|| {
            Error::new(Reason::NoWorker, format!("there is no worker {name}")).detail("worker", name.as_str())
        })
    }

    /// Reads all leases now.
    ///
    /// # Errors
    /// `storage_unavailable`.
    pub(crate) async fn refresh_or_explain(&self, deadline: Instant) -> Result<(), Error> {
        let late = |_| Err(StoreError::Unavailable("workers' leases were not read in time".to_owned()));
        let read = timeout_at(deadline, self.refresh()).await.unwrap_or_else(late);
        read.map_err(|error| error::storage_unavailable(&error.to_string()))
    }
}
