//! `holdfast up`: everything on this machine: coordinator and workers in this process, and nats-server as a child
//! process.
//!
//! Invariant: every started part is ended again, in the order workers, coordinator, nats-server, even if a later part
//! does not start, and all within one grace period. If our nats-server ends by itself, that is reported at once, and
//! nothing waits for it to return. A nats-server that `up` did not start is left running.

mod banner;
mod server;

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures_util::future::{join_all, select_all};
use holdfast_client::protocol::WorkerName;
use holdfast_client::protocol::subject::Root;
use holdfast_coordinator::Coordinator;
use holdfast_deploy::{KILL_TIME, Role, Server};
use holdfast_meters::Phase;
use holdfast_store::connect::{ConnectOptions, connect};
use holdfast_store::provision::Provisioning;
use holdfast_worker::Worker;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connect::{Connection, Origin, failed};
use crate::exit::Failure;
use crate::metrics::{Metrics, Shown};
use crate::output;
use crate::serve::{
    Ending, Trust, name_taken, prepare, random_name, start_coordinator, start_worker, unless_stopped, worker_config,
};
use crate::workspace::WorkspaceArg;

use banner::{Banner, Own};
use server::{OwnServer, Wanted};

/// What to run.
#[derive(Args, Debug)]
pub(crate) struct Up {
    /// Port of the nats-server on 127.0.0.1
    #[arg(long, default_value_t = 4222, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Folder for all stored data
    #[arg(long, default_value = ".holdfast", value_name = "DIR")]
    data: PathBuf,
    /// A folder whose files the workers serve; any number [default: main=DATA/workspace]
    #[arg(long = "workspace", value_name = "NAME=DIR[:ro]", value_parser = WorkspaceArg::parse)]
    workspaces: Vec<WorkspaceArg>,
    /// Run nats-server without a login, for a throw-away: whoever reaches the port on this machine may do everything
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    ending: Ending,
    #[command(flatten)]
    metrics: Metrics,
    /// How many workers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Whether the command line names an existing nats-server.
    #[arg(skip)]
    pub(crate) is_server_given: bool,
}

/// How each part connects.
struct Access {
    coordinator: (ConnectOptions, Origin),
    worker: (ConnectOptions, Origin),
    /// The server's address; `None`: the default one.
    url: Option<String>,
    /// Whether the server is ours.
    is_ours: bool,
}

/// What runs beside nats-server.
#[derive(Default)]
struct Parts {
    coordinator: Option<Coordinator>,
    workers: Vec<Worker>,
}

/// Why `up` ends without a signal.
enum Ended {
    /// Our nats-server ended by itself.
    Server(anyhow::Error),
    /// A part did not start, or lost its name.
    Part(Failure),
}

