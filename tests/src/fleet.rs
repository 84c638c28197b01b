//! Coordinators and workers for one test, below their own subject root, and a client that uses only NATS and JSON.
//!
//! Tests use the contract like a foreign client: subjects and JSON, and not our types.

mod insist;
mod mortal;
mod operator;
mod reply;
mod secured;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream;
use futures_util::StreamExt;
use holdfast_coordinator::{Config, Coordinator};
use holdfast_deploy::Role;
use holdfast_protocol::WorkerName;
use holdfast_protocol::id::WorkspaceName;
use holdfast_protocol::subject::Root;
use holdfast_protocol::token::Secret;
use holdfast_store::connect::{ConnectOptions, connect};
use holdfast_store::provision::Provisioning;
use holdfast_store::wire::Nats;
use holdfast_store::{Jetstream, provision, token_secret};
use holdfast_worker::{Worker, WorkerConfig, Workspace};
use serde_json::{Value, json};

use crate::wait::until;
pub use insist::Editors;
pub use mortal::Mortal;
pub use reply::Reply;
pub use secured::{Access, SecuredCluster, SecuredServer};

/// How long a test waits for something that should take milliseconds.
pub const SOON: Duration = Duration::from_secs(20);

/// How many bytes of kept signals a test may have; the server reserves them.
const SIGNALS_BYTES: i64 = 16 * 1024 * 1024;
const ACTS_BYTES: i64 = 1024 * 1024;

/// One installation.
pub struct Fleet {
    /// The addresses of its servers.
    pub url: String,
    /// How each role connects.
    access: Access,
    /// Its subject root.
    pub root: Root,
    /// The connection of a foreign client.
    pub nats: async_nats::Client,
    /// The connection of an operator; the same one on a server without a login.
    pub ops: async_nats::Client,
    /// The connection of a coordinator, which reads what is stored.
    reader: async_nats::Client,
    /// The store, to check what was accepted.
    pub store: Arc<Jetstream>,
    secret: Secret,
    coordinators: Vec<Coordinator>,
    workers: BTreeMap<String, Worker>,
    mortal_workers: BTreeMap<String, Mortal<Worker>>,
}

fn worker_config(root: &Root, name: &str, workspaces: &[(&str, &std::path::Path)]) -> Result<WorkerConfig> {
    let mut config = WorkerConfig::new(WorkerName::parse(name)?);
    config.root = root.clone();
    for (name, dir) in workspaces {
        let workspace = Workspace { dir: dir.to_path_buf(), writable: true };
        config.workspaces.insert(WorkspaceName::parse(name)?, workspace);
    }
    Ok(config)
}

/// Starts a worker that connects with `options`, and creates or checks its streams itself.
async fn begin_worker(options: ConnectOptions, config: WorkerConfig) -> Result<Worker> {
    let client = connect(&options).await?;
    let store = provision(&client, &config.root, &Provisioning::of_worker()).await?.store;
    Ok(Worker::start(Nats::shared(client), store, config).await?)
}

/// A worker below `root`, for a test that runs it in a process of its own.
///
/// # Errors
/// When it does not start.
pub async fn worker_at(url: &str, root: &str, name: &str, workspaces: &[(&str, &std::path::Path)]) -> Result<Worker> {
    begin_worker(ConnectOptions::to(url), worker_config(&Root::parse(root)?, name, workspaces)?).await
}

async fn begin_coordinator(options: ConnectOptions, config: Config, secret: Secret) -> Result<Coordinator> {
    let client = connect(&options).await?;
    let store = Arc::new(Jetstream::new(client.clone(), config.root.clone()).await?);
    Ok(Coordinator::start(Nats::shared(client), store, secret, config).await?)
}

impl Fleet {
    /// An installation without coordinators and workers, below a root that no other test has.
    ///
    /// # Errors
    /// When the server cannot be used.
    pub async fn empty(url: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self::empty_below(url, Root::parse(&root)?).await
    }

    /// As [`Fleet::empty`], below this root of a server of the test's own.
    ///
    /// # Errors
    /// When the server cannot be used.
    pub async fn empty_below(url: &str, root: Root) -> Result<Self> {
        Self::empty_with(url, root, Access::Open).await
    }

    async fn empty_with(url: &str, root: Root, access: Access) -> Result<Self> {
        crate::logs::begin();
        let of_coordinators = connect(&access.options(url, Role::Coordinator)).await?;
        let choices = Provisioning { signals_bytes: SIGNALS_BYTES, acts_bytes: ACTS_BYTES, ..Provisioning::default() };
        let store = provision(&of_coordinators, &root, &choices).await?.store;
        Ok(Self {
            url: url.to_owned(),
            root,
            nats: connect(&access.options(url, Role::Client)).await?,
            ops: connect(&access.options(url, Role::Ops)).await?,
            access,
            reader: of_coordinators,
            secret: token_secret(&store).await?,
            store,
            coordinators: Vec::new(),
            workers: BTreeMap::new(),
            mortal_workers: BTreeMap::new(),
        })
    }

