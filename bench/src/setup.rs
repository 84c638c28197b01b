//! One server with our settings, one coordinator and one worker, each with its own connection.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use holdfast_coordinator::{Config, Coordinator};
use holdfast_deploy::{Finder, Server, ServerOptions};
use holdfast_protocol::WorkerName;
use holdfast_protocol::id::WorkspaceName;
use holdfast_protocol::subject::Root;
use holdfast_store::connect::{ConnectOptions, connect};
use holdfast_store::provision::Provisioning;
use holdfast_store::wire::Nats;
use holdfast_store::{Jetstream, provision, token_secret};
use holdfast_worker::{Worker, WorkerConfig, Workspace};

/// What is measured.
pub(crate) struct Installation {
    pub(crate) url: String,
    pub(crate) root: Root,
    pub(crate) version: String,
    coordinator: Coordinator,
    worker: Worker,
    server: Server,
    /// The workspace `main`, on the same disk as the server's data.
    pub(crate) files: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Installation {
    pub(crate) async fn start() -> Result<Self> {
        let binary = Finder::from_env().find(&|line| eprintln!("{line}")).await?;
        let folder = tempfile::tempdir_in(".")?;
        let server = Server::start(ServerOptions::new(&binary.path, folder.path(), "bench")).await?;
        let url = server.url();
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
        let version = binary.version.to_string();
        Ok(Self { url, root, version, coordinator, worker, server, files, _folder: folder })
    }

    /// Connections of clients.
    pub(crate) async fn clients(&self, count: usize) -> Result<Vec<async_nats::Client>> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(connect(&ConnectOptions::to(&self.url)).await?);
        }
        Ok(clients)
    }

    pub(crate) async fn stop(mut self) {
        // A benchmark's sessions need no handover.
        self.worker.stop(Duration::ZERO).await;
        self.coordinator.stop(Duration::from_secs(1)).await;
        if let Err(error) = self.server.stop(Duration::from_secs(2)).await {
            eprintln!("the nats-server did not stop in order: {error}");
        }
    }
}
