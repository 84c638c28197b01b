//! One running worker: its subscriptions, its lease, and its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use holdfast_files::{Mount, Tag, Watch};
use holdfast_meters::Part;
use holdfast_protocol::WorkerName;
use holdfast_protocol::id::Boot;
use holdfast_protocol::internal::{RelayFloor, WorkerLease};
use holdfast_protocol::reply::WorkerState;
use holdfast_store::service::{self, Questions};
use holdfast_store::wire::Subscription;
use holdfast_store::{Floor, SharedWire, Store, StoreError, chance};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::claim::{self, Asking, ClaimError};
use crate::config::WorkerConfig;
use crate::drain::Drain;
use crate::health::{self, Looks};
use crate::inbox;
use crate::lease::{self, LeaseHealth, NameTaken};
use crate::letter::Who;
use crate::micro::{About, SERVICE};
use crate::pulse::{self, Pulse};
use crate::session::Core;
use crate::supervisor::Supervisor;

mod control;

/// How often a worker that is being emptied says how many sessions are left.
const DRAIN_SHOWN: Duration = Duration::from_millis(250);
/// How much of a grace period is kept for ending what sessions have left: the lease, tasks, and the last answers.
const ENDING: Duration = Duration::from_secs(1);

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// NATS does not take its subscriptions.
    #[error("cannot subscribe: {0}")]
    Subscribe(String),
    /// Its lease cannot be read or written.
    #[error("cannot register the worker: {0}")]
    Lease(#[from] StoreError),
    /// A process of that name is alive: end it, or choose another name, or mean it ([`crate::NameRule::Replace`]).
    #[error("worker {worker} runs already, as boot {boot}")]
    NameTaken {
        /// The name.
        worker: WorkerName,
        /// The process that has it.
        boot: Boot,
    },
    /// A workspace's folder is not there.
    #[error("workspace {name} is not a folder that can be read: {why}")]
    Workspace {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
}

impl From<ClaimError> for StartError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Taken { worker, boot } => Self::NameTaken { worker, boot },
            ClaimError::Store(error) => Self::Lease(error),
        }
    }
}

/// A running worker. Dropping it without [`Worker::stop`] leaves its sessions to failover.
pub struct Worker {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
    leasing: Leasing,
}

/// The task that keeps the lease, which must have ended before the lease is dropped: it would write it again.
#[derive(Default)]
struct Leasing {
    stop: CancellationToken,
    task: TaskTracker,
}

impl Leasing {
    async fn end(&self) {
        // A renewal that is under way is dropped with its task. It may still be stored, on the revision that it knew.
        self.stop.cancel();
        self.task.close();
        self.task.wait().await;
    }
}

pub(crate) struct Shared {
    wire: SharedWire,
    answered: control::Answered,
    pub(crate) core: Arc<Core>,
    store: Store,
    pub(crate) supervisor: Arc<Supervisor>,
    /// What this worker found when it looked at its workspaces.
    pub(crate) looks: Looks,
    draining: AtomicBool,
    changed: Notify,
    /// One drain at a time.
    drain: Mutex<Option<CancellationToken>>,
    pub(crate) name_taken: CancellationToken,
    /// Cancelled when whatever is under way is to be dropped.
    abort: CancellationToken,
    /// When it started, RFC 3339, for people.
    started: String,
}

impl Worker {
    /// Starts serving. From its return on, coordinators may place sessions here.
    ///
    /// # Errors
    /// [`StartError`], which names what is missing.
    pub async fn start(wire: SharedWire, store: Store, config: WorkerConfig) -> Result<Self, StartError> {
        let watch = Arc::new(Watch::default());
        let mut mounts = BTreeMap::new();
        for (name, workspace) in &config.workspaces {
            let mount = Mount::open(workspace, Some(watch.clone())).map_err(|error| {
                let why = format!("{}: {error}", workspace.dir.display());
                StartError::Workspace { name: name.to_string(), why }
            })?;
            mounts.insert(name.clone(), Arc::new(mount));
        }
        let epoch = Instant::now();
        let core = Arc::new(Core {
            store: store.clone(),
            floor: Floor::default(),
            limits: Arc::new(config.limits.clone()),
            mounts,
            boot: Boot(chance::id()),
            health: LeaseHealth::new(epoch),
            epoch,
            pulse: Arc::new(Pulse::default()),
            config,
        });
        let shared = Arc::new(Shared {
            wire,
            supervisor: Supervisor::new(core.clone()),
            core,
            store,
            looks: Looks::default(),
            draining: AtomicBool::new(false),
            changed: Notify::new(),
            drain: Mutex::default(),
            name_taken: CancellationToken::new(),
            answered: control::Answered::default(),
            abort: CancellationToken::new(),
            started: chance::now().to_string(),
        });
        let worker =
            Self { shared, stop: CancellationToken::new(), tasks: TaskTracker::new(), leasing: Leasing::default() };
        let started = worker.begin(watch).await;
        if started.is_err() {
            worker.drop_tasks();
        }
        started.map(|()| worker)
    }

