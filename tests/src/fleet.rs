//! Coordinators and workers for one test, on a server and below a subject root of its own, and a client that knows
//! nothing but NATS and JSON.
//!
//! Tests speak the contract as a foreign client would: subjects and JSON, not our types.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream;
use futures_util::StreamExt;
use holdfast_coordinator::{Config, Coordinator};
use holdfast_protocol::WorkerName;
use holdfast_protocol::id::WorkspaceName;
use holdfast_protocol::lock::Secret;
use holdfast_protocol::subject::Root;
use holdfast_store::connect::{ConnectOptions, connect};
use holdfast_store::provision::Provisioning;
use holdfast_store::{Jetstream, provision};
use holdfast_worker::{Worker, WorkerConfig, Workspace};
use serde_json::{Value, json};

use crate::wait::until;

/// How long a test waits for what should take milliseconds.
pub const SOON: Duration = Duration::from_secs(20);

/// How large the kept signals of a test may grow; the server sets that much aside.
const SIGNALS_BYTES: i64 = 16 * 1024 * 1024;

/// One installation.
pub struct Fleet {
    /// Where its servers are.
    pub url: String,
    /// Its subject root.
    pub root: Root,
    /// A connection that is nobody else's: a foreign client.
    pub nats: async_nats::Client,
    /// The store, to read back what was accepted.
    pub store: Arc<Jetstream>,
    secret: Secret,
    coordinators: Vec<Coordinator>,
    workers: BTreeMap<String, Worker>,
}

impl Fleet {
    /// An installation without coordinators and workers, below a root that no other test has.
    ///
    /// # Errors
    /// When the server cannot be used.
    pub async fn empty(url: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Root::parse(&root)?;
        let nats = connect(&ConnectOptions::to(url)).await?;
        let found = provision(&nats, &root, &Provisioning { signals_bytes: SIGNALS_BYTES }).await?;
        Ok(Self {
            url: url.to_owned(),
            root,
            nats,
            store: found.store,
            secret: found.secret,
            coordinators: Vec::new(),
            workers: BTreeMap::new(),
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
        let client = connect(&ConnectOptions::to(&self.url)).await?;
        let store = Arc::new(Jetstream::new(client.clone(), self.root.clone()).await?);
        let config = Config { root: self.root.clone(), ..Config::default() };
        self.coordinators.push(Coordinator::start(client, store, self.secret.clone(), config).await?);
        Ok(())
    }

    /// One more worker, with a connection of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_worker(&mut self, name: &str, workspaces: &[(&str, &std::path::Path)]) -> Result<()> {
        let client = connect(&ConnectOptions::to(&self.url)).await?;
        let store = Arc::new(Jetstream::new(client.clone(), self.root.clone()).await?);
        let mut config = WorkerConfig::new(WorkerName::parse(name)?);
        config.root = self.root.clone();
        for (name, dir) in workspaces {
            let workspace = Workspace { dir: dir.to_path_buf(), writable: true };
            config.workspaces.insert(WorkspaceName::parse(name)?, workspace);
        }
        self.workers.insert(name.to_owned(), Worker::start(client, store, config).await?);
        Ok(())
    }

    /// Ends a coordinator in order.
    pub async fn stop_coordinator(&mut self) {
        if let Some(coordinator) = self.coordinators.pop() {
            coordinator.stop(Duration::from_secs(5)).await;
        }
    }

    /// Ends a worker in order: its sessions go elsewhere.
    pub async fn stop_worker(&mut self, name: &str) {
        if let Some(worker) = self.workers.remove(name) {
            worker.stop(Duration::from_secs(10)).await;
        }
    }

    /// How many sessions a worker has in memory.
    pub fn sessions_on(&self, name: &str) -> usize {
        self.workers.get(name).map_or(0, Worker::sessions)
    }

    /// Asks `group.verb` in namespace `default`, about one session where `id` is not empty.
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
    /// When nobody answers: a request is always answered.
    pub async fn ask_raw(&self, subject: &str, body: Vec<u8>) -> Reply {
        let request = async_nats::Request::new().payload(body.into()).timeout(Some(Duration::from_secs(70)));
        let message = self.nats.send_request(subject.to_owned(), request).await;
        Reply::of(subject, message.unwrap_or_else(|error| panic!("{subject} was not answered: {error}")))
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

    /// All messages of the sessions' stream, in commit order: subject, sequence, headers, body.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn stream(&self) -> Result<Vec<Stored>> {
        let context = jetstream::new(self.nats.clone());
        let mut stream = context.get_stream(self.root.sessions_stream()).await?;
        let last = stream.info().await?.state.last_sequence;
        let consumer = stream.create_consumer(jetstream::consumer::pull::OrderedConfig::default()).await?;
        let mut messages = consumer.messages().await?;
        let mut all: Vec<Stored> = Vec::new();
        while all.last().is_none_or(|stored| stored.sequence < last) && last > 0 {
            let next = tokio::time::timeout(SOON, messages.next()).await.context("the stream fell silent")?;
            let message = next.context("the stream ended")??;
            let sequence = message.info().map_err(|error| anyhow::anyhow!(error))?.stream_sequence;
            all.push(Stored { subject: message.subject.to_string(), sequence, body: message.payload.to_vec() });
        }
        Ok(all)
    }

    /// The record of a session of namespace `default`, as a KV client sees it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn record(&self, id: &str) -> Result<(u64, Value)> {
        let store = jetstream::new(self.nats.clone());
        let stream = store.get_stream_no_info(self.root.sessions_stream()).await?;
        let subject = format!("$KV.{}.default.{id}", self.root.sessions_bucket());
        let message = stream.get_last_raw_message_by_subject(&subject).await?;
        Ok((message.sequence, serde_json::from_slice(&message.payload)?))
    }

