//! What `holdfast status` finds out, and prints with `--json`.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::Info as ConsumerInfo;
use holdfast_client::protocol::record::State;
use holdfast_client::protocol::reply::WorkerState;
use holdfast_store::connect::server_of;
use holdfast_store::provision;
use serde::Serialize;

use crate::probe::{CoordinatorSeen, LeaseSeen, Probe, StreamSeen, Survey, Told, Unread, age};

/// The pause between the two looks at the relay: a coordinator that relays asks for messages all the time.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// Everything.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// What is wrong, the worst first.
    pub(crate) problems: Vec<Problem>,
    pub(crate) server: Server,
    /// The streams that could be read.
    pub(crate) streams: Vec<Stream>,
    /// Why a stream could not be read.
    pub(crate) unread: BTreeMap<String, String>,
    pub(crate) coordinators: Vec<Coordinator>,
    pub(crate) relay: Relay,
    /// `null`: not known.
    pub(crate) workers: Option<Vec<Worker>>,
    /// `null`: not known.
    pub(crate) sessions: Option<Sessions>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// What it is about: `storage`, `coordinators`, `relay`, `workers` or `records`.
    pub(crate) part: &'static str,
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) fix: String,
}

/// The server that was asked.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) cluster: Option<String>,
    /// How many copies of each stream Holdfast keeps on such servers.
    pub(crate) replicas_needed: usize,
}

/// A stream.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stream {
    pub(crate) name: String,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// `null`: no limit of its own.
    pub(crate) max_bytes: Option<u64>,
    pub(crate) leader: Option<String>,
    pub(crate) replicas: Vec<Replica>,
}

/// A copy of a stream beside the leader's.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Replica {
    pub(crate) server: String,
    pub(crate) current: bool,
    pub(crate) offline: bool,
    /// How many operations it is behind the leader.
    pub(crate) lag: u64,
}

/// A coordinator.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Coordinator {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    /// Since it started.
    pub(crate) requests: u64,
    pub(crate) leaving: bool,
}

/// The relay.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Relay {
    pub(crate) state: RelayState,
    /// How many messages of the stream are not announced yet.
    pub(crate) behind: u64,
    /// Everything up to this sequence was announced.
    pub(crate) announced: u64,
}

/// Whether signals are announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RelayState {
    /// A coordinator relays.
    AtWork,
    /// A coordinator relays, and nothing was announced between two looks although something waits.
    StandsStill,
    /// No coordinator asks for messages.
    Idle,
    /// Somebody paused its consumer.
    Paused,
    /// Its consumer does not exist.
    Missing,
    /// No answer.
    #[default]
    Unknown,
}

/// A worker.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Worker {
    pub(crate) worker: String,
    pub(crate) boot: String,
    pub(crate) version: String,
    pub(crate) state: WorkerCondition,
    /// In memory, as its lease says; of a lapsed worker those whose records name it.
    pub(crate) sessions: u64,
    /// How old its lease is. Leases are renewed every 2 seconds and lapse after 10.
    pub(crate) lease_age_ms: Option<u64>,
}

/// The condition of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerCondition {
    /// It takes sessions.
    Active,
    /// It hands its sessions over.
    Draining,
    /// It has sessions and no lease.
    Lapsed,
}

/// The sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sessions {
    /// Whether all were counted. If not, the numbers are of those that could be read in time.
    pub(crate) all_counted: bool,
    pub(crate) active: u64,
    pub(crate) passive: u64,
    pub(crate) closed: u64,
    pub(crate) locks: u64,
    /// Records that do not parse, with the reason, by `namespace.id`.
    pub(crate) invalid: BTreeMap<String, String>,
}

impl Report {
    /// Whether neither the storage nor a coordinator answers.
    pub(crate) fn is_nobody_there(&self) -> bool {
        self.streams.is_empty() && self.coordinators.is_empty()
    }
}

/// Asks everybody. Takes two rounds of at most `round` each.
pub(crate) async fn gather(probe: &Probe, round: Duration) -> Report {
    let root = &probe.root;
    let workers_stream = format!("KV_{}", root.workers_bucket());
    let names = [root.sessions_stream(), workers_stream, root.signals_stream(), root.audit_stream()];
    let (sessions, workers, signals, acts, relay, coordinators, leases) = tokio::join!(
        probe.stream(&names[0]),
        probe.stream(&names[1]),
        probe.stream(&names[2]),
        probe.stream(&names[3]),
        probe.relay(),
        probe.coordinators(),
        probe.leases(),
    );
    let last = sessions.as_ref().map(|stream| stream.state.last_sequence);
    let survey = async {
        match last {
            Ok(last) => probe.survey(last, round).await.ok(),
            Err(_) => None,
        }
    };
    let again = async {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        probe.relay().await
    };
    let (survey, again) = tokio::join!(survey, again);
    let now = workers.as_ref().ok().and_then(|stream| stream.ts.clone());
    let mut report = Report {
        server: server(probe),
        coordinators: coordinators.into_iter().map(coordinator).collect(),
        relay: relay_of(&relay, &again),
        workers: leases.ok().map(|leases| workers_of(leases, now.as_deref(), survey.as_ref())),
        sessions: survey.as_ref().map(count),
        ..Report::default()
    };
    for (name, told) in names.into_iter().zip([sessions, workers, signals, acts]) {
        match told {
            Ok(stream) => report.streams.push(stream_of(name, &stream)),
            // An installation of an earlier version has none, and no session needs it. `holdfast doctor` checks it.
            Err(_) if name == root.audit_stream() => {}
            Err(why) => {
                report.unread.insert(name, why.to_string());
            }
        }
    }
    report
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist"),
            Self::Refused(why) => write!(f, "is refused: {why}"),
            Self::Silent => f.write_str("does not answer"),
        }
    }
}

