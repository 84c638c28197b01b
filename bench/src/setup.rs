//! One server or three with our settings, one coordinator and one worker, each with its own connection.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use holdfast_coordinator::{Config, Coordinator};
use holdfast_protocol::WorkerName;
use holdfast_protocol::id::WorkspaceName;
use holdfast_protocol::subject::Root;
use holdfast_store::connect::{ConnectOptions, connect};
use holdfast_store::provision::Provisioning;
use holdfast_store::wire::Nats;
use holdfast_store::{Jetstream, provision, token_secret};
use holdfast_worker::{Worker, WorkerConfig, Workspace};

use crate::cluster::NatsServers;

/// What is measured.
pub(crate) struct Installation {
    pub(crate) url: String,
    pub(crate) root: Root,
    coordinator: Coordinator,
    worker: Worker,
    servers: NatsServers,
    /// The workspace `main`, on the same disk as the server's data.
    pub(crate) files: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Installation {
    /// Starts it on so many nats-servers: one or three.
    pub(crate) async fn start(servers: usize) -> Result<Self> {
        let folder = tempfile::tempdir_in(".")?;
        let servers = NatsServers::start(folder.path(), servers).await?;
        let url = servers.url();
        let root = Root::default();
        let client = connect(&ConnectOptions::to(&url)).await?;
        let found = provision(&client, &root, &Provisioning::default()).await?;
        let workers = connect(&ConnectOptions::to(&url)).await?;
        let store = Arc::new(Jetstream::new(workers.clone(), root.clone()).await?);
        let files = folder.path().join("files");
        std::fs::create_dir(&files)?;
        let mut config = WorkerConfig::new(WorkerName::parse("w1")?);
        config.workspaces.insert(WorkspaceName::parse("main")?, Workspace { dir: files.clone(), writable: true });
        let worker = Worker::start(Nats::shared(workers), store, config).await?;
        let secret = token_secret(&found.store).await?;
        let coordinator = Coordinator::start(Nats::shared(client), found.store, secret, Config::default()).await?;
        Ok(Self { url, root, coordinator, worker, servers, files, _folder: folder })
    }

    /// The version of the nats-servers.
    pub(crate) fn version(&self) -> String {
        self.servers.version.to_string()
    }

    /// How many nats-servers there are.
    pub(crate) fn servers(&self) -> usize {
        self.servers.size()
    }

    /// Connections of clients.
    pub(crate) async fn clients(&self, count: usize) -> Result<Vec<async_nats::Client>> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(connect(&ConnectOptions::to(&self.url)).await?);
        }
        Ok(clients)
    }

    pub(crate) async fn stop(self) {
        // A benchmark's sessions need no handover.
        self.worker.stop(Duration::ZERO).await;
        self.coordinator.stop(Duration::from_secs(1)).await;
        self.servers.stop().await;
    }
}