    /// One coordinator and one worker, `w1`, without workspaces.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(url: &str) -> Result<Self> {
        let mut fleet = Self::empty(url).await?;
        fleet.add_worker("w1", &[]).await?;
        fleet.add_coordinator().await?;
        Ok(fleet)
    }

    /// One more coordinator, with a connection of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_coordinator(&mut self) -> Result<()> {
        self.coordinators.push(self.begin_coordinator().await?);
        if self.url.contains(',') {
            // The servers of a cluster exchange subscriptions with a short delay.
            let anything = format!("{}.sys.worker.list", self.root);
            until("all servers to know of a coordinator", SOON, async || {
                self.ops.request(anything.clone(), "".into()).await.is_ok().then_some(())
            })
            .await;
        }
        Ok(())
    }

    /// A coordinator for the test to keep and to stop.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn begin_coordinator(&self) -> Result<Coordinator> {
        self.begin_coordinator_as(|_| ()).await
    }

    /// As [`Fleet::begin_coordinator`], with settings of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn begin_coordinator_as(&self, set: impl FnOnce(&mut Config)) -> Result<Coordinator> {
        let mut config = self.coordinator_config();
        set(&mut config);
        begin_coordinator(self.options(&self.url, Role::Coordinator), config, self.secret.clone()).await
    }

    /// Gives the coordinator that was added last to the test.
    pub fn take_coordinator(&mut self) -> Option<Coordinator> {
        self.coordinators.pop()
    }

    /// One more worker, with a connection of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_worker(&mut self, name: &str, workspaces: &[(&str, &std::path::Path)]) -> Result<()> {
        self.add_worker_at(&self.url.clone(), name, workspaces).await
    }

    /// One more worker, which reaches its servers at `url`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_worker_at(
        &mut self,
        url: &str,
        name: &str,
        workspaces: &[(&str, &std::path::Path)],
    ) -> Result<()> {
        let config = worker_config(&self.root, name, workspaces)?;
        self.workers.insert(name.to_owned(), begin_worker(self.options(url, Role::Worker), config).await?);
        Ok(())
    }

    /// One more worker without workspaces, with settings of its own, which connects as `options` say.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_worker_as(
        &mut self,
        options: &ConnectOptions,
        name: &str,
        set: impl FnOnce(&mut WorkerConfig),
    ) -> Result<()> {
        let mut config = worker_config(&self.root, name, &[])?;
        set(&mut config);
        self.workers.insert(name.to_owned(), begin_worker(options.clone(), config).await?);
        Ok(())
    }

    /// One more worker that may not write in its workspaces.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_read_only_worker(&mut self, name: &str, workspaces: &[(&str, &std::path::Path)]) -> Result<()> {
        let mut config = worker_config(&self.root, name, workspaces)?;
        config.workspaces.values_mut().for_each(|workspace| workspace.writable = false);
        self.workers.insert(name.to_owned(), begin_worker(self.options(&self.url, Role::Worker), config).await?);
        Ok(())
    }

    /// Ends a coordinator in order.
    pub async fn stop_coordinator(&mut self) {
        if let Some(coordinator) = self.take_coordinator() {
            coordinator.stop(Duration::from_secs(5)).await;
        }
    }

    /// Ends a worker in order: its sessions move.
    pub async fn stop_worker(&mut self, name: &str) {
        if let Some(worker) = self.workers.remove(name) {
            worker.stop(Duration::from_secs(10)).await;
        }
    }

    /// Gives a worker to the test to stop.
    ///
    /// # Panics
    /// When there is no worker of that name.
    pub fn take_worker(&mut self, name: &str) -> Worker {
        self.workers.remove(name).expect("a worker of that name")
    }

    /// How many sessions a worker has in memory.
    pub fn sessions_on(&self, name: &str) -> usize {
        let here = self.workers.get(name).map(Worker::sessions);
        here.or_else(|| self.mortal_workers.get(name).map(Mortal::sessions)).unwrap_or(0)
    }

    /// Sends `group.verb` in namespace `default`, about the session `id` unless that is empty.
    pub async fn ask(&self, verb: &str, id: &str, body: Value) -> Reply {
        self.ask_raw(&self.subject(verb, id), body.to_string().into_bytes()).await
    }

    /// The subject of a request in namespace `default`.
    pub fn subject(&self, verb: &str, id: &str) -> String {
        let tail = if id.is_empty() { String::new() } else { format!(".{id}") };
        format!("{}.default.{verb}{tail}", self.root)
    }

    /// Sends any bytes to any subject.
    ///
    /// # Panics
    /// When there is no answer: every request must be answered.
    pub async fn ask_raw(&self, subject: &str, body: Vec<u8>) -> Reply {
        let request = async_nats::Request::new().payload(body.into()).timeout(Some(Duration::from_secs(70)));
        let message = self.asking(subject).send_request(subject.to_owned(), request).await;
        Reply::of(subject, message.unwrap_or_else(|error| panic!("{subject} was not answered: {error}")))
    }

    /// As [`Fleet::ask`], for a request that may get no answer in time.
    ///
    /// # Errors
    /// When there is no answer in time, or no responder.
    pub async fn try_ask(
        &self,
        verb: &str,
        id: &str,
        body: &Value,
        timeout: Duration,
    ) -> Result<Reply, async_nats::RequestError> {
        let subject = self.subject(verb, id);
        let request = async_nats::Request::new().payload(body.to_string().into()).timeout(Some(timeout));
        let message = self.asking(&subject).send_request(subject.clone(), request).await?;
        Ok(Reply::of(&subject, message))
    }

    /// Opens a session by id.
    pub async fn open(&self, id: &str) -> Value {
        self.ask("session.open", "", json!({ "id": id })).await.ok()
    }

    /// Takes a lock and returns its token.
    pub async fn acquire(&self, id: &str, owner: &str) -> String {
        let grant = self.ask("lock.acquire", id, json!({ "owner": owner })).await.ok();
        grant["lock_token"].as_str().expect("a grant has a token").to_owned()
    }

    /// Collects all signals from now on.
    ///
    /// # Errors
    /// When the subscription fails.
    pub async fn signals(&self) -> Result<Signals> {
        let mut messages = self.nats.subscribe(format!("{}.*.signal.>", self.root)).await?;
        self.nats.flush().await?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        let task = tokio_util::task::AbortOnDropHandle::new(tokio::task::spawn(async move {
            while let Some(message) = messages.next().await {
                let body = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
                into.lock().unwrap_or_else(PoisonError::into_inner).push((message.subject.to_string(), body));
            }
        }));
        Ok(Signals { seen, _task: task })
    }

    /// All messages of the sessions' stream, in commit order.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn stream(&self) -> Result<Vec<Stored>> {
        self.stream_named(self.root.sessions_stream()).await
    }

    /// All kept signals.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn kept_signals(&self) -> Result<Vec<Stored>> {
        self.stream_named(self.root.signals_stream()).await
    }

    /// All acts of operators.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn acts(&self) -> Result<Vec<Stored>> {
        self.stream_named(self.root.audit_stream()).await
    }

    async fn stream_named(&self, name: String) -> Result<Vec<Stored>> {
        let context = jetstream::new(self.nats.clone());
        let mut stream = context.get_stream(name).await?;
        let last = stream.info().await?.state.last_sequence;
        let consumer = stream.create_consumer(jetstream::consumer::pull::OrderedConfig::default()).await?;
        let mut messages = consumer.messages().await?;
        let mut all: Vec<Stored> = Vec::new();
        while all.last().is_none_or(|stored| stored.sequence < last) && last > 0 {
            let next = tokio::time::timeout(SOON, messages.next()).await.context("the stream fell silent")?;
            let message = next.context("the stream ended")??;
            let sequence = message.info().map_err(|error| anyhow::anyhow!(error))?.stream_sequence;
            let headers = message.headers.as_ref().map(|headers| format!("{headers:?}")).unwrap_or_default();
            all.push(Stored {
                subject: message.subject.to_string(),
                sequence,
                headers,
                body: message.payload.to_vec(),
            });
        }
        Ok(all)
    }

    /// Waits until the relay has announced everything that is in the stream now.
    pub async fn all_announced(&self, signals: &Signals) {
        let marker = format!("marker-{}", uuid::Uuid::now_v7());
        self.open(&marker).await;
        let name = format!("signal.{marker}.session.opened");
        until("the signal of a marker session", SOON, async || {
            signals.all().iter().any(|(subject, _)| subject.ends_with(&name)).then_some(())
        })
        .await;
    }
}