    async fn begin(&self, watch: Arc<Watch>) -> Result<(), StartError> {
        self.subscribe().await?;
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(beat(self.shared.core.clone())));
        if let Some(interval) = self.shared.core.config.self_check {
            self.spawn(health::run(self.shared.clone(), interval, self.stop.clone()));
        }
        self.tasks.spawn(look_at_files(self.shared.supervisor.clone(), watch, self.stop.clone()));
        self.register().await
    }

    async fn subscribe(&self) -> Result<(), StartError> {
        let Core { config, boot, .. } = &*self.shared.core;
        let subjects = [
            config.root.agents(&config.name, *boot),
            config.root.worker_controls(&config.name, *boot),
            config.root.relay_floor(),
        ];
        let mut subscribers = Vec::new();
        for subject in subjects {
            let subscribed = self.shared.wire.subscribe(subject.into(), None).await;
            subscribers.push(subscribed.map_err(|error| StartError::Subscribe(error.to_string()))?);
        }
        // The server has them all before anybody is told of this boot.
        self.shared.wire.flush().await.map_err(|error| StartError::Subscribe(error.to_string()))?;
        let [agents, controls, floors] = <[Subscription; 3]>::try_from(subscribers)
            .map_err(|_| StartError::Subscribe("three subscriptions were asked for".to_owned()))?;
        self.spawn(read_agents(self.shared.clone(), agents, self.stop.clone()));
        self.spawn(control::read(self.shared.clone(), controls, self.stop.clone(), self.tasks.clone()));
        let questions = service::listen(&*self.shared.wire, SERVICE, &boot.to_string()).await;
        let questions = questions.map_err(|(_, error)| StartError::Subscribe(error.to_string()))?;
        self.spawn(answer_questions(self.shared.clone(), questions, self.stop.clone()));
        self.spawn(read_floors(self.shared.core.floor.clone(), floors, self.stop.clone()));
        Ok(())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.shared.abort.clone().run_until_cancelled_owned(task));
    }

    async fn register(&self) -> Result<(), StartError> {
        let shared = self.shared.clone();
        let Core { config, health, .. } = &*shared.core;
        let asking = Asking { wire: &*shared.wire, root: &config.root };
        let revision = claim::take(&*shared.store, &shared.lease(), config.name_rule, &asking, health).await?;
        let stop = self.leasing.stop.clone();
        self.leasing.task.spawn(async move {
            let present = || shared.lease();
            let keeping = lease::keep(&*shared.store, revision, present, &shared.core.health, &shared.changed);
            if let Some(NameTaken) = stop.run_until_cancelled(keeping).await {
                tracing::error!(worker = %shared.core.config.name, "another process has taken this worker's name; this one ends");
                shared.name_taken.cancel();
            }
        });
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &WorkerName {
        &self.shared.core.config.name
    }

    /// Its start.
    pub fn boot(&self) -> Boot {
        self.shared.core.boot
    }

    /// This worker as it shows itself.
    pub fn part(&self) -> Arc<dyn Part> {
        Arc::new(health::Shown(self.shared.clone()))
    }

    /// How many sessions it hosts.
    pub fn sessions(&self) -> usize {
        self.shared.supervisor.len()
    }

    /// Ends when another process has taken this worker's name, so that this one should stop.
    pub async fn name_taken(&self) {
        self.shared.name_taken.cancelled().await;
    }

    /// Ends at once, wherever its tasks are, as a process that is killed: its sessions are left to failover. For
    /// simulations.
    pub fn abandon(self) {
        self.drop_tasks();
        self.shared.supervisor.abandon();
    }

    /// Hands all sessions over and ends, within `grace` whatever is away. What is left is failed over by the next
    /// request.
    pub async fn stop(self, grace: Duration) {
        let until = Instant::now() + grace;
        let shared = &self.shared;
        shared.set_draining(true);
        if !shared.name_taken.is_cancelled() {
            self.empty(until - ENDING.min(grace / 4)).await;
            self.leasing.end().await;
            let lease = shared.lease();
            if tokio::time::timeout_at(until, lease::end(&*shared.store, &lease)).await.is_err() {
                tracing::debug!("the worker's lease will run out by itself");
            }
        }
        self.leasing.end().await;
        if let Some(drain) = shared.drain.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drain.cancel();
        }
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout_at(until, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "tasks are dropped: they did not end within the grace period");
        }
        shared.supervisor.stop(until).await;
        match tokio::time::timeout_at(until, shared.wire.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the last answers may not have left"),
            Err(_) => tracing::debug!("the last answers may not have left"),
        }
        self.drop_tasks();
    }

    /// Hands sessions over until none is left, or until `until`.
    async fn empty(&self, until: Instant) {
        let shared = &self.shared;
        let drain = shared.drain_all(Who::default());
        let emptying = shared.while_shown(drain.run(&*shared.store, "worker stops", || true));
        if tokio::time::timeout_at(until, emptying).await.is_err() {
            tracing::warn!(
                sessions = shared.supervisor.len(),
                "the grace period is over; the sessions left are failed over"
            );
        }
    }

    /// Ends what has not ended by itself.
    fn drop_tasks(&self) {
        self.leasing.stop.cancel();
        self.stop.cancel();
        self.shared.abort.cancel();
    }
}

