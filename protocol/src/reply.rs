//! The replies of the contract.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::{Boot, KindName, Process, Revision, SessionId, WorkerName};
use crate::record::{Lock, Owner, SessionConfig, SessionRecord, State};
use crate::stored::is_zero;
use crate::token::Token;

/// A lock as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockView {
    /// Who holds it.
    pub owner: String,
    /// The lock revision that granted it.
    pub revision: u64,
    /// When it was granted, RFC 3339.
    pub acquired_at: String,
    /// How long it lives without renewal, milliseconds.
    pub ttl_ms: Option<u64>,
    /// The fence of its grant.
    #[serde(default)]
    pub fence: u64,
}

impl From<&Lock> for LockView {
    fn from(lock: &Lock) -> Self {
        Self {
            owner: lock.owner.clone(),
            revision: lock.revision,
            acquired_at: lock.acquired_at.clone(),
            ttl_ms: lock.ttl_ms,
            fence: lock.fence,
        }
    }
}

/// A session as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Session {
    /// Id.
    pub id: SessionId,
    /// Namespace.
    pub namespace: String,
    /// Kind.
    pub kind: String,
    /// Workspace of its file.
    pub workspace: Option<String>,
    /// Canonical path of its file.
    pub path: Option<String>,
    /// Its state.
    pub state: State,
    /// Its owner.
    #[serde(deserialize_with = "tolerant::owner")]
    pub owner: Option<Owner>,
    /// Its lock, while held.
    pub lock: Option<LockView>,
    /// Counts grants, releases and takeovers.
    pub lock_revision: u64,
    /// The record's KV revision.
    pub revision: Revision,
    /// Settings.
    #[serde(deserialize_with = "tolerant::config")]
    pub config: SessionConfig,
    /// When it was created, RFC 3339.
    pub created_at: String,
    /// How long nobody has asked for anything, milliseconds, as its agent counts it. Only in a list that asks for idle
    /// sessions, and left out if the agent did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

impl Session {
    /// `record` at `revision`, as a client sees it.
    pub fn of(record: &SessionRecord, revision: Revision) -> Self {
        Self {
            id: record.id.clone(),
            namespace: record.namespace.to_string(),
            kind: record.kind.clone(),
            workspace: record.workspace.as_ref().map(ToString::to_string),
            path: record.path.as_ref().map(ToString::to_string),
            state: record.state,
            owner: record.owner.clone(),
            lock: record.lock.as_ref().map(LockView::from),
            lock_revision: record.lock_revision,
            revision,
            config: record.config.clone(),
            created_at: record.created_at.clone(),
            idle_ms: None,
        }
    }
}

/// Readers of replies ignore unknown members. The record shares these types and refuses unknown members.
mod tolerant {
    use serde::{Deserialize, Deserializer};

    use crate::id::{Activation, Boot, WorkerName};
    use crate::record::{LockMode, OnIdle, Owner, SessionConfig};

    pub(super) fn owner<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Owner>, D::Error> {
        #[derive(Deserialize)]
        struct OwnerMembers {
            worker: WorkerName,
            boot: Boot,
            activation: Activation,
            since: String,
        }
        let known = Option::<OwnerMembers>::deserialize(deserializer)?;
        Ok(known.map(|OwnerMembers { worker, boot, activation, since }| Owner { worker, boot, activation, since }))
    }

    pub(super) fn config<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SessionConfig, D::Error> {
        #[derive(Deserialize)]
        struct ConfigMembers {
            idle_timeout_ms: u64,
            on_idle: OnIdle,
            lock: LockMode,
        }
        let ConfigMembers { idle_timeout_ms, on_idle, lock } = ConfigMembers::deserialize(deserializer)?;
        Ok(SessionConfig { idle_timeout_ms, on_idle, lock })
    }
}

/// Reply of `session.open`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Opened {
    /// The session.
    #[serde(flatten)]
    pub session: Session,
    /// Whether this request created it.
    pub created: bool,
}

