//! Messages between coordinators and workers, below the reserved `<root>.sys`. Not part of the contract.

use serde::{Deserialize, Serialize};

use crate::document::Content;
use crate::id::{RequestId, Revision};
use crate::record::SessionRecord;
use crate::reply::WorkerState;

/// Header: the record's revision that the sending coordinator knows. An agent that knows an older one reads the record
/// first.
pub const REVISION_HEADER: &str = "Hf-Revision";
/// Header: the `request_id` of a request whose body has none.
pub const REQUEST_ID_HEADER: &str = "Hf-Request-Id";
/// Header: the life of the session that the request is for, as `log_after` of the record that the coordinator decided
/// on. A life goes from an open to the close after it. An agent of another life answers with [`MOVED_HEADER`].
pub const LIFE_HEADER: &str = "Hf-Life";
/// Header: who asked as nats-server tells it, `ACCOUNT/user`.
pub const ACTOR_PROVEN_HEADER: &str = "Hf-Actor-Proven";
/// Header: the subject of the answer to a request that is passed on. A client cannot publish with a reply subject that
/// nats-server made for a service import, and a coordinator is a client of nats-server.
pub const REPLY_HEADER: &str = "Hf-Reply";
/// Header of a reply: the worker does not own the session; read the record to find its owner.
pub const MOVED_HEADER: &str = "Hf-Moved";

/// Calls to one session's agent, beside the relayed verbs of the contract.
pub mod call {
    /// Body [`super::Activate`]; replies `{}` when the agent runs.
    pub const ACTIVATE: &str = "activate";
    /// Body [`super::Hint`]; no reply.
    pub const HINT: &str = "hint";
    /// Body `{}`; replies [`super::LeaseView`].
    pub const LEASE: &str = "lease";
    /// Body `{}`; finish, snapshot, stop admission; replies `{}`. The record stays as it is.
    pub const HANDOVER: &str = "handover";
    /// Body `{}`; replies [`super::Inspection`]. Does not count as activity and starts no agent.
    pub const INSPECT: &str = "inspect";
}

/// Calls to a worker as a whole.
pub mod control {
    /// Body [`super::ReclaimIdle`]; replies [`super::ReclaimedIdle`].
    pub const RECLAIM: &str = "reclaim";
    /// Body [`super::SetState`]; replies [`super::StateSet`].
    pub const STATE: &str = "state";
    /// Body [`super::FilePath`]; replies the real path as [`super::FilePath`].
    pub const RESOLVE: &str = "resolve";
    /// Body [`super::AskIdle`]; replies [`super::IdleTimes`].
    pub const IDLE: &str = "idle";
    /// Body `{}`; replies the worker's lease, which proves that this process runs.
    pub const PING: &str = "ping";
}

/// Calls to all coordinators.
pub mod coordinators {
    /// Body [`super::AskLine`]; each replies [`super::Line`].
    pub const LINE: &str = "line";
}

/// What a session's agent tells about the session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Inspection {
    /// Whether there are changes that the session's file does not have.
    pub unsaved_changes: bool,
    /// When the first of them was made, RFC 3339.
    pub unsaved_since: Option<String>,
    /// Who made it.
    pub unsaved_by: Option<String>,
    /// How many letters waited when the question came.
    pub waiting: u64,
}

/// Asks a worker how long sessions have been idle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AskIdle {
    /// Their namespace.
    pub namespace: crate::id::Namespace,
    /// Their ids.
    pub ids: Vec<crate::id::SessionId>,
}

/// Reply to [`AskIdle`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IdleTimes {
    /// Milliseconds since the last activity of each, in the order of the question; `None`: not in memory.
    pub idle_ms: Vec<Option<u64>>,
}

/// Asks coordinators who waits for a session's lock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AskLine {
    /// The session's namespace.
    pub namespace: crate::id::Namespace,
    /// Its id.
    pub id: crate::id::SessionId,
}

/// One coordinator's line for a lock.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Line {
    /// How many wait.
    pub waiting: u64,
    /// The first ones, in order.
    pub first: Vec<crate::reply::WaiterPreview>,
}

/// A record that a coordinator has just written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hint {
    /// Its revision.
    pub revision: Revision,
    /// The record.
    pub record: SessionRecord,
}

/// Asks a worker to activate a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Activate {
    /// The record that names the worker as the owner.
    #[serde(flatten)]
    pub hint: Hint,
    /// Whether `revision` created the session, so that its log is empty and need not be read.
    pub created: bool,
    /// The initial content, if the opener gave any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// The request that asked.
    pub request_id: RequestId,
}

/// The lease of a session's lock, on its agent's monotonic clock.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LeaseView {
    /// The lock revision that it is about.
    pub lock_revision: u64,
    /// When the lock expires without renewal.
    pub expires_in_ms: Option<u64>,
}

/// Asks a worker to reclaim its idle sessions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReclaimIdle {
    /// Only this namespace.
    pub namespace: crate::id::Namespace,
    /// Idle for at least this long.
    pub max_idle_ms: u64,
    /// Who asked.
    pub actor: Option<String>,
    /// Who asked as nats-server tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_proven: Option<String>,
    /// The request that asked.
    pub request_id: RequestId,
}

/// The sessions that a worker reclaimed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReclaimedIdle {
    /// Ids.
    pub reclaimed: Vec<crate::id::SessionId>,
}

/// Asks a worker to drain or undrain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetState {
    /// The new state.
    pub state: WorkerState,
    /// Why.
    pub reason: String,
    /// Who asked.
    #[serde(default)]
    pub actor: Option<String>,
    /// Who asked as nats-server tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_proven: Option<String>,
    /// The caller's idempotency key.
    #[serde(default)]
    pub request_id: Option<RequestId>,
}

/// Reply to [`SetState`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateSet {
    /// The reply for the client.
    #[serde(flatten)]
    pub drained: crate::reply::Drained,
    /// Whether the request was a late copy: then this is the answer to the first copy, and nothing was set.
    #[serde(default)]
    pub late: bool,
}

/// A path in a workspace, before or after its symbolic links were followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePath {
    /// Workspace.
    pub workspace: crate::id::WorkspaceName,
    /// Path.
    pub path: crate::path::CanonicalPath,
}

/// The relay's progress: every message of the stream up to here was announced.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RelayFloor {
    /// Stream sequence.
    pub floor: u64,
}

/// A worker's lease, value of its key in the bucket `workers`.
pub type WorkerLease = crate::reply::WorkerView;