impl Shared {
    fn state(&self) -> WorkerState {
        if self.is_draining() { WorkerState::Draining } else { WorkerState::Ready }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn lease(&self) -> WorkerLease {
        let config = &self.core.config;
        let read_only = config.workspaces.iter().filter(|(_, workspace)| !workspace.writable);
        WorkerLease {
            worker: config.name.clone(),
            boot: self.core.boot,
            state: self.state(),
            sessions: self.supervisor.len() as u64,
            workspaces: config.workspaces.keys().map(ToString::to_string).collect(),
            read_only: read_only.map(|(name, _)| name.to_string()).collect(),
            kinds: config.kinds.keys().map(ToString::to_string).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn drain_all(&self, who: Who) -> Drain {
        Drain {
            who,
            wire: self.wire.clone(),
            root: self.core.config.root.clone(),
            name: self.core.config.name.clone(),
            supervisor: self.supervisor.clone(),
            parallel: self.core.config.drain_parallel,
        }
    }

    /// Does `work`, and writes its progress into the lease as it goes: `sys.worker.list` shows it.
    async fn while_shown(&self, work: impl Future<Output = ()>) {
        let shown = async {
            loop {
                tokio::time::sleep(DRAIN_SHOWN).await;
                self.changed.notify_one();
            }
        };
        tokio::select! {
            biased;
            () = work => self.changed.notify_one(),
            () = shown => {}
        }
    }
}

/// Shows that this process runs, as [`Pulse`] wants it.
async fn beat(core: Arc<Core>) {
    let mut beats = tokio::time::interval(pulse::BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        core.pulse.beat(core.now_ms());
    }
}

/// Has sessions look at their files when something happened to them.
async fn look_at_files(supervisor: Arc<Supervisor>, watch: Arc<Watch>, stop: CancellationToken) {
    let tell = |tag: &Tag| crate::document::session_of(tag).is_none_or(|key| supervisor.stir(&key));
    stop.run_until_cancelled(watch.run(tell)).await;
}

async fn read_agents(shared: Arc<Shared>, mut messages: Subscription, stop: CancellationToken) {
    loop {
        let message = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            message = messages.next() => message,
        };
        let Some(message) = message else { return };
        inbox::deliver(&shared.wire, &shared.core.config.root, &shared.supervisor, message).await;
    }
}

async fn answer_questions(shared: Arc<Shared>, questions: Questions, stop: CancellationToken) {
    let Core { config, boot, .. } = &*shared.core;
    let answer = |question| {
        let about = About {
            worker: config.name.as_str(),
            boot: boot.to_string(),
            root: config.root.as_str(),
            version: env!("CARGO_PKG_VERSION"),
            state: shared.state(),
            agents: config.root.agents(&config.name, *boot),
            started: &shared.started,
            letters: shared.supervisor.letters(),
            sessions: shared.supervisor.len(),
            waiting_bytes: shared.supervisor.waiting_bytes(),
        };
        about.answer(question)
    };
    stop.run_until_cancelled(service::answer(&*shared.wire, &config.root, questions, answer)).await;
}

async fn read_floors(floor: Floor, mut messages: Subscription, stop: CancellationToken) {
    loop {
        let message = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            message = messages.next() => message,
        };
        let Some(message) = message else { return };
        match serde_json::from_slice::<RelayFloor>(&message.payload) {
            Ok(progress) => floor.advance(progress.floor),
            Err(error) => tracing::warn!(%error, "the relay's progress does not parse"),
        }
    }
}