/// A message of a stream.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its subject.
    pub subject: String,
    /// Its sequence.
    pub sequence: u64,
    /// Its headers as text, for people and for checking what must not be in them.
    pub headers: String,
    /// Its body.
    pub body: Vec<u8>,
}

impl Stored {
    /// The body as JSON; `null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// The received signals.
pub struct Signals {
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Signals {
    /// All so far: subject and body, in the order of arrival.
    pub fn all(&self) -> Vec<(String, Value)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `group.event` of all signals of one session so far, each id once.
    pub fn events_of(&self, id: &str) -> Vec<String> {
        let mut ids = std::collections::HashSet::new();
        let needle = format!(".signal.{id}.");
        let all = self.all();
        let mine = all.iter().filter(|(subject, body)| subject.contains(&needle) && ids.insert(body["id"].to_string()));
        mine.map(|(subject, _)| subject.split(&needle).nth(1).unwrap_or_default().to_owned()).collect()
    }

    /// Waits for a signal `group.event` of a session and returns it.
    pub async fn wait_for(&self, id: &str, event: &str) -> Value {
        self.wait_for_nth(1, id, event).await
    }

    /// Waits for the `n`th of such signals, from 1, each id counted once.
    pub async fn wait_for_nth(&self, n: usize, id: &str, event: &str) -> Value {
        let name = format!(".signal.{id}.{event}");
        until(&format!("signal {n} {event} of {id}"), SOON, async || {
            let mut ids = std::collections::HashSet::new();
            let all = self.all().into_iter().filter(|(subject, _)| subject.ends_with(&name)).map(|(_, body)| body);
            all.filter(|body| ids.insert(body["id"].to_string())).nth(n - 1)
        })
        .await
    }
}