impl Up {
    /// Runs everything until `stop` is cancelled or nats-server ends.
    pub(crate) async fn run(self, connection: &Connection, stop: &CancellationToken) -> Result<(), Failure> {
        let shown = self.metrics.start().await?;
        let Some(mut own) = unless_stopped(stop, self.own_server(&connection.root)).await? else { return Ok(()) };
        let access = Access::of(own.as_ref(), connection)?;
        let mut server = own.take().map(|own| own.server);
        let mut parts = Parts::default();
        let working = async {
            self.start(connection, &access, &mut parts, &shown).await?;
            parts.until_taken().await
        };
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => {
                output::note("ending; a second Ctrl-C ends at once");
                Ok(())
            }
            why = gone(&mut server) => Err(Ended::Server(why)),
            failure = working => Err(Ended::Part(failure.err().unwrap_or(Failure::Interrupted))),
        };
        shown.enter(Phase::Ending);
        let until = Instant::now() + self.ending.of_parts();
        let outcome = match outcome {
            Ok(()) => {
                end(parts, server, until).await;
                Ok(())
            }
            Err(Ended::Part(failure)) => {
                end(parts, server, until).await;
                Err(failure)
            }
            Err(Ended::Server(why)) => {
                // Without nats-server the parts cannot finish anything.
                end(parts, None, Instant::now()).await;
                Err(Failure::Other(why))
            }
        };
        shown.stop().await;
        outcome
    }

    async fn start(
        &self,
        connection: &Connection,
        access: &Access,
        parts: &mut Parts,
        shown: &Shown,
    ) -> Result<(), Failure> {
        let workspaces = self.workspaces()?;
        let nats = access.connect("holdfast up: coordinator", Role::Coordinator).await?;
        shown.connection("coordinator", &nats);
        let there = prepare(&nats, &connection.root, &Provisioning::default()).await?;
        let of_workers = access.connect("holdfast up: workers", Role::Worker).await?;
        shown.connection("workers", &of_workers);
        let theirs = prepare(&of_workers, &connection.root, &Provisioning::of_worker()).await?;
        let names = self.worker_names();
        for name in &names {
            let config = worker_config(&connection.root, name.clone(), &workspaces)?;
            parts.workers.push(start_worker(&of_workers, &theirs, config, shown).await?);
        }
        // The accounts of our own server let clients in over service imports only.
        let is_secure = access.is_ours && !self.insecure;
        let trust = Trust { trust_request_info: self.trust.trust_request_info || is_secure };
        parts.coordinator = Some(start_coordinator(&nats, there, &connection.root, trust, shown).await?);
        shown.enter(Phase::Running);
        let banner = Banner {
            server: access.url.as_deref(),
            version: &nats.server_info().version,
            own: access.is_ours.then_some(Own { data: &self.data, insecure: self.insecure }),
            workers: &names,
            workspaces: &workspaces,
            root: &connection.root,
            namespace: &connection.namespace,
        };
        output::text(&banner.text()).map_err(Failure::Output)
    }

    /// A name for each worker. On an existing server there may be another worker `w1`, so the names are random there.
    fn worker_names(&self) -> Vec<WorkerName> {
        let name = |number: u16| match self.is_server_given {
            true => random_name(),
            false => WorkerName::parse(&format!("w{number}")).expect("it follows the rule for names"),
        };
        (1..=self.workers).map(name).collect()
    }

    /// The given workspaces, or the default folder.
    fn workspaces(&self) -> Result<Vec<WorkspaceArg>, Failure> {
        if !self.workspaces.is_empty() {
            return Ok(self.workspaces.clone());
        }
        let folder = self.data.join("workspace");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let name = holdfast_client::protocol::id::WorkspaceName::parse("main").expect("it follows the rule for names");
        Ok(vec![WorkspaceArg { name, folder, read_only: false }])
    }

    /// Starts our nats-server, unless an existing one is used.
    async fn own_server(&self, root: &Root) -> Result<Option<OwnServer>, Failure> {
        if self.is_server_given {
            return Ok(None);
        }
        let wanted = Wanted { port: self.port, data: &self.data, root: root.as_str(), insecure: self.insecure };
        OwnServer::start(&wanted).await.map(Some)
    }
}

impl Access {
    fn of(own: Option<&OwnServer>, connection: &Connection) -> Result<Self, Failure> {
        let of = |role| match own {
            Some(own) => Ok((own.options(role), Origin::Given)),
            None => connection.settings(role),
        };
        let coordinator = of(Role::Coordinator)?;
        let url = coordinator.0.url.clone();
        Ok(Self { worker: of(Role::Worker)?, coordinator, url, is_ours: own.is_some() })
    }

    async fn connect(&self, name: &str, role: Role) -> Result<async_nats::Client, Failure> {
        let (options, origin) = if role == Role::Worker { &self.worker } else { &self.coordinator };
        let options = ConnectOptions { name: Some(name.to_owned()), ..options.clone() };
        connect(&options).await.map_err(|error| failed(error, origin))
    }
}

impl Parts {
    /// Waits until another process has taken the name of one of the workers.
    async fn until_taken(&self) -> Result<(), Failure> {
        let taken = self.workers.iter().map(|worker| Box::pin(worker.name_taken()));
        let (_, which, _) = select_all(taken).await;
        Err(Failure::Other(name_taken(self.workers[which].name())))
    }
}

/// Waits until our nats-server ends, and returns the reason. Never returns if there is none.
async fn gone(server: &mut Option<Server>) -> anyhow::Error {
    let Some(server) = server else { return std::future::pending().await };
    let status = server.wait().await;
    why_ended(status, server)
}

fn why_ended(status: ExitStatus, server: &Server) -> anyhow::Error {
    let (log, last_lines) = (server.log(), server.log_end());
    anyhow::anyhow!("nats-server ended ({status}); the end of {} is:\n{last_lines}", log.display())
}

/// Ends everything by `until`. Workers end first: they need the coordinator to hand sessions over, and both need
/// nats-server.
async fn end(parts: Parts, server: Option<Server>, until: Instant) {
    // Each part gets half of the remaining time, so that one that hangs leaves time for the next.
    let grace = left(until) / 2;
    join_all(parts.workers.into_iter().map(|worker| worker.stop(grace))).await;
    if let Some(coordinator) = parts.coordinator {
        coordinator.stop(left(until) / 2).await;
    }
    if let Some(mut server) = server
        && let Err(error) = server.stop(left(until).saturating_sub(KILL_TIME)).await
    {
        tracing::warn!(%error, "nats-server could not be stopped in order");
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