/// Reply of `session.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionPage {
    /// Sessions, each once, in the order in which they changed last.
    pub sessions: Vec<Session>,
    /// The `after` of the next page, even if this page has few sessions or none; `null` at the end.
    pub next: Option<String>,
}

/// Reply of `session.touch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Touched {
    /// Id.
    pub session_id: SessionId,
    /// Its state.
    pub state: State,
}

/// Reply of `session.close`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Closed {
    /// Id.
    pub session_id: SessionId,
    /// Always true.
    pub closed: bool,
}

/// A granted lock. The only place where a token appears.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Grant {
    /// Id.
    pub session_id: SessionId,
    /// Who holds it.
    pub owner: String,
    /// The proof of holding the lock, sent with every change.
    pub lock_token: Token,
    /// The lock revision that granted it.
    pub lock_revision: u64,
    /// How long it lives without renewal, milliseconds.
    pub ttl_ms: Option<u64>,
    /// Greater than the fence of every earlier grant on this id, over takeovers, close, removal and reopening. It is
    /// the fencing token for what the holder writes elsewhere, where a smaller one must be refused.
    #[serde(default)]
    pub fence: u64,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A token must never reach a log line.
        f.debug_struct("Grant")
            .field("owner", &self.owner)
            .field("lock_revision", &self.lock_revision)
            .finish_non_exhaustive()
    }
}

/// Reply of `admin.takeover`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TakenOver {
    /// The grant.
    #[serde(flatten)]
    pub grant: Grant,
    /// Who held it before.
    pub previous_owner: Option<String>,
    /// Why.
    pub reason: String,
}

/// Reply of `lock.validate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Validated {
    /// Id.
    pub session_id: SessionId,
    /// Always true.
    pub valid: bool,
    /// Who holds the lock.
    pub owner: String,
    /// Its lock revision.
    pub lock_revision: u64,
}

/// Reply of `lock.renew`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Renewed {
    /// Id.
    pub session_id: SessionId,
    /// Who holds the lock.
    pub owner: String,
    /// Its lock revision.
    pub lock_revision: u64,
    /// How long it lives from now without renewal, milliseconds; `null`: until it is released.
    pub expires_in_ms: Option<u64>,
}

/// Reply of `lock.release`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Released {
    /// Id.
    pub session_id: SessionId,
    /// Always true.
    pub released: bool,
    /// The lock revision after it.
    pub lock_revision: u64,
}

/// Reply of `admin.unlock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Unlocked {
    /// As for a release.
    #[serde(flatten)]
    pub released: Released,
    /// Who held it before.
    pub previous_owner: Option<String>,
}

/// A document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Document {
    /// Id.
    pub session_id: SessionId,
    /// Text.
    pub body: String,
    /// Structured part.
    #[serde(deserialize_with = "crate::json::map")]
    pub fields: Map<String, Value>,
    /// Counts accepted changes from 0.
    pub revision: u64,
    /// Whether there are changes that the file does not have.
    pub dirty: bool,
    /// Canonical path of its file.
    pub path: Option<String>,
    /// Workspace of its file.
    pub workspace: Option<String>,
    /// Whether the file differs from what the session last read or wrote. Left out when false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub diverged: bool,
}

/// Reply of `doc.edit`, `doc.undo` and `doc.redo`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Edited {
    /// Id.
    pub session_id: SessionId,
    /// The document's revision after it.
    pub revision: u64,
    /// The document's revision before it.
    pub previous_revision: u64,
    /// Whether there are changes that the file does not have.
    pub dirty: bool,
}

/// Reply of `doc.save`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Saved {
    /// Id.
    pub session_id: SessionId,
    /// The document's revision in the file.
    pub revision: u64,
    /// Size of the file.
    pub bytes: u64,
    /// blake3 of the file, hex.
    pub digest: String,
    /// How many other names (hard links) the replaced file had; they keep the old content. Left out when 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub links_cut: u64,
}

