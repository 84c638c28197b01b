//! Who of the workers seems alive: leases read every second, and every message that found nobody there.
//!
//! Invariant: this decides only when to try and whom; a wrong belief costs a little time and never safety.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use holdfast_protocol::id::WorkspaceName;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::record::Owner;
use holdfast_protocol::reply::WorkerState;
use holdfast_protocol::{Boot, Error, Reason, SessionKey, WorkerName};
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

/// How long leases are waited for by who has an answer without them.
const LOOK: Duration = Duration::from_millis(250);

/// What is known of the workers.
pub(crate) struct Registry {
    store: Store,
    workers: RwLock<Workers>,
    /// When the last reading of all leases was begun. Held while one is under way.
    reading: Mutex<Option<Instant>>,
    lost: Notify,
    /// Tells all who wait that a process was found to be gone, in the order in which they came.
    deaths: Notify,
    /// This coordinator's connection.
    wire: SharedWire,
    /// How often it had been made when that was last looked at.
    connects: AtomicU64,
}

impl Registry {
    pub(crate) fn new(store: Store, config: &Config, wire: SharedWire) -> Self {
        Self {
            connects: AtomicU64::new(wire.connects()),
            wire,
            store,
            workers: RwLock::new(Workers::new(config.lease_ttl, config.lease_grace)),
            reading: Mutex::new(None),
            lost: Notify::new(),
            deaths: Notify::new(),
        }
    }

    // A panic while it was held left whole values behind.
    fn workers(&self) -> RwLockReadGuard<'_, Workers> {
        self.workers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn workers_mut(&self) -> RwLockWriteGuard<'_, Workers> {
        self.workers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all leases. Whoever asks while a reading is under way waits for the next one and shares it.
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

    /// Reads all leases again and again, until `cancel`.
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

    /// Nobody listened to a message for `boot` of `worker`. Once that is so for long enough, its process is gone, or cut off
    /// from NATS.
    pub(crate) fn unheard(&self, worker: &WorkerName, boot: Boot) {
        self.notice_reconnect();
        if self.workers_mut().unheard(worker, boot, Instant::now()) {
            tracing::warn!(%worker, %boot, "nobody listens for this worker; its sessions go elsewhere");
            self.lost.notify_one();
            self.deaths.notify_waiters();
        }
    }

    /// The process behind `owner` answered.
    pub(crate) fn heard(&self, owner: &Owner) {
        // Rarely is there anything to take back, and every answer comes by here.
        if self.workers().is_doubted(owner) {
            self.workers_mut().heard(owner);
        }
    }

    /// Looks whether this coordinator's own connection was made again since the last look: then others' may not be yet.
    fn notice_reconnect(&self) {
        let connects = self.wire.connects();
        if self.connects.swap(connects, Ordering::Relaxed) != connects {
            self.workers_mut().outage(Instant::now());
        }
    }

