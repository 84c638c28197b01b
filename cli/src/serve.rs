//! `holdfast coordinator` and `holdfast worker`: one part alone, until it is told to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use holdfast_client::protocol::WorkerName;
use holdfast_client::protocol::subject::Root;
use holdfast_coordinator::Coordinator;
use holdfast_store::provision::{ProvisionError, Provisioned, Provisioning, provision};
use holdfast_worker::{Worker, WorkerConfig, Workspace};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ask::until;
use crate::connect::Connection;
use crate::exit::Failure;
use crate::worker::Daemon;
use crate::workspace::WorkspaceArg;

/// How long a coordinator may finish what it has begun.
pub(crate) const COORDINATOR_GRACE: Duration = Duration::from_secs(5);
/// How long a worker may hand its sessions over. Service managers kill 30 seconds after their first signal.
const WORKER_GRACE: Duration = Duration::from_secs(25);
const _: () = assert!(WORKER_GRACE.as_secs() < 30);

/// Runs a coordinator until `stop` is cancelled.
pub(crate) async fn coordinator(connection: &Connection, stop: &CancellationToken) -> Result<(), Failure> {
    let starting = async {
        let nats = connection.connect("holdfast coordinator").await?;
        let there = prepare(&nats, &connection.root).await?;
        start_coordinator(&nats, there, &connection.root).await
    };
    let Some(coordinator) = unless_stopped(stop, starting).await? else { return Ok(()) };
    tracing::info!("the coordinator is up");
    stop.cancelled().await;
    tracing::info!("the coordinator ends");
    coordinator.stop(COORDINATOR_GRACE).await;
    Ok(())
}

/// Runs a worker until `stop` is cancelled, or until another process has taken its name.
pub(crate) async fn worker(daemon: Daemon, connection: &Connection, stop: &CancellationToken) -> Result<(), Failure> {
    let name = daemon.name.unwrap_or_else(random_name);
    let starting = async {
        let nats = connection.connect(&format!("holdfast worker {name}")).await?;
        let there = prepare(&nats, &connection.root).await?;
        start_worker(&nats, &there, &connection.root, name.clone(), &daemon.workspaces).await
    };
    let Some(worker) = unless_stopped(stop, starting).await? else { return Ok(()) };
    tracing::info!(%name, boot = %worker.boot(), "the worker is up");
    let taken = tokio::select! {
        () = stop.cancelled() => false,
        () = worker.name_taken() => true,
    };
    tracing::info!(%name, "the worker hands its sessions over");
    worker.stop(WORKER_GRACE).await;
    if taken {
        return Err(Failure::Other(anyhow::anyhow!("another worker has the name {name}: every worker needs its own")));
    }
    Ok(())
}

/// What `starting` made; `None` when `stop` was cancelled first.
async fn unless_stopped<T>(
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

/// Makes or checks what has to be in JetStream.
pub(crate) async fn prepare(nats: &async_nats::Client, root: &Root) -> Result<Provisioned, Failure> {
    let there = provision(nats, root, &Provisioning::default()).await.map_err(|error| match error {
        ProvisionError::Store(error) => Failure::Connect(error.into()),
        error => Failure::Other(error.into()),
    })?;
    for warning in &there.warnings {
        tracing::warn!("{warning}");
    }
    Ok(there)
}

/// Starts a coordinator on what [`prepare`] found.
pub(crate) async fn start_coordinator(
    nats: &async_nats::Client,
    there: Provisioned,
    root: &Root,
) -> Result<Coordinator, Failure> {
    let config = holdfast_coordinator::Config { root: root.clone(), ..holdfast_coordinator::Config::default() };
    let started = Coordinator::start(nats.clone(), there.store, there.secret, config).await;
    Ok(started.context("the coordinator does not start")?)
}

/// Starts a worker on what [`prepare`] found.
pub(crate) async fn start_worker(
    nats: &async_nats::Client,
    there: &Provisioned,
    root: &Root,
    name: WorkerName,
    workspaces: &[WorkspaceArg],
) -> Result<Worker, Failure> {
    let mounts = mounts(workspaces)?;
    let config = WorkerConfig { root: root.clone(), workspaces: mounts, ..WorkerConfig::new(name.clone()) };
    let started = Worker::start(nats.clone(), Arc::clone(&there.store) as _, config).await;
    Ok(started.with_context(|| format!("worker {name} does not start"))?)
}

/// The folders of `workspaces`, each of which must have a name of its own.
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
