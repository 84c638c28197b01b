//! `holdfast coordinator` and `holdfast worker`: run one part until a signal ends it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use clap::builder::BoolishValueParser;
use holdfast_client::protocol::WorkerName;
use holdfast_client::protocol::subject::Root;
use holdfast_coordinator::Coordinator;
use holdfast_deploy::Role;
use holdfast_meters::Phase;
use holdfast_store::connect::{server_of, tell_reconnects};
use holdfast_store::provision::{ProvisionError, Provisioned, Provisioning, provision, token_secret};
use holdfast_store::wire::Nats;
use holdfast_worker::{NameRule, StartError, Worker, WorkerConfig, Workspace};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ask::until;
use crate::connect::{Connection, duration};
use crate::exit::Failure;
use crate::metrics::{Metrics, Shown};
use crate::worker::Daemon;
use crate::workspace::WorkspaceArg;

/// How a daemon ends.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// How long it may take to end after SIGTERM or Ctrl-C, even while NATS is away; a second signal ends it at once
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub(crate) grace: Duration,
}

impl Ending {
    /// The share of the grace period for the parts of this process; the rest is for the process itself.
    pub(crate) fn of_parts(self) -> Duration {
        self.grace.mul_f64(0.95)
    }
}

/// Whether a coordinator believes what the header `Nats-Request-Info` says of who asks.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Trust {
    /// Record who asked as nats-server tells it (`actor_proven`). Only where all clients come over service imports with
    /// `share`, as with our nats.conf: in one account with the coordinator, a client could write any name
    #[arg(long, env = "HOLDFAST_TRUST_REQUEST_INFO", value_parser = BoolishValueParser::new())]
    pub(crate) trust_request_info: bool,
}

/// How to run a coordinator.
#[derive(Args, Clone, Debug)]
pub(crate) struct CoordinatorArgs {
    #[command(flatten)]
    trust: Trust,
    #[command(flatten)]
    ending: Ending,
    #[command(flatten)]
    metrics: Metrics,
}

/// Runs a coordinator until `stop` is cancelled.
pub(crate) async fn coordinator(
    daemon: CoordinatorArgs,
    connection: &Connection,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let shown = daemon.metrics.start().await?;
    let starting = async {
        let nats = connection.connect_when_there("holdfast coordinator", Role::Coordinator, stop).await?;
        shown.connection("coordinator", &nats);
        let there = prepare(&nats, &connection.root, &Provisioning::default()).await?;
        let coordinator = start_coordinator(&nats, there, &connection.root, daemon.trust, &shown).await?;
        Ok((coordinator, nats))
    };
    let Some((coordinator, nats)) = unless_stopped(stop, starting).await? else { return Ok(()) };
    shown.enter(Phase::Running);
    tracing::info!(server = server_of(&nats), "the coordinator is up");
    tokio::select! {
        () = stop.cancelled() => {}
        () = tell_reconnects(&nats) => {}
    }
    tracing::info!("the coordinator ends");
    shown.enter(Phase::Ending);
    coordinator.stop(daemon.ending.of_parts()).await;
    shown.stop().await;
    Ok(())
}

/// Runs a worker until `stop` is cancelled, or until another process has taken its name.
pub(crate) async fn worker(daemon: Daemon, connection: &Connection, stop: &CancellationToken) -> Result<(), Failure> {
    let name = daemon.name.unwrap_or_else(random_name);
    let rule = if daemon.replace { NameRule::Replace } else { NameRule::Respect };
    let shown = daemon.metrics.start().await?;
    let starting = async {
        let nats = connection.connect_when_there(&format!("holdfast worker {name}"), Role::Worker, stop).await?;
        shown.connection(&format!("worker {name}"), &nats);
        let there = prepare(&nats, &connection.root, &Provisioning::of_worker()).await?;
        let config = worker_config(&connection.root, name.clone(), &daemon.workspaces)?;
        Ok((start_worker(&nats, &there, WorkerConfig { name_rule: rule, ..config }, &shown).await?, nats))
    };
    let Some((worker, nats)) = unless_stopped(stop, starting).await? else { return Ok(()) };
    shown.enter(Phase::Running);
    tracing::info!(%name, boot = %worker.boot(), server = server_of(&nats), "the worker is up");
    let taken = tokio::select! {
        () = stop.cancelled() => false,
        () = worker.name_taken() => true,
        () = tell_reconnects(&nats) => false,
    };
    tracing::info!(%name, "the worker ends");
    shown.enter(Phase::Ending);
    worker.stop(daemon.ending.of_parts()).await;
    shown.stop().await;
    if taken {
        return Err(Failure::Other(name_taken(&name)));
    }
    Ok(())
}

