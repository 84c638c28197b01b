//! `holdfast up`: everything on this machine in one process, but for nats-server, which is a child.
//!
//! Invariant: whatever was started is ended again, in the order workers, coordinator, nats-server, also when a later part does
//! not start. A nats-server of others is left alone.

mod banner;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures_util::future::{join_all, select_all};
use holdfast_client::protocol::WorkerName;
use holdfast_coordinator::Coordinator;
use holdfast_deploy::{Finder, Server, ServerOptions, StartError};
use holdfast_store::connect::{ConnectOptions, connect};
use holdfast_worker::Worker;
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;
use crate::exit::Failure;
use crate::output;
use crate::serve::{COORDINATOR_GRACE, prepare, random_name, start_coordinator, start_worker};
use crate::workspace::WorkspaceArg;

use banner::Banner;

/// How long the workers may finish what they have begun: there is nobody to hand sessions over to.
const WORKER_GRACE: Duration = Duration::from_secs(5);
/// How long nats-server may close its streams.
const SERVER_GRACE: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Args, Debug)]
pub(crate) struct Up {
    /// Port of the nats-server on 127.0.0.1
    #[arg(long, default_value_t = 4222, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Folder for everything that is kept
    #[arg(long, default_value = ".holdfast", value_name = "DIR")]
    data: PathBuf,
    /// A folder whose files the workers serve; any number [default: main=DATA/workspace]
    #[arg(long = "workspace", value_name = "NAME=DIR[:ro]", value_parser = WorkspaceArg::parse)]
    workspaces: Vec<WorkspaceArg>,
    /// How many workers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Whether the command line names a nats-server of others.
    #[arg(skip)]
    pub(crate) is_server_given: bool,
}

/// What runs.
#[derive(Default)]
struct Parts {
    server: Option<Server>,
    coordinator: Option<Coordinator>,
    workers: Vec<Worker>,
}

impl Up {
    /// Runs everything until `stop` is cancelled or nats-server ends.
    pub(crate) async fn run(self, connection: &Connection, stop: &CancellationToken) -> Result<(), Failure> {
        let mut parts = Parts::default();
        let started = tokio::select! {
            started = self.start(connection, &mut parts) => started,
            () = stop.cancelled() => Ok(()),
        };
        let outcome = match started {
            Ok(()) => parts.until_ended(stop).await,
            Err(failure) => Err(failure),
        };
        parts.end().await;
        outcome
    }

    async fn start(&self, connection: &Connection, parts: &mut Parts) -> Result<(), Failure> {
        let workspaces = self.workspaces()?;
        let (nats, server) = match self.is_server_given {
            true => (connection.connect("holdfast up").await?, connection.nats.clone()),
            false => {
                let server = parts.server.insert(self.start_server().await?);
                let own = ConnectOptions { name: Some("holdfast up".to_owned()), ..ConnectOptions::to(server.url()) };
                let nats = connect(&own).await.map_err(|error| Failure::Connect(error.into()))?;
                (nats, Some(server.url()))
            }
        };
        let there = prepare(&nats, &connection.root).await?;
        let names = self.worker_names();
        for name in &names {
            parts.workers.push(start_worker(&nats, &there, &connection.root, name.clone(), &workspaces).await?);
        }
        parts.coordinator = Some(start_coordinator(&nats, there, &connection.root).await?);
        let banner = Banner {
            server: server.as_deref(),
            version: &nats.server_info().version,
            data: parts.server.as_ref().map(|_| self.data.as_path()),
            workers: &names,
            workspaces: &workspaces,
            root: &connection.root,
            namespace: &connection.namespace,
        };
        output::text(&banner.text()).map_err(Failure::Output)
    }

    /// One for each worker. On a server of others there may be another one that is called `w1`.
    fn worker_names(&self) -> Vec<WorkerName> {
        let name = |number: u16| match self.is_server_given {
            true => random_name(),
            false => WorkerName::parse(&format!("w{number}")).expect("it follows the rule for names"),
        };
        (1..=self.workers).map(name).collect()
    }

    /// The workspaces that were given, or a folder of ours.
    fn workspaces(&self) -> Result<Vec<WorkspaceArg>, Failure> {
        if !self.workspaces.is_empty() {
            return Ok(self.workspaces.clone());
        }
        let folder = self.data.join("workspace");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let name = holdfast_client::protocol::id::WorkspaceName::parse("main").expect("it follows the rule for names");
        Ok(vec![WorkspaceArg { name, folder, read_only: false }])
    }

    async fn start_server(&self) -> Result<Server, Failure> {
        let binary = Finder::from_env().find(&output::note).await.context("there is no nats-server to run")?;
        let options = ServerOptions {
            port: Some(self.port),
            ..ServerOptions::new(binary.path, self.data.join("nats"), "holdfast")
        };
        Server::start(options).await.map_err(explain)
    }
}

/// Why nats-server does not start, and what to do about it.
fn explain(error: StartError) -> Failure {
    let advice = match &error {
        StartError::PortTaken { port } => format!(
            "; choose another one with --port, or use the server that listens there with --nats nats://127.0.0.1:{port}"
        ),
        StartError::DataInUse { .. } => "; choose another folder with --data".to_owned(),
        _ => String::new(),
    };
    Failure::Other(anyhow::anyhow!("{:#}{advice}", anyhow::Error::new(error)))
}

impl Parts {
    /// Waits until it is time to end.
    async fn until_ended(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        let Self { server, workers, .. } = self;
        let taken = async {
            match workers.is_empty() {
                true => std::future::pending().await,
                false => select_all(workers.iter().map(|worker| Box::pin(worker.name_taken()))).await,
            }
        };
        let ended = async {
            match server {
                Some(server) => (server.wait().await, server.log()),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            (status, log) = ended => Err(Failure::Other(why_ended(&status, &log))),
            _ = taken => Err(Failure::Other(anyhow::anyhow!("other workers on this NATS have the names w1, w2, …"))),
        }
    }

    /// Ends everything.
    async fn end(self) {
        join_all(self.workers.into_iter().map(|worker| worker.stop(WORKER_GRACE))).await;
        if let Some(coordinator) = self.coordinator {
            coordinator.stop(COORDINATOR_GRACE).await;
        }
        if let Some(mut server) = self.server
            && let Err(error) = server.stop(SERVER_GRACE).await
        {
            tracing::warn!(%error, "nats-server could not be stopped in order");
        }
    }
}

fn why_ended(status: &std::process::ExitStatus, log: &Path) -> anyhow::Error {
    anyhow::anyhow!("nats-server ended ({status}); its log is {}", log.display())
}