    /// Ends when a process is found to be gone from now on.
    pub(crate) fn death(&self) -> Notified<'_> {
        self.deaths.notified()
    }

    /// Waits for a process to be found gone, or for `time`.
    pub(crate) async fn news_within(&self, time: Duration) {
        // That it took the whole time is no error.
        if tokio::time::timeout(time, self.death()).await.is_err() {
            tracing::trace!("no news of workers");
        }
    }

    /// Whether `owner` counts as gone because nobody listens for it.
    pub(crate) fn is_unheard(&self, owner: &Owner) -> bool {
        self.workers().is_unheard(owner)
    }

    /// Whether a message for `owner` found nobody, and nothing was heard of it since.
    pub(crate) fn is_doubted(&self, owner: &Owner) -> bool {
        self.workers().is_doubted(owner)
    }

    /// Whether it is the caller's turn to ask if the process behind `owner` is still there: nobody did within `every`.
    pub(crate) fn begin_probe(&self, owner: &Owner, every: Duration) -> bool {
        self.workers_mut().begin_probe(owner, every, Instant::now())
    }

    /// A worker was told to be in `state`.
    pub(crate) fn told(&self, worker: &WorkerName, state: WorkerState) {
        self.workers_mut().told(worker, state);
    }

    /// Whether requests for `owner` should go elsewhere.
    pub(crate) fn is_lost(&self, owner: &Owner) -> bool {
        self.workers().is_lost(owner)
    }

    /// Whether the process behind `owner` can take no messages: nobody listens for it, or its lease is gone.
    pub(crate) fn is_gone(&self, owner: &Owner) -> bool {
        matches!(self.liveness(owner), Liveness::Suspect | Liveness::Gone)
    }

    /// Whether the process behind `owner` seems alive.
    pub(crate) fn liveness(&self, owner: &Owner) -> Liveness {
        self.workers().liveness(owner)
    }

    /// Those that seem alive, in the order of their names.
    pub(crate) fn live(&self) -> Vec<WorkerLease> {
        let mut live: Vec<WorkerLease> = self.workers().live().cloned().collect();
        live.sort_by(|left, right| left.worker.cmp(&right.worker));
        live
    }

    /// A worker for `key`. Leases are read again before the answer is no.
    ///
    /// # Errors
    /// `no_live_worker` or `no_workspace`.
    pub(crate) async fn choose(
        &self,
        key: &SessionKey,
        needs: Needs<'_>,
        except: Option<&WorkerName>,
        deadline: Instant,
    ) -> Result<(WorkerName, Boot), Error> {
        let (worker, boot) = self.pick(key, needs, except, deadline).await?;
        self.workers_mut().placed(&worker);
        Ok((worker, boot))
    }

    /// As [`Registry::choose`], to ask something and not to place anything.
    pub(crate) async fn pick(
        &self,
        key: &SessionKey,
        needs: Needs<'_>,
        except: Option<&WorkerName>,
        deadline: Instant,
    ) -> Result<(WorkerName, Boot), Error> {
        if let Ok(picked) = self.pick_known(key, needs, except) {
            return Ok(picked);
        }
        self.refresh_or_explain(deadline).await?;
        self.pick_known(key, needs, except)
    }

    /// Whether a worker is known that may take a session with these needs.
    pub(crate) fn has_taker(&self, needs: Needs<'_>) -> bool {
        self.workers().candidates(needs, None).is_ok()
    }

    fn pick_known(
        &self,
        key: &SessionKey,
        needs: Needs<'_>,
        except: Option<&WorkerName>,
    ) -> Result<(WorkerName, Boot), Error> {
        let workers = self.workers();
        let candidates = workers.candidates(needs, except)?;
        let Some(Candidate { worker, boot, .. }) = placement::choose(key, &candidates) else {
            return Err(error::no_live_worker("no worker is there to take the session"));
        };
        Ok((worker.clone(), *boot))
    }

    /// Whether `owner` can save files of `workspace`, as far as its lease says.
    pub(crate) fn may_write(&self, owner: &Owner, workspace: &WorkspaceName) -> bool {
        self.workers().may_write(owner, workspace)
    }

    /// A worker for `key` that can also save files of its workspace. Leases are read again before the answer is no, if
    /// they can be at once.
    pub(crate) async fn choose_writer(
        &self,
        key: &SessionKey,
        needs: Needs<'_>,
        deadline: Instant,
    ) -> Option<(WorkerName, Boot)> {
        let find = || {
            let writers = self.workers().writers(needs);
            placement::choose(key, &writers).map(|found| (found.worker.clone(), found.boot))
        };
        let found = match find() {
            Some(found) => found,
            None => {
                self.refresh_or_explain(deadline.min(Instant::now() + LOOK)).await.ok()?;
                find()?
            }
        };
        self.workers_mut().placed(&found.0);
        Some(found)
    }

    /// The worker of that name, which must be able to take a session with these needs.
    ///
    /// # Errors
    /// `no_worker` when it is not there, takes none, or none of that kind; `no_workspace` when it does not have the
    /// workspace.
    pub(crate) async fn named(
        &self,
        name: &WorkerName,
        needs: Needs<'_>,
        deadline: Instant,
    ) -> Result<(WorkerName, Boot), Error> {
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
            None => Ok((lease.worker, lease.boot)),
        }
    }

    /// The live worker of that name.
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
