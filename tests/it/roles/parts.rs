//! Coordinators and workers with the credentials of their roles, and requests to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Request};
use holdfast_coordinator::{Config, Coordinator};
use holdfast_protocol::WorkerName;
use holdfast_protocol::subject::Root;
use holdfast_store::provision::{Provisioned, Provisioning};
use holdfast_store::wire::Nats;
use holdfast_store::{Jetstream, provision, token_secret};
use holdfast_worker::{Worker, WorkerConfig};
use serde_json::Value;

/// How long a request may take.
const SOON: Duration = Duration::from_secs(20);

/// Coordinators and workers.
pub(super) struct Parts {
    pub(super) coordinators: Vec<Coordinator>,
    pub(super) workers: BTreeMap<String, Worker>,
    /// As a coordinator sees it.
    pub(super) store: Arc<Jetstream>,
    /// What an operator is told when they start.
    pub(super) warnings: Vec<String>,
}

impl Parts {
    /// A coordinator on the first connection, and the worker `w1` on the second one.
    pub(super) async fn start(coordinator: Client, worker: Client) -> anyhow::Result<Self> {
        let choices = Provisioning { signals_bytes: 16 * 1024 * 1024, ..Provisioning::default() };
        let Provisioned { store, warnings, .. } = provision(&coordinator, &Root::default(), &choices).await?;
        let mut parts = Self { coordinators: Vec::new(), workers: BTreeMap::new(), store, warnings };
        parts.add_coordinator(coordinator).await?;
        parts.add_worker(worker, "w1").await?;
        Ok(parts)
    }

    pub(super) async fn add_coordinator(&mut self, nats: Client) -> anyhow::Result<()> {
        let store = Arc::new(Jetstream::new(nats.clone(), Root::default()).await?);
        let secret = token_secret(&store).await?;
        let config = Config {
            closed_retention: Duration::ZERO,
            sweep_delay: Duration::from_millis(50),
            sweep_interval: Duration::from_millis(100),
            ..Config::default()
        };
        self.coordinators.push(Coordinator::start(Nats::shared(nats), store, secret, config).await?);
        Ok(())
    }

    pub(super) async fn add_worker(&mut self, nats: Client, name: &str) -> anyhow::Result<()> {
        let store = provision(&nats, &Root::default(), &Provisioning::of_worker()).await?.store;
        let config = WorkerConfig::new(WorkerName::parse(name)?);
        self.workers.insert(name.to_owned(), Worker::start(Nats::shared(nats), store, config).await?);
        Ok(())
    }
}

/// The answer to a request.
pub(super) async fn ask(client: &Client, subject: &str, body: Value) -> Value {
    try_ask(client, subject, body).await.unwrap_or_else(|error| panic!("{subject}: {error}"))
}

/// The answer to a request, which may be an error reply.
pub(super) async fn try_ask(client: &Client, subject: &str, body: Value) -> anyhow::Result<Value> {
    let request = Request::new().payload(body.to_string().into()).timeout(Some(SOON));
    let message = client.send_request(subject.to_owned(), request).await?;
    Ok(serde_json::from_slice(&message.payload)?)
}
