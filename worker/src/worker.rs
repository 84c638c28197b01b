//! One running worker: its subscriptions, its lease, and its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::{StreamExt, stream};
use holdfast_protocol::Error;
use holdfast_protocol::error::Reason;
use holdfast_protocol::id::Boot;
use holdfast_protocol::internal::{FilePath, ReclaimIdle, ReclaimedIdle, RelayFloor, SetState, WorkerLease, control};
use holdfast_protocol::reply::{Drained, WorkerState};
use holdfast_store::{Floor, Store, StoreError};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::agent::Core;
use crate::config::WorkerConfig;
use crate::document;
use crate::drain::{self, Drain};
use crate::inbox;
use crate::lease::{self, LeaseEnd, LeaseHealth};
use crate::letter::{Answer, Passivation, ReplyTo};
use crate::supervisor::Supervisor;
use crate::watch::Watch;
use crate::workspace::Mount;

/// How often a worker that is being emptied says how many sessions are left.
const DRAIN_SHOWN: Duration = Duration::from_millis(250);
/// How many sessions are reclaimed at once.
const RECLAIM_PARALLEL: usize = 64;

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// NATS does not take its subscriptions.
    #[error("cannot subscribe: {0}")]
    Subscribe(String),
    /// Its lease cannot be written.
    #[error("cannot register the worker: {0}")]
    Lease(#[from] StoreError),
    /// A workspace's folder is not there.
    #[error("workspace {name} is not a folder that can be read: {why}")]
    Workspace {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
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
        self.stop.cancel();
        self.task.close();
        self.task.wait().await;
    }
}

struct Shared {
    client: Client,
    core: Arc<Core>,
    store: Store,
    supervisor: Arc<Supervisor>,
    draining: AtomicBool,
    changed: Notify,
    /// One drain at a time.
    drain: Mutex<Option<CancellationToken>>,
    name_taken: CancellationToken,
}

impl Worker {
    /// Starts serving. From its return on, coordinators may place sessions here.
    ///
    /// # Errors
    /// [`StartError`], which names what is missing.
    pub async fn start(client: Client, store: Store, config: WorkerConfig) -> Result<Self, StartError> {
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
            boot: Boot(Uuid::now_v7()),
            health: LeaseHealth::new(epoch),
            epoch,
            config,
        });
        let shared = Arc::new(Shared {
            client,
            supervisor: Supervisor::new(core.clone()),
            core,
            store,
            draining: AtomicBool::new(false),
            changed: Notify::new(),
            drain: Mutex::default(),
            name_taken: CancellationToken::new(),
        });
        let worker =
            Self { shared, stop: CancellationToken::new(), tasks: TaskTracker::new(), leasing: Leasing::default() };
        worker.subscribe().await?;
        worker.tasks.spawn(look_at_files(worker.shared.supervisor.clone(), watch, worker.stop.clone()));
        worker.register().await?;
        Ok(worker)
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
            let subscribed = self.shared.client.subscribe(subject).await;
            subscribers.push(subscribed.map_err(|error| StartError::Subscribe(error.to_string()))?);
        }
        // The server has them all before anybody is told of this boot.
        self.shared.client.flush().await.map_err(|error| StartError::Subscribe(error.to_string()))?;
        let [agents, controls, floors] = <[Subscriber; 3]>::try_from(subscribers)
            .map_err(|_| StartError::Subscribe("three subscriptions were asked for".to_owned()))?;
        self.tasks.spawn(read_agents(self.shared.clone(), agents, self.stop.clone()));
        self.tasks.spawn(read_controls(self.shared.clone(), controls, self.stop.clone(), self.tasks.clone()));
        self.tasks.spawn(read_floors(self.shared.core.floor.clone(), floors, self.stop.clone()));
        Ok(())
    }

    async fn register(&self) -> Result<(), StartError> {
        let shared = self.shared.clone();
        let revision = lease::begin(&*shared.store, &shared.lease(), &shared.core.health).await?;
        let stop = self.leasing.stop.clone();
        self.leasing.task.spawn(async move {
            let present = || shared.lease();
            let end = lease::keep(&*shared.store, revision, present, &shared.core.health, &shared.changed, &stop).await;
            if end == LeaseEnd::NameTaken {
                tracing::error!(worker = %shared.core.config.name, "another process has taken this worker's name; this one ends");
                shared.name_taken.cancel();
            }
        });
        Ok(())
    }

    /// Its start.
    pub fn boot(&self) -> Boot {
        self.shared.core.boot
    }

    /// How many sessions it hosts.
    pub fn sessions(&self) -> usize {
        self.shared.supervisor.len()
    }

    /// Ends when another process has taken this worker's name, so that this one should stop.
    pub async fn name_taken(&self) {
        self.shared.name_taken.cancelled().await;
    }

    /// Hands all sessions over, for at most `grace`, then ends. What is left is failed over by the next request.
    pub async fn stop(self, grace: Duration) {
        let shared = &self.shared;
        shared.set_draining(true);
        if !shared.name_taken.is_cancelled() {
            let drain = shared.drain_all();
            let emptying = shared.while_shown(drain.run(&*shared.store, "worker stops", || true));
            let emptied = tokio::time::timeout(grace, emptying).await;
            if emptied.is_err() {
                tracing::warn!(
                    sessions = shared.supervisor.len(),
                    "the grace period is over; the sessions left are failed over"
                );
            }
            self.leasing.end().await;
            lease::end(&*shared.store, &shared.core.config.name).await;
        }
        self.leasing.end().await;
        if let Some(drain) = shared.drain.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drain.cancel();
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        shared.supervisor.stop().await;
        if let Err(error) = shared.client.flush().await {
            tracing::debug!(%error, "the last answers may not have left");
        }
    }
}