fn server(probe: &Probe) -> Server {
    let info = probe.nats.server_info();
    Server {
        name: server_of(&probe.nats),
        version: info.version,
        cluster: info.cluster,
        replicas_needed: provision::replicas(&probe.nats),
    }
}

fn stream_of(name: String, seen: &StreamSeen) -> Stream {
    let replica = |peer: &async_nats::jetstream::stream::PeerInfo| Replica {
        server: peer.name.clone(),
        current: peer.current,
        offline: peer.offline,
        lag: peer.lag.unwrap_or(0),
    };
    let cluster = seen.cluster.as_ref();
    Stream {
        name,
        messages: seen.state.messages,
        bytes: seen.state.bytes,
        max_bytes: u64::try_from(seen.config.max_bytes).ok().filter(|bytes| *bytes > 0),
        leader: cluster.and_then(|cluster| cluster.leader.clone()).filter(|leader| !leader.is_empty()),
        replicas: cluster.map(|cluster| cluster.replicas.iter().map(replica).collect()).unwrap_or_default(),
    }
}

fn coordinator(seen: CoordinatorSeen) -> Coordinator {
    Coordinator {
        requests: seen.requests(),
        id: seen.id,
        name: seen.metadata.coordinator,
        version: seen.version,
        leaving: seen.metadata.leaving == "true",
    }
}

fn relay_of(first: &Told<ConsumerInfo>, again: &Told<ConsumerInfo>) -> Relay {
    let (first, again) = match (first, again) {
        (_, Err(Unread::Missing)) => return Relay { state: RelayState::Missing, ..Relay::default() },
        (Ok(first), Ok(again)) => (first, again),
        _ => return Relay::default(),
    };
    let behind = |info: &ConsumerInfo| info.num_pending + info.num_ack_pending as u64;
    let is_asked = first.num_waiting > 0 || again.num_waiting > 0 || first.delivered != again.delivered;
    let moves = first.ack_floor.stream_sequence != again.ack_floor.stream_sequence;
    let state = match (again.paused, is_asked, moves) {
        (true, ..) => RelayState::Paused,
        (_, _, true) => RelayState::AtWork,
        (_, false, _) => RelayState::Idle,
        _ if behind(first) > 0 && behind(again) > 0 => RelayState::StandsStill,
        _ => RelayState::AtWork,
    };
    Relay { state, behind: behind(again), announced: again.ack_floor.stream_sequence }
}

/// The workers with a lease, and those without one that records name.
fn workers_of(leases: Vec<LeaseSeen>, now: Option<&str>, survey: Option<&Survey>) -> Vec<Worker> {
    let worker = |seen: LeaseSeen| Worker {
        worker: seen.worker.worker.to_string(),
        boot: seen.worker.boot.to_string(),
        version: seen.worker.version,
        state: match seen.worker.state {
            WorkerState::Ready => WorkerCondition::Active,
            WorkerState::Draining => WorkerCondition::Draining,
        },
        sessions: seen.worker.sessions,
        lease_age_ms: age(seen.written, now).and_then(|age| u64::try_from(age.as_millis()).ok()),
    };
    let mut workers: Vec<Worker> = leases.into_iter().map(worker).collect();
    let mut lapsed: BTreeMap<(String, String), u64> = BTreeMap::new();
    let records = survey.iter().flat_map(|survey| survey.records.values()).filter_map(|(_, read)| read.as_ref().ok());
    for owner in records.filter_map(|record| record.owner.as_ref()) {
        let (name, boot) = (owner.worker.to_string(), owner.boot.to_string());
        if !workers.iter().any(|worker| worker.worker == name && worker.boot == boot) {
            *lapsed.entry((name, boot)).or_default() += 1;
        }
    }
    workers.extend(lapsed.into_iter().map(|((worker, boot), sessions)| Worker {
        worker,
        boot,
        version: String::new(),
        state: WorkerCondition::Lapsed,
        sessions,
        lease_age_ms: None,
    }));
    workers
}

fn count(survey: &Survey) -> Sessions {
    let mut sessions = Sessions { all_counted: survey.is_whole, ..Sessions::default() };
    for (key, (_, read)) in &survey.records {
        match read {
            Ok(record) => {
                match record.state {
                    State::Active => sessions.active += 1,
                    State::Passive => sessions.passive += 1,
                    State::Closed => sessions.closed += 1,
                }
                sessions.locks += u64::from(record.lock.is_some() && record.state != State::Closed);
            }
            Err(why) => {
                sessions.invalid.insert(key.to_string(), why.clone());
            }
        }
    }
    sessions
}
