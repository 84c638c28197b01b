//! What a worker counts.
//!
//! Several workers may run in one process, so every series has the worker's name. Invariant: counting takes no lock of
//! a map. No other label has a value that clients choose.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use holdfast_meters::{Counter, Family, Gauge, Histogram, Registry, Scale, Unit, histograms};
use holdfast_protocol::WorkerName;
use holdfast_store::StoreError;

use crate::session::End;

/// A worker, and one thing more.
type Labels<const N: usize> = [(&'static str, String); N];

/// A gauge of seconds.
type Seconds = Gauge<f64, AtomicU64>;

/// How an agent starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// The session is new.
    Opened,
    /// A coordinator gave the session to this worker.
    Placed,
    /// A request came for a session that this worker should own.
    Asked,
}

/// What a session in memory is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its state is being built.
    Starting,
    /// It serves requests.
    Serving,
    /// Its end is being carried out.
    Ending,
}

const ACTIVATIONS: [&str; 3] = ["opened", "placed", "asked"];
const STAGES: [&str; 3] = ["starting", "serving", "ending"];
const FRAMES: [&str; 5] = ["accepted", "moved", "unknown", "unavailable", "refused"];
const ENDS: [&str; 5] = ["moved", "closed", "handed_over", "failed", "panicked"];

/// The metrics of all workers of a process.
#[derive(Clone, Debug)]
pub struct WorkerMeters {
    activations: Family<Labels<2>, Counter>,
    ends: Family<Labels<2>, Counter>,
    frames: Family<Labels<2>, Counter>,
    sessions: Family<Labels<2>, Gauge>,
    workspaces: Family<Labels<2>, Gauge>,
    changes: Family<Labels<1>, Histogram, Scale>,
    frame_bytes: Family<Labels<1>, Histogram, Scale>,
    commits: Family<Labels<1>, Histogram, Scale>,
    snapshots: Family<Labels<1>, Counter>,
    retries: Family<Labels<1>, Counter>,
    lease_age: Family<Labels<1>, Seconds>,
    mailbox_bytes: Family<Labels<1>, Gauge>,
    stuck: Family<Labels<1>, Gauge>,
}

impl Default for WorkerMeters {
    fn default() -> Self {
        Self {
            activations: Family::default(),
            ends: Family::default(),
            frames: Family::default(),
            sessions: Family::default(),
            workspaces: Family::default(),
            changes: histograms(Scale::Count),
            frame_bytes: histograms(Scale::Bytes),
            commits: histograms(Scale::Seconds),
            snapshots: Family::default(),
            retries: Family::default(),
            lease_age: Family::default(),
            mailbox_bytes: Family::default(),
            stuck: Family::default(),
        }
    }
}

impl WorkerMeters {
    /// Metrics that `registry` shows. A registry may have them once.
    pub fn shown(registry: &mut Registry) -> Self {
        let of = Self::default();
        registry.register("worker_activations", "Agents that started, by cause", of.activations.clone());
        registry.register("worker_ends", "Agents that ended, by cause", of.ends.clone());
        registry.register("worker_frames", "Frames that were sent to the log, by outcome", of.frames.clone());
        registry.register("worker_frame_changes", "Changes in each accepted frame", of.changes.clone());
        registry.register_with_unit("worker_frame", "Size of each accepted frame", Unit::Bytes, of.frame_bytes.clone());
        registry.register_with_unit(
            "worker_commit_duration",
            "Time from sending a frame to its acknowledgement",
            Unit::Seconds,
            of.commits.clone(),
        );
        registry.register("worker_snapshots", "Accepted frames that replaced their log", of.snapshots.clone());
        registry.register(
            "worker_record_retries",
            "Writes of a record by an agent that lost against another writer and were decided again",
            of.retries.clone(),
        );
        registry.register("worker_sessions", "Sessions in memory, by stage", of.sessions.clone());
        registry.register(
            "worker_stuck_sessions",
            "Sessions in memory that have work and have not come on with it for long",
            of.stuck.clone(),
        );
        registry.register_with_unit(
            "worker_mailbox",
            "Requests that wait for sessions or are being answered",
            Unit::Bytes,
            of.mailbox_bytes.clone(),
        );
        registry.register_with_unit(
            "worker_lease_age",
            "Time since the worker's lease was last known to be renewed; it ends at 10 s",
            Unit::Seconds,
            of.lease_age.clone(),
        );
        registry.register(
            "worker_workspace_usable",
            "Whether a workspace's folder is there and may be used as it was declared: 1, or 0",
            of.workspaces.clone(),
        );
        of
    }