impl Shared {
    fn state(&self) -> WorkerState {
        if self.draining.load(Ordering::Relaxed) { WorkerState::Draining } else { WorkerState::Ready }
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
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn drain_all(&self) -> Drain {
        Drain {
            client: self.client.clone(),
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
            () = work => self.changed.notify_one(),
            () = shown => {}
        }
    }

    async fn reclaim(&self, request: ReclaimIdle) -> ReclaimedIdle {
        let keys = self.supervisor.idle_keys(&request.namespace, request.max_idle_ms);
        let why = Passivation::Reclaimed { max_idle_ms: request.max_idle_ms, actor: request.actor };
        let reclaims = stream::iter(keys).map(|key| {
            let why = why.clone();
            async move {
                // One that went another way meanwhile was not reclaimed, and one that became busy is not.
                let answer = drain::ask(&self.supervisor, key.clone(), why).await;
                matches!(answer, Some(Answer::Done(_))).then_some(key.id)
            }
        });
        let reclaimed = reclaims.buffer_unordered(RECLAIM_PARALLEL).filter_map(std::future::ready).collect().await;
        ReclaimedIdle { reclaimed }
    }

    /// Follows the symbolic links of a path that a session is asked for.
    async fn resolve(&self, asked: FilePath) -> Result<FilePath, Error> {
        let Some(mount) = self.core.mounts.get(&asked.workspace) else {
            return Err(Error::new(Reason::NoWorkspace, format!("this worker has no workspace {}", asked.workspace)));
        };
        let path = document::resolve(mount.clone(), &asked.path, &self.core.limits).await?;
        Ok(FilePath { path, ..asked })
    }

    fn set_state(self: &Arc<Self>, request: &SetState, tasks: &TaskTracker) -> Drained {
        let mut running = self.drain.lock().unwrap_or_else(PoisonError::into_inner);
        let draining = request.state == WorkerState::Draining;
        self.set_draining(draining);
        if let Some(stop) = running.take_if(|_| !draining) {
            stop.cancel();
        }
        if draining && running.as_ref().is_none_or(CancellationToken::is_cancelled) {
            let stop = CancellationToken::new();
            *running = Some(stop.clone());
            let shared = self.clone();
            let reason = request.reason.clone();
            tasks.spawn(async move {
                let goes_on = || !stop.is_cancelled();
                let drain = shared.drain_all();
                shared.while_shown(drain.run(&*shared.store, &reason, goes_on)).await;
                stop.cancel();
            });
        }
        Drained {
            worker: self.core.config.name.clone(),
            state: self.state(),
            sessions_left: self.supervisor.len() as u64,
        }
    }
}

/// Has sessions look at their files when something happened to them.
async fn look_at_files(supervisor: Arc<Supervisor>, watch: Arc<Watch>, stop: CancellationToken) {
    stop.run_until_cancelled(watch.run(move |key| supervisor.stir(key))).await;
}

async fn read_agents(shared: Arc<Shared>, mut messages: Subscriber, stop: CancellationToken) {
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = stop.cancelled() => return,
        };
        let Some(message) = message else { return };
        inbox::deliver(&shared.client, &shared.core.config.root, &shared.supervisor, message).await;
    }
}

async fn read_floors(floor: Floor, mut messages: Subscriber, stop: CancellationToken) {
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = stop.cancelled() => return,
        };
        let Some(message) = message else { return };
        match serde_json::from_slice::<RelayFloor>(&message.payload) {
            Ok(progress) => floor.advance(progress.floor),
            Err(error) => tracing::warn!(%error, "the relay's progress does not parse"),
        }
    }
}

async fn read_controls(shared: Arc<Shared>, mut messages: Subscriber, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = stop.cancelled() => return,
        };
        let Some(message) = message else { return };
        let shared = shared.clone();
        let of_drains = tasks.clone();
        tasks.spawn(async move { answer_control(&shared, message, &of_drains).await });
    }
}

async fn answer_control(shared: &Arc<Shared>, message: Message, tasks: &TaskTracker) {
    let Some(reply) = message.reply.clone() else { return };
    let answer = match message.subject.rsplit('.').next() {
        Some(control::RECLAIM) => match serde_json::from_slice(&message.payload) {
            Ok(request) => json(&shared.reclaim(request).await),
            Err(error) => bug(&error.to_string()),
        },
        Some(control::STATE) => match serde_json::from_slice(&message.payload) {
            Ok(request) => json(&shared.set_state(&request, tasks)),
            Err(error) => bug(&error.to_string()),
        },
        Some(control::RESOLVE) => match serde_json::from_slice(&message.payload) {
            Ok(request) => shared.resolve(request).await.map_or_else(refused, |real| json(&real)),
            Err(error) => bug(&error.to_string()),
        },
        _ => bug("no such call"),
    };
    ReplyTo::Nats(shared.client.clone(), reply).send(answer).await;
}

fn json<T: Serialize>(reply: &T) -> Answer {
    match serde_json::to_vec(reply) {
        Ok(json) => Answer::Done(json.into()),
        Err(error) => bug(&error.to_string()),
    }
}

fn bug(why: &str) -> Answer {
    refused(Error::new(Reason::Bug, format!("a coordinator's call failed: {why}")))
}

fn refused(error: Error) -> Answer {
    Answer::Refused(Box::new(error))
}