/// Whether a session's agent tells about the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum AgentPresence {
    /// It answers.
    Answers,
    /// Its worker answers, but the session is not in that worker's memory.
    Absent,
    /// No answer in time: its worker is stopped, overloaded or cut off.
    Silent,
    /// Nobody listens: its worker is gone.
    Gone,
}

/// The agent of a session, in a [`Preview`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AgentPreview {
    /// The worker that it runs on.
    pub worker: WorkerName,
    /// Whether it tells about the session. Unless it answers, the other members are `null`.
    pub presence: AgentPresence,
    /// Whether there are changes that the session's file does not have.
    pub unsaved_changes: Option<bool>,
    /// When the first of them was made, RFC 3339.
    pub unsaved_since: Option<String>,
    /// Who made it.
    pub unsaved_by: Option<String>,
    /// How many requests wait for the agent.
    pub requests_waiting: Option<u64>,
}

/// A client that waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WaiterPreview {
    /// The name under which it wants the lock.
    pub owner: String,
    /// How long it has waited, milliseconds.
    pub waited_ms: u64,
}

/// Reply of `admin.preview`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Preview {
    /// The session.
    pub session: Session,
    /// Who asked for the lock in their own words, if the record's history still says so.
    pub lock_actor: Option<String>,
    /// The same as nats-server knows them, where that is trusted.
    #[serde(default)]
    pub lock_actor_proven: Option<String>,
    /// How long the lock has been held, milliseconds. It compares two clocks, so it is for people.
    pub held_for_ms: Option<u64>,
    /// How long the lock lives without renewal, milliseconds.
    pub expires_in_ms: Option<u64>,
    /// The agent that has the session in memory; `null`: the session is passive.
    pub agent: Option<AgentPreview>,
    /// Clients that wait for the lock, in the order of each coordinator's line. Of a long line only the first ones.
    pub waiters: Vec<WaiterPreview>,
    /// How many wait in all.
    pub waiting: u64,
    /// How many coordinators told their lines.
    pub coordinators: u64,
    /// The worker that `admin.move` would choose; `null`: there is no other one.
    pub move_to: Option<WorkerName>,
}

/// Reply of `admin.reclaim`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reclaimed {
    /// Ids.
    pub reclaimed: Vec<SessionId>,
}

/// Reply of `admin.rotate_secret`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SecretRotated {
    /// How many times the secret was rotated since the installation was made.
    pub generation: u64,
    /// How many coordinators use the new secret already. Others read it before their next grant.
    pub coordinators: u64,
    /// How many locks were freed.
    pub released: u64,
}

/// Whether a worker takes sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It takes sessions.
    Ready,
    /// It hands its sessions over and takes no more.
    Draining,
}

/// A worker as its lease in the bucket `workers` and `worker.list` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkerView {
    /// Name.
    pub worker: WorkerName,
    /// Start of its process.
    pub boot: Boot,
    /// Whether it takes sessions.
    pub state: WorkerState,
    /// How many it hosts.
    pub sessions: u64,
    /// Workspaces that it mounts.
    pub workspaces: Vec<String>,
    /// The workspaces of these that it may not write in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_only: Vec<String>,
    /// Kinds of session that it hosts. Left out if that is `document` only, as by versions without kinds.
    #[serde(default = "documents", skip_serializing_if = "are_documents")]
    pub kinds: Vec<String>,
    /// Version of Holdfast.
    pub version: String,
}

impl WorkerView {
    /// The process that this describes.
    pub fn process(&self) -> Process {
        Process { worker: self.worker.clone(), boot: self.boot }
    }
}

fn documents() -> Vec<String> {
    vec![KindName::DOCUMENT.to_owned()]
}

fn are_documents(kinds: &[String]) -> bool {
    kinds == [KindName::DOCUMENT]
}

/// Reply of `worker.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkerList {
    /// Live workers, ordered by name.
    pub workers: Vec<WorkerView>,
}

/// Reply of `worker.drain` and `worker.undrain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Drained {
    /// Name.
    pub worker: WorkerName,
    /// Whether it takes sessions.
    pub state: WorkerState,
    /// How many it still hosts.
    pub sessions_left: u64,
}