    /// Those of one worker.
    pub fn of(&self, worker: &WorkerName) -> Meters {
        let own = [("worker", worker.to_string())];
        let with = |label, value: &str| [("worker", worker.to_string()), (label, value.to_owned())];
        Meters(Arc::new(Series {
            activations: ACTIVATIONS.map(|cause| self.activations.get_or_create_owned(&with("cause", cause))),
            ends: ENDS.map(|cause| self.ends.get_or_create_owned(&with("cause", cause))),
            frames: FRAMES.map(|outcome| self.frames.get_or_create_owned(&with("outcome", outcome))),
            sessions: STAGES.map(|stage| self.sessions.get_or_create_owned(&with("stage", stage))),
            changes: self.changes.get_or_create_owned(&own),
            frame_bytes: self.frame_bytes.get_or_create_owned(&own),
            commits: self.commits.get_or_create_owned(&own),
            snapshots: self.snapshots.get_or_create_owned(&own),
            retries: self.retries.get_or_create_owned(&own),
            lease_age: self.lease_age.get_or_create_owned(&own),
            mailbox_bytes: self.mailbox_bytes.get_or_create_owned(&own),
            stuck: self.stuck.get_or_create_owned(&own),
            workspaces: self.workspaces.clone(),
            worker: worker.to_string(),
        }))
    }
}

/// The metrics of one worker. Clones count into the same ones.
#[derive(Clone, Debug)]
pub struct Meters(Arc<Series>);

#[derive(Debug)]
struct Series {
    activations: [Counter; 3],
    ends: [Counter; 5],
    frames: [Counter; 5],
    sessions: [Gauge; 3],
    changes: Histogram,
    frame_bytes: Histogram,
    commits: Histogram,
    snapshots: Counter,
    retries: Counter,
    lease_age: Seconds,
    mailbox_bytes: Gauge,
    stuck: Gauge,
    workspaces: Family<Labels<2>, Gauge>,
    worker: String,
}

/// A frame that was sent.
pub(crate) struct Sent {
    /// The changes in it.
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
    pub(crate) is_snapshot: bool,
    pub(crate) took: Duration,
}

/// A session in memory, counted by its stage. Dropping it counts it no more.
pub(crate) struct Counted {
    meters: Meters,
    stage: Stage,
}

impl Counted {
    /// The session has come to `stage`.
    pub(crate) fn enter(&mut self, stage: Stage) {
        self.meters.0.sessions[self.stage as usize].dec();
        self.meters.0.sessions[stage as usize].inc();
        self.stage = stage;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.meters.0.sessions[self.stage as usize].dec();
    }
}

impl Meters {
    /// Counts an agent that starts, and its session from now on.
    pub(crate) fn activated(&self, cause: Activation) -> Counted {
        self.0.activations[cause as usize].inc();
        self.0.sessions[Stage::Starting as usize].inc();
        Counted { meters: self.clone(), stage: Stage::Starting }
    }

    /// Counts an agent that ended.
    pub(crate) fn ended(&self, end: &End) {
        let cause = match end {
            End::Moved => 0,
            End::Closed(_) => 1,
            End::HandedOver => 2,
            End::Failed(_) => 3,
            End::Panicked => 4,
        };
        self.0.ends[cause].inc();
    }

    /// Counts a frame and its outcome.
    pub(crate) fn sent(&self, frame: &Sent, outcome: &Result<u64, StoreError>) {
        let series = &*self.0;
        let which = match outcome {
            Ok(_) => 0,
            Err(StoreError::Moved { .. }) => 1,
            Err(StoreError::Unknown(_)) => 2,
            Err(StoreError::Unavailable(_)) => 3,
            Err(_) => 4,
        };
        series.frames[which].inc();
        if which > 0 {
            return;
        }
        if frame.changes > 0 {
            series.changes.observe(frame.changes as f64);
        }
        series.frame_bytes.observe(frame.bytes as f64);
        series.commits.observe(frame.took.as_secs_f64());
        if frame.is_snapshot {
            series.snapshots.inc();
        }
    }

    /// Counts a write of a record that lost against another writer.
    pub(crate) fn retried(&self) {
        self.0.retries.inc();
    }

    /// Sets the age of the lease.
    pub(crate) fn lease_age(&self, age: Duration) {
        self.0.lease_age.set(age.as_secs_f64());
    }

    /// Sets how many bytes of requests wait.
    pub(crate) fn mailbox_bytes(&self, bytes: usize) {
        self.0.mailbox_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Sets how many sessions are stuck.
    pub(crate) fn stuck(&self, sessions: usize) {
        self.0.stuck.set(i64::try_from(sessions).unwrap_or(i64::MAX));
    }

    /// Sets whether a workspace may be used.
    pub(crate) fn workspace(&self, name: &str, is_usable: bool) {
        let labels = [("worker", self.0.worker.clone()), ("workspace", name.to_owned())];
        self.0.workspaces.get_or_create(&labels).set(i64::from(is_usable));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_counted_in_one_stage_until_it_is_gone() {
        let meters = WorkerMeters::default().of(&WorkerName::parse("w1").unwrap());
        let sessions = || meters.0.sessions.each_ref().map(Gauge::get);
        let mut first = meters.activated(Activation::Opened);
        let second = meters.activated(Activation::Asked);
        assert_eq!(sessions(), [2, 0, 0]);
        first.enter(Stage::Serving);
        assert_eq!(sessions(), [1, 1, 0]);
        first.enter(Stage::Ending);
        drop(second);
        assert_eq!(sessions(), [0, 0, 1]);
        drop(first);
        assert_eq!(sessions(), [0, 0, 0]);
        assert_eq!(meters.0.activations.each_ref().map(Counter::get), [1, 0, 1]);
    }
}
