//! `holdfast status`: the whole installation on one screen, with what is wrong at the top.
//!
//! Invariant: it comes back within three seconds, whatever is away, and asks coordinators for nothing but whether they
//! are there. So it works while none runs.

mod judge;
mod report;
mod show;

use std::time::Duration;

use clap::Args;
use holdfast_deploy::Role;
use tokio::time::timeout;

use crate::connect::Connection;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::probe::Probe;
pub(crate) use judge::problems;
pub(crate) use report::gather;

/// How long connecting may take, and each of the two rounds of questions.
const CONNECT: Duration = Duration::from_millis(1_000);
const ROUND: Duration = Duration::from_millis(800);
/// Nothing of this takes longer than three seconds together, with a share for the process itself.
const _: () = assert!(CONNECT.as_millis() + 2 * ROUND.as_millis() <= 2_700);

/// Exit status when something is wrong, and when nobody answers.
const DEGRADED: u8 = 1;
const NOBODY: u8 = 5;

/// Show the state of the installation.
#[derive(Args, Debug)]
pub(crate) struct Status {}

impl Status {
    /// Shows the status.
    pub(crate) async fn run(self, connection: &Connection, format: Format) -> Result<(), Failure> {
        let probe = probe(connection, "holdfast status").await?;
        let mut report = gather(&probe, ROUND).await;
        report.problems = problems(&report);
        let shown = match format {
            Format::Json => output::line(&serde_json::to_vec(&report).map_err(anyhow::Error::from)?),
            Format::People => output::text(&show::text(&report)),
        };
        shown.map_err(Failure::Output)?;
        match report.problems.is_empty() {
            true => Ok(()),
            false if report.is_nobody_there() => Err(Failure::Status(NOBODY)),
            false => Err(Failure::Status(DEGRADED)),
        }
    }
}

/// Connects for the questions of this command.
pub(crate) async fn probe(connection: &Connection, name: &str) -> Result<Probe, Failure> {
    let patience = CONNECT.min(connection.timeout);
    let connected = timeout(patience, connection.connect(name, Role::Ops)).await;
    let nats =
        connected.map_err(|_| Failure::Connect(anyhow::anyhow!("NATS did not answer within {patience:?}")))??;
    Ok(Probe { nats, root: connection.root.clone(), patience: ROUND.min(connection.timeout) })
}
