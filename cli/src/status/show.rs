//! The status for a person: problems, then one line or table for each part.

use super::report::{Relay, RelayState, Report, Stream, WorkerCondition};
use crate::output::{plain, red};
use crate::table::list;
use crate::words::word;

/// The text, with a line end at its end.
pub(super) fn text(report: &Report) -> String {
    let mut text = match report.problems.len() {
        0 => "all is well\n".to_owned(),
        1 => red("1 problem") + "\n",
        count => red(&format!("{count} problems")) + "\n",
    };
    for problem in &report.problems {
        text.push_str(&format!("  {} {}\n", red("!"), plain(&problem.what)));
        text.push_str(&format!("    {}\n", plain(&problem.fix)));
    }
    let mut fact = |name: &str, value: String| text.push_str(&format!("{name:<13} {}\n", plain(&value)));
    fact("server", server(report));
    if let Some(stream) = report.streams.first() {
        fact("copies", copies(stream));
    }
    fact("coordinators", coordinators(report));
    fact("relay", relay(&report.relay));
    fact("sessions", sessions(report));
    text.push_str(&workers(report));
    text.push_str(&streams(report));
    text
}

fn server(report: &Report) -> String {
    let cluster = report.server.cluster.as_ref().map(|name| format!(", cluster {name}")).unwrap_or_default();
    format!("{}, nats-server {}{cluster}", report.server.name, report.server.version)
}

fn copies(stream: &Stream) -> String {
    let leader = stream.leader.as_deref().unwrap_or("nobody");
    let mut text = format!("leader {leader}");
    for replica in &stream.replicas {
        let state = match (replica.current, replica.offline) {
            (true, _) => "current".to_owned(),
            (false, true) => "offline".to_owned(),
            (false, false) => format!("{} behind", replica.lag),
        };
        text.push_str(&format!("; {} {state}", replica.server));
    }
    text
}

fn coordinators(report: &Report) -> String {
    let shown = report.coordinators.iter().map(|coordinator| {
        let leaving = if coordinator.leaving { ", leaving" } else { "" };
        let id: String = coordinator.id.chars().take(8).collect();
        format!("{} {id} ({}, {} requests{leaving})", coordinator.name, coordinator.version, coordinator.requests)
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { "none".to_owned() } else { format!("{}: {}", shown.len(), shown.join(", ")) }
}

fn relay(relay: &Relay) -> String {
    let state = match relay.state {
        RelayState::AtWork => "at work",
        RelayState::StandsStill => "stands still",
        RelayState::Idle => "nobody relays",
        RelayState::Paused => "paused",
        RelayState::Missing => return "missing".to_owned(),
        RelayState::Unknown => return "not known".to_owned(),
    };
    format!("{state}, {} behind", relay.behind)
}

fn sessions(report: &Report) -> String {
    let Some(sessions) = &report.sessions else { return "not known".to_owned() };
    let cut = if sessions.all_counted { "" } else { "not all could be read in time; of those that were: " };
    format!(
        "{cut}{} active, {} passive, {} locked; {} closed ones are kept for a day",
        sessions.active, sessions.passive, sessions.locks, sessions.closed
    )
}

fn workers(report: &Report) -> String {
    let Some(workers) = &report.workers else { return "workers       not known\n".to_owned() };
    if workers.is_empty() {
        return "workers       none\n".to_owned();
    }
    let rows = workers.iter().map(|worker| {
        let lease = match (worker.lease_age_ms, worker.state) {
            (_, WorkerCondition::Lapsed) => "none".to_owned(),
            (Some(age), _) => format!("{}.{} s old", age / 1000, age % 1000 / 100),
            (None, _) => "not known".to_owned(),
        };
        vec![worker.worker.clone(), word(worker.state), worker.sessions.to_string(), lease, worker.version.clone()]
    });
    list(&["worker", "state", "sessions", "lease", "version"], rows)
}

fn streams(report: &Report) -> String {
    let rows = report.streams.iter().map(|stream| {
        let limit = stream.max_bytes.map_or("none".to_owned(), megabytes);
        vec![stream.name.clone(), stream.messages.to_string(), megabytes(stream.bytes), limit]
    });
    list(&["stream", "messages", "size", "limit"], rows)
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 104_858;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