    /// Writes a record as `nats kv update` does: on condition of its revision, without any header of ours.
    ///
    /// # Errors
    /// When the revision is not the current one.
    pub async fn edit_record(&self, id: &str, revision: u64, body: Vec<u8>) -> Result<u64> {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string().as_str());
        let subject = format!("$KV.{}.default.{id}", self.root.sessions_bucket());
        let request = async_nats::Request::new().headers(headers).payload(body.into());
        let ack: Value = serde_json::from_slice(&self.nats.send_request(subject, request).await?.payload)?;
        ack["seq"].as_u64().filter(|_| ack.get("error").is_none()).with_context(|| format!("refused: {ack}"))
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

/// A message of the sessions' stream.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its subject.
    pub subject: String,
    /// Its sequence.
    pub sequence: u64,
    /// Its body.
    pub body: Vec<u8>,
}

impl Stored {
    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    subject: String,
    /// Its body.
    pub body: Value,
    /// The micro service's error number, of the header.
    pub number: Option<String>,
    /// The micro service's error text, of the header.
    pub description: Option<String>,
}

impl Reply {
    fn of(subject: &str, message: async_nats::Message) -> Self {
        let header = |name: &str| Some(message.headers.as_ref()?.get_last(name)?.to_string());
        Self {
            subject: subject.to_owned(),
            body: serde_json::from_slice(&message.payload).unwrap_or(Value::Null),
            number: header("Nats-Service-Error-Code"),
            description: header("Nats-Service-Error"),
        }
    }

    /// The body of a success.
    ///
    /// # Panics
    /// When it is an error.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.number.is_none() && self.body.get("error").is_none(), "{}: {}", self.subject, self.body);
        assert!(self.body.is_object(), "{}: the reply is no object: {}", self.subject, self.body);
        self.body
    }

    /// The error, which must be `reason` and have the contract's whole shape.
    ///
    /// # Panics
    /// When it is a success, another error, or lacks a member or a header.
    #[track_caller]
    pub fn refused(self, code: &str, reason: &str) -> Value {
        let error = &self.body["error"];
        assert_eq!(
            (error["code"].as_str(), error["reason"].as_str()),
            (Some(code), Some(reason)),
            "{}: {}",
            self.subject,
            self.body
        );
        for member in ["message", "request_id"] {
            assert!(error[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {error}");
        }
        assert!(error["retryable"].is_boolean() && error["details"].is_object() && error["actions"].is_array(), "{error}");
        let number = match code {
            "invalid_params" => "400",
            "forbidden" => "403",
            "not_found" => "404",
            "conflict" => "409",
            "too_large" => "413",
            "filesystem" => "422",
            "busy" => "429",
            "internal" => "500",
            "unavailable" => "503",
            "unknown_outcome" => "504",
            other => panic!("{other} is no code of the contract"),
        };
        assert_eq!(self.number.as_deref(), Some(number), "the header's number of {error}");
        assert!(self.description.is_some(), "the header's text of {error}");
        error.clone()
    }
}

/// Signals as they came.
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
        let name = format!(".signal.{id}.{event}");
        until(&format!("the signal {event} of {id}"), SOON, async || {
            self.all().into_iter().find(|(subject, _)| subject.ends_with(&name)).map(|(_, body)| body)
        })
        .await
    }
}
