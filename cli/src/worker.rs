//! `holdfast worker`: the daemon, and as subcommands the requests about workers.

use clap::{Args, Subcommand};
use holdfast_client::protocol::WorkerName;
use tokio_util::sync::CancellationToken;

use crate::admin::Reason;
use crate::ask::{Asker, Audit, Requests, until};
use crate::connect::Connection;
use crate::drain;
use crate::exit::Failure;
use crate::metrics::Metrics;
use crate::output::Format;
use crate::serve::{self, Ending};
use crate::workspace::WorkspaceArg;

/// The daemon, or a request.
#[derive(Args, Debug)]
pub(crate) struct Worker {
    #[command(flatten)]
    daemon: Daemon,
    #[command(flatten)]
    audit: Audit,
    #[command(subcommand)]
    request: Option<Request>,
}

/// How to run a worker.
#[derive(Args, Debug)]
pub(crate) struct Daemon {
    /// Name of this worker, unique in the fleet [default: w- and six random characters]
    #[arg(long, value_name = "NAME", value_parser = WorkerName::parse)]
    pub(crate) name: Option<WorkerName>,
    /// A folder whose files this worker serves; any number
    #[arg(long = "workspace", value_name = "NAME=DIR[:ro]", value_parser = WorkspaceArg::parse)]
    pub(crate) workspaces: Vec<WorkspaceArg>,
    /// Take the name of a live worker; that worker ends
    #[arg(long, requires = "name")]
    pub(crate) replace: bool,
    #[command(flatten)]
    pub(crate) ending: Ending,
    #[command(flatten)]
    pub(crate) metrics: Metrics,
}

#[derive(Subcommand, Debug)]
enum Request {
    /// List all live workers
    List,
    /// Drain a worker: its sessions move, and it gets no new ones. Waits until it is empty
    Drain {
        #[arg(value_name = "WORKER", value_parser = WorkerName::parse)]
        worker: WorkerName,
        #[command(flatten)]
        reason: Reason,
        /// Return as soon as the drain has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Let a worker take sessions again
    Undrain {
        #[arg(value_name = "WORKER", value_parser = WorkerName::parse)]
        worker: WorkerName,
        #[command(flatten)]
        reason: Reason,
    },
}

impl Worker {
    /// Whether it runs until a signal ends it.
    pub(crate) fn is_daemon(&self) -> bool {
        self.request.is_none()
    }

    /// Runs the daemon until `stop` is cancelled, or sends the request.
    pub(crate) async fn run(
        self,
        connection: &Connection,
        format: Format,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let Some(request) = self.request else { return serve::worker(self.daemon, connection, stop).await };
        if self.daemon.name.is_some() || !self.daemon.workspaces.is_empty() {
            return Err(Failure::Usage(
                "--name, --replace and --workspace are of a worker that is to run here".to_owned(),
            ));
        }
        until(stop, async { request.ask(&Asker::connect(connection, self.audit, format).await?).await }).await
    }
}

impl Requests for Request {
    async fn ask(self, asker: &Asker) -> Result<(), Failure> {
        match self {
            Self::List => asker.ask(asker.client.workers()).await,
            Self::Drain { worker, reason, no_wait } => drain::drain(asker, &worker, reason.reason, no_wait).await,
            Self::Undrain { worker, reason } => asker.ask(asker.client.undrain(&worker, reason.reason)).await,
        }
    }
}