/// The error of a worker whose name another process has taken.
pub(crate) fn name_taken(name: &WorkerName) -> anyhow::Error {
    anyhow::anyhow!("another process has taken the name {name}: every worker needs its own")
}

/// The result of `starting`; `None` when `stop` was cancelled first.
pub(crate) async fn unless_stopped<T>(
    stop: &CancellationToken,
    starting: impl Future<Output = Result<T, Failure>>,
) -> Result<Option<T>, Failure> {
    let mut made = None;
    let making = async {
        made = Some(starting.await?);
        Ok(())
    };
    match until(stop, making).await {
        Err(Failure::Interrupted) => Ok(None),
        outcome => outcome.map(|()| made),
    }
}

/// Creates or checks the streams and buckets.
pub(crate) async fn prepare(
    nats: &async_nats::Client,
    root: &Root,
    choices: &Provisioning,
) -> Result<Provisioned, Failure> {
    let there = provision(nats, root, choices).await.map_err(|error| match error {
        ProvisionError::Store(error) => Failure::Connect(error.into()),
        error => Failure::Other(error.into()),
    })?;
    for warning in &there.warnings {
        tracing::warn!("{warning}");
    }
    Ok(there)
}

/// Starts a coordinator on the store of [`prepare`].
pub(crate) async fn start_coordinator(
    nats: &async_nats::Client,
    there: Provisioned,
    root: &Root,
    Trust { trust_request_info }: Trust,
    shown: &Shown,
) -> Result<Coordinator, Failure> {
    let config = holdfast_coordinator::Config { root: root.clone(), trust_request_info, ..Default::default() };
    let config = shown.of_coordinator(config);
    let secret = token_secret(&there.store).await.map_err(|error| Failure::Connect(error.into()))?;
    let started = Coordinator::start(Nats::shared(nats.clone()), there.store, secret, config).await;
    let coordinator = started.context("the coordinator does not start")?;
    shown.coordinator(&coordinator);
    Ok(coordinator)
}

/// The settings of a worker.
pub(crate) fn worker_config(
    root: &Root,
    name: WorkerName,
    workspaces: &[WorkspaceArg],
) -> Result<WorkerConfig, Failure> {
    let mounts = mounts(workspaces)?;
    Ok(WorkerConfig { root: root.clone(), workspaces: mounts, ..WorkerConfig::new(name) })
}

/// Starts a worker on the store of [`prepare`].
pub(crate) async fn start_worker(
    nats: &async_nats::Client,
    there: &Provisioned,
    config: WorkerConfig,
    shown: &Shown,
) -> Result<Worker, Failure> {
    let (name, config) = (config.name.clone(), shown.of_worker(config));
    let started = Worker::start(Nats::shared(nats.clone()), Arc::clone(&there.store) as _, config).await;
    let worker = started.map_err(|error| match error {
        taken @ StartError::NameTaken { .. } => Failure::Other(anyhow::anyhow!(
            "{taken}, and is alive: give this one another --name, end that one first, or take its name with --replace"
        )),
        error => Failure::Other(anyhow::Error::new(error).context(format!("worker {name} does not start"))),
    })?;
    shown.worker(&worker);
    Ok(worker)
}

/// The folders of `workspaces`, whose names must be distinct.
fn mounts(
    workspaces: &[WorkspaceArg],
) -> Result<BTreeMap<holdfast_client::protocol::id::WorkspaceName, Workspace>, Failure> {
    let mut mounts = BTreeMap::new();
    for WorkspaceArg { name, folder, read_only } in workspaces {
        let mount = Workspace { dir: folder.clone(), writable: !read_only };
        if mounts.insert(name.clone(), mount).is_some() {
            return Err(Failure::Usage(format!("the workspace {name} is given twice")));
        }
    }
    Ok(mounts)
}

/// `w-` and six characters of the random end of a UUIDv7.
pub(crate) fn random_name() -> WorkerName {
    let random = Uuid::now_v7().simple().to_string();
    WorkerName::parse(&format!("w-{}", &random[26..])).expect("it is made of hex digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_name_is_short_and_differs() {
        let names: std::collections::BTreeSet<_> = (0..50).map(|_| random_name()).collect();
        assert!(names.len() > 45, "{names:?}");
        assert!(names.iter().all(|name| name.as_str().len() == 8));
    }

    #[test]
    fn a_workspace_is_given_once() {
        let given = |texts: &[&str]| texts.iter().map(|text| WorkspaceArg::parse(text).unwrap()).collect::<Vec<_>>();
        assert!(matches!(mounts(&given(&["a=x", "a=y"])), Err(Failure::Usage(_))));
        let mounts = mounts(&given(&["a=x", "b=y:ro"])).unwrap();
        assert_eq!(mounts.values().map(|mount| mount.writable).collect::<Vec<_>>(), [true, false]);
    }
}
