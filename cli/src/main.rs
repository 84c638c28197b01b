//! The command `holdfast`: parses the command line, handles process signals, and returns an exit status.
//!
//! Invariant: only this program's `stop` handles SIGINT and SIGTERM. The first signal cancels the one token that
//! everything else watches; the second one ends the process at once. A command that runs another program passes signals
//! to it instead (`forwarded`). Deliberately absent: everything that Holdfast does. It is in `coordinator`, `worker`
//! and `client`.

mod admin;
mod archive;
mod ask;
mod audit;
mod command;
mod completions;
mod confirm;
mod connect;
mod content;
mod context;
mod credentials;
mod doc;
mod doctor;
mod drain;
mod duration;
mod exit;
mod forwarded;
mod health;
mod list;
mod lock;
mod logs;
mod man;
mod metrics;
mod output;
mod preview;
mod probe;
mod record;
mod restore;
mod schema;
mod serve;
mod session;
mod signals;
mod span;
mod status;
mod stop;
mod table;
mod top;
mod up;
mod why;
mod words;
mod worker;
mod workspace;

use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use command::Cli;
use exit::Failure;

/// How long work that cannot be interrupted, such as file operations, may take after everything else has ended.
const LAST_GRACE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let cli = Cli::read();
    let logs = (!cli.draws()).then(|| cli.start_logs());
    let format = cli.format();
    let outcome = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(cli));
            // Dropping the runtime would wait for a read from a disk that hangs.
            runtime.shutdown_timeout(LAST_GRACE);
            outcome
        }
        Err(error) => Err(Failure::Other(anyhow::Error::new(error).context("cannot start the runtime"))),
    };
    let status = exit::report(outcome, format);
    if let Some(logs) = logs {
        logs.end();
    }
    status
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
    let tracker = TaskTracker::new();
    if !cli.forwards_signals() {
        tracker.spawn(stop::on_signals(stop.clone(), ended.clone()));
    }
    let outcome = cli.run(&stop).await;
    ended.cancel();
    tracker.close();
    tracker.wait().await;
    outcome
}
