//! `holdfast doctor`: checks the settings of servers, streams and users, and the state of the parts. Each finding says
//! how to fix it.
//!
//! Invariant: nothing is changed. What a user may do is tried with requests that have no effect: reading what does not
//! exist, and writes that the server refuses because they name another stream. No finding depends on this machine's
//! clock.
//!
//! Deliberately absent: finding two installations below one root in different accounts of a server. They do not see
//! each other, so nothing can be read that shows both.

pub(crate) mod check;
mod roles;
mod servers;
mod streams;

use clap::Args;
use holdfast_deploy::Role;
use holdfast_store::connect::{ConnectOptions, context_path};

use crate::connect::Connection;
use crate::connect::found::Found;
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::probe::Probe;
use crate::status::{self, gather, problems};
use check::{Check, Verdict};

/// Exit status when there is a problem.
const PROBLEM: u8 = 1;

/// Further credentials to check with.
#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// Context of the servers' system account, for the settings of each server [default: `sys` of `holdfast up` in this
    /// folder; the same for the others]
    #[arg(long, value_name = "CONTEXT")]
    sys: Option<String>,
    /// Context of a program, to check what it may do
    #[arg(long, value_name = "CONTEXT")]
    client: Option<String>,
    /// Context of a worker, to check what it may do
    #[arg(long, value_name = "CONTEXT")]
    worker: Option<String>,
    /// Context of a coordinator, to check what it may do
    #[arg(long, value_name = "CONTEXT")]
    coordinator: Option<String>,
}

impl Doctor {
    /// Checks everything, and shows the findings.
    pub(crate) async fn run(self, connection: &Connection, format: Format) -> Result<(), Failure> {
        let probe = status::probe(connection, "holdfast doctor").await?;
        let (own, _) = connection.settings(Role::Ops)?;
        let (parts, servers, login, streams, roles) = tokio::join!(
            parts(&probe),
            servers::checks(&probe, self.access(Role::Sys, &own)),
            servers::login(own.url.as_deref()),
            streams::checks(&probe, self.access(Role::Coordinator, &own)),
            roles::checks(&probe.root, |role| self.access(role, &own)),
        );
        let mut all = servers;
        all.extend([login]);
        all.extend(streams);
        all.extend(roles);
        all.extend(parts);
        let shown = match format {
            Format::Json => output::line(&serde_json::to_vec(&check::report(&all)).map_err(anyhow::Error::from)?),
            Format::People => output::text(&check::text(&all)),
        };
        shown.map_err(Failure::Output)?;
        let has_problem = all.iter().any(|check| check.verdict == Verdict::Problem);
        if has_problem { Err(Failure::Status(PROBLEM)) } else { Ok(()) }
    }

    /// How to connect as `role`, if anything says so. This command itself is an operator's: `own`.
    fn access(&self, role: Role, own: &ConnectOptions) -> Result<ConnectOptions, String> {
        let given = match role {
            Role::Ops => return Ok(own.clone()),
            Role::Sys => self.sys.as_deref(),
            Role::Client => self.client.as_deref(),
            Role::Worker => self.worker.as_deref(),
            Role::Coordinator => self.coordinator.as_deref(),
        };
        let found = Found::here();
        let path = match given {
            Some(name) => found.as_ref().and_then(|found| found.named(name)).unwrap_or_else(|| context_path(name)),
            None => found
                .map(|found| found.of(role))
                .ok_or_else(|| format!("give a context with its credentials: --{} CONTEXT", role.user()))?,
        };
        let options = ConnectOptions::default().with_context(&path.to_string_lossy());
        options.map_err(|error| format!("the context {} cannot be used: {error}", path.display()))
    }
}

/// Coordinators, relay, workers and records, as `holdfast status` judges them, and their versions.
async fn parts(probe: &Probe) -> Vec<Check> {
    let report = gather(probe, probe.patience).await;
    let problems = problems(&report);
    let mut all: Vec<Check> = ["coordinators", "relay", "workers", "records", "storage"]
        .into_iter()
        .filter(|part| problems.iter().all(|problem| problem.part != *part))
        .map(|part| Check::ok(part, "all is well"))
        .collect();
    all.extend(problems.into_iter().map(|problem| Check::problem(problem.part, problem.what, problem.fix)));
    let coordinators = report.coordinators.iter().map(|coordinator| coordinator.version.as_str());
    let workers = report.workers.iter().flatten().filter(|worker| !worker.version.is_empty());
    all.push(check::versions(coordinators, workers.map(|worker| worker.version.as_str())));
    all
}
