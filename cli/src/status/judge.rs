//! What is wrong, in plain words, and what to do about it. Does no I/O.

use super::report::{Problem, RelayState, Replica, Report, WorkerCondition};

/// A relay that is further behind than this cannot keep up.
const FAR_BEHIND: u64 = 10_000;
/// A lease is renewed every 2 seconds, so one of this age was missed twice.
const LATE_MS: u64 = 6_000;
/// How many invalid records are named.
const NAMED: usize = 3;

/// What is wrong, the worst first.
pub(crate) fn problems(report: &Report) -> Vec<Problem> {
    let mut all = Vec::new();
    storage(report, &mut all);
    parts(report, &mut all);
    relay(report, &mut all);
    workers(report, &mut all);
    records(report, &mut all);
    all
}

fn add(all: &mut Vec<Problem>, part: &'static str, what: impl Into<String>, fix: impl Into<String>) {
    all.push(Problem { part, what: what.into(), fix: fix.into() });
}

fn storage(report: &Report, all: &mut Vec<Problem>) {
    for (stream, why) in &report.unread {
        let fix = match why.as_str() {
            "does not exist" => "start a coordinator, which makes it: holdfast coordinator",
            _ => {
                "start the nats-servers that are away: more than half of them must run; and check with `holdfast context \
                 show` that this user may ask"
            }
        };
        add(all, "storage", format!("the stream {stream} {why}"), fix);
    }
    for stream in &report.streams {
        if stream.leader.is_none() && report.server.cluster.is_some() {
            let fix = "start the nats-servers that are away: more than half of them must run";
            add(all, "storage", format!("the stream {} has no leader: nothing can be changed", stream.name), fix);
        }
        for Replica { server, lag, offline, .. } in stream.replicas.iter().filter(|replica| !replica.current) {
            let how = if *offline { "is offline".to_owned() } else { format!("is {lag} operations behind") };
            let fix = format!("start the nats-server {server} and look at its log; it catches up by itself");
            add(all, "storage", format!("the copy of {} on {server} {how}", stream.name), fix);
        }
    }
}

fn parts(report: &Report, all: &mut Vec<Problem>) {
    if report.coordinators.iter().all(|coordinator| coordinator.leaving) {
        let what = "no coordinator answers: no request is answered, and no signal is announced";
        add(all, "coordinators", what, "start one: holdfast coordinator");
    }
}

fn relay(report: &Report, all: &mut Vec<Problem>) {
    let behind = report.relay.behind;
    match report.relay.state {
        // Of both another problem tells the reason.
        RelayState::Idle | RelayState::Missing if report.coordinators.is_empty() => {}
        RelayState::Unknown if !report.unread.is_empty() => {}
        RelayState::AtWork if behind <= FAR_BEHIND => {}
        RelayState::AtWork => {
            add(
                all,
                "relay",
                format!("the relay is {behind} messages behind: signals are late"),
                "wait, or lower the load",
            );
        }
        RelayState::StandsStill => {
            let what = format!("the relay stands still with {behind} messages to announce");
            add(
                all,
                "relay",
                what,
                "restart the coordinators one after the other; their logs say why it does not get on",
            );
        }
        RelayState::Idle => {
            let what = "no coordinator relays: signals are not announced, and changes will be refused as busy";
            add(all, "relay", what, "restart the coordinators one after the other");
        }
        RelayState::Paused => {
            let what = "the relay's consumer is paused: signals are not announced, and changes will be refused as busy";
            add(
                all,
                "relay",
                what,
                "resume it with the coordinator's credentials: nats consumer resume KV_sessions relay",
            );
        }
        RelayState::Missing => {
            let what = "the relay's consumer does not exist: signals are not announced";
            add(
                all,
                "relay",
                what,
                "wait ten seconds; if a coordinator does not make it again, restart the coordinators",
            );
        }
        RelayState::Unknown => {
            add(all, "relay", "the relay's consumer does not answer", "look at the log of the nats-servers");
        }
    }
}

fn workers(report: &Report, all: &mut Vec<Problem>) {
    let Some(workers) = &report.workers else { return };
    let is_live = |condition: WorkerCondition| condition != WorkerCondition::Lapsed;
    if !workers.iter().any(|worker| is_live(worker.state)) {
        let what = "no worker is alive: locks can be taken and freed, but no document can be read or changed";
        add(all, "workers", what, "start one: holdfast worker --name NAME --workspace NAME=DIR");
    } else if !workers.iter().any(|worker| worker.state == WorkerCondition::Active) {
        add(
            all,
            "workers",
            "all workers are draining: no session can be placed",
            "holdfast worker undrain NAME --reason WHY",
        );
    }
    for worker in workers {
        let name = &worker.worker;
        if worker.state == WorkerCondition::Lapsed {
            let what = format!("worker {name} is gone, and {} sessions are still assigned to it", worker.sessions);
            let fix = "they move with their next request, or within three minutes, if another worker is alive";
            add(all, "workers", what, fix);
        }
        if let Some(age) = worker.lease_age_ms.filter(|age| *age > LATE_MS) {
            let what = format!("worker {name} has not renewed its lease for {} s", age / 1000);
            add(
                all,
                "workers",
                what,
                format!("look whether its process runs and reaches NATS; holdfast worker drain {name}"),
            );
        }
    }
}

fn records(report: &Report, all: &mut Vec<Problem>) {
    let Some(sessions) = &report.sessions else { return };
    for (key, why) in sessions.invalid.iter().take(NAMED) {
        let fix = format!("repair it: nats kv history sessions {key}, then nats kv revert sessions {key} REVISION");
        add(all, "records", format!("the record {key} does not parse: {why}"), fix);
    }
    if sessions.invalid.len() > NAMED {
        let more = sessions.invalid.len() - NAMED;
        add(all, "records", format!("{more} more records do not parse"), "holdfast status --json names them");
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Coordinator, Relay, Server, Sessions, Stream, Worker};
    use super::*;

    fn worker(state: WorkerCondition, lease_age_ms: u64) -> Worker {
        let boot = "b".to_owned();
        Worker {
            worker: "w1".to_owned(),
            boot,
            version: "1".to_owned(),
            state,
            sessions: 3,
            lease_age_ms: Some(lease_age_ms),
        }
    }

    fn healthy() -> Report {
        let replica = |server: &str| Replica { server: server.to_owned(), current: true, offline: false, lag: 0 };
        Report {
            server: Server { cluster: Some("c".to_owned()), ..Server::default() },
            streams: vec![Stream {
                name: "KV_sessions".to_owned(),
                messages: 1,
                bytes: 1,
                max_bytes: None,
                leader: Some("n1".to_owned()),
                replicas: vec![replica("n2"), replica("n3")],
            }],
            coordinators: vec![Coordinator {
                id: "c".to_owned(),
                name: "c".to_owned(),
                version: "1".to_owned(),
                requests: 0,
                leaving: false,
            }],
            relay: Relay { state: RelayState::AtWork, behind: 0, announced: 1 },
            workers: Some(vec![worker(WorkerCondition::Active, 1_000)]),
            sessions: Some(Sessions { all_counted: true, ..Sessions::default() }),
            ..Report::default()
        }
    }

    #[test]
    fn each_thing_that_is_wrong_is_one_problem_and_nothing_else_is() {
        assert_eq!(problems(&healthy()), []);
        type Change = fn(&mut Report);
        let cases: [(&str, Change); 13] = [
            ("the stream KV_workers does not answer", |report| {
                report.unread.insert("KV_workers".to_owned(), "does not answer".to_owned());
            }),
            ("has no leader", |report| report.streams[0].leader = None),
            ("on n2 is offline", |report| {
                (report.streams[0].replicas[0].current, report.streams[0].replicas[0].offline) = (false, true);
            }),
            ("on n3 is 7 operations behind", |report| {
                (report.streams[0].replicas[1].current, report.streams[0].replicas[1].lag) = (false, 7);
            }),
            ("no coordinator answers", |report| report.coordinators.clear()),
            ("stands still", |report| report.relay = Relay { state: RelayState::StandsStill, behind: 5, announced: 1 }),
            ("no coordinator relays", |report| report.relay.state = RelayState::Idle),
            ("is paused", |report| report.relay.state = RelayState::Paused),
            ("consumer does not exist", |report| report.relay.state = RelayState::Missing),
            ("20000 messages behind", |report| report.relay.behind = 20_000),
            ("no worker is alive", |report| report.workers = Some(Vec::new())),
            ("all workers are draining", |report| {
                report.workers = Some(vec![worker(WorkerCondition::Draining, 1_000)])
            }),
            ("has not renewed its lease for 7 s", |report| {
                report.workers = Some(vec![worker(WorkerCondition::Active, 7_500)]);
            }),
        ];
        for (what, change) in cases {
            let mut report = healthy();
            change(&mut report);
            let found = problems(&report);
            assert!(found.len() == 1 && found[0].what.contains(what), "{what}: {found:?}");
            assert!(!found[0].fix.is_empty(), "{what}");
        }
    }

    #[test]
    fn few_of_many_invalid_records_are_named() {
        let mut report = healthy();
        let invalid = (0..5).map(|n| (format!("default.s{n}"), "why".to_owned())).collect();
        report.sessions = Some(Sessions { invalid, ..Sessions::default() });
        let found = problems(&report);
        assert_eq!(found.len(), NAMED + 1, "{found:?}");
        assert!(found[0].what.contains("default.s0") && found[NAMED].what.starts_with("2 more"), "{found:?}");
    }
}
