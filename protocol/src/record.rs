//! The session record: owner and lock of one session, in one key of the bucket, as JSON that a person can read and
//! edit.
//!
//! Invariant: a record that does not parse, or that a newer version wrote, is reported and never overwritten.
//! Timestamps are for people; nothing compares them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Error;
use crate::id::{
    Activation, Boot, Namespace, Process, RequestId, Revision, SessionId, SessionKey, WorkerName, WorkspaceName,
};
use crate::path::CanonicalPath;
use crate::stored::{self, is_zero};
use crate::words::words;

/// The version of records that this build reads and writes.
pub const RECORD_VERSION: u32 = 1;

/// After how many changes of a record the relay must have announced the revision that the mark names.
pub const MARK_EVERY: u32 = 24;
/// How many more changes urgent writers may make meanwhile: operators, and the expiry of a lock.
pub const MARK_RESERVE: u32 = 6;
/// How many revisions of one record the bucket keeps.
pub const REVISIONS_KEPT: u32 = 64;
// A new mark is set only after the one before was announced, so at most two spans are unannounced. The rest is for hand
// edits, which do not count.
const _: () = assert!(2 * (MARK_EVERY + MARK_RESERVE) + 4 <= REVISIONS_KEPT);

/// Whether a change of a record waits while the relay is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// It waits.
    Ordinary,
    /// It may use the reserve: an operator's override, or the expiry of a lock.
    Urgent,
}

impl Urgency {
    fn most_changes(self) -> u32 {
        match self {
            Self::Ordinary => MARK_EVERY,
            Self::Urgent => MARK_EVERY + MARK_RESERVE,
        }
    }
}

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// An agent owns it.
    Active,
    /// It has no owner; the next request activates it.
    Passive,
    /// It has ended.
    Closed,
}

/// What happens to an idle session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnIdle {
    /// It leaves memory; a request activates it again.
    #[default]
    Passivate,
    /// It is closed, unless it is locked or has unsaved changes.
    Close,
}

/// Whether changes need the lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// While the lock is free, any client may change the document.
    #[default]
    Optional,
    /// Only the holder of the lock may change the document.
    Required,
}

/// Settings of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// How long without activity counts as idle, milliseconds.
    pub idle_timeout_ms: u64,
    /// What then happens.
    #[serde(default)]
    pub on_idle: OnIdle,
    /// Whether changes need the lock.
    #[serde(default)]
    pub lock: LockMode,
}

/// The agent that owns a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The worker's name.
    pub worker: WorkerName,
    /// The start of its process.
    pub boot: Boot,
    /// This assignment.
    pub activation: Activation,
    /// When it began, RFC 3339.
    pub since: String,
}

impl Owner {
    /// The process that the agent runs in.
    pub fn process(&self) -> Process {
        Process { worker: self.worker.clone(), boot: self.boot }
    }
}

/// A held lock. Members that an operator leaves out in a hand edit get values that no token matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Who holds it, in the holder's own words.
    pub owner: String,
    /// The lock revision that granted it.
    pub revision: u64,
    /// blake3 of the token, hex. Never the token.
    #[serde(default)]
    pub token_hash: String,
    /// The random part that the token is derived from, together with the secret.
    #[serde(default)]
    pub nonce: Uuid,
    /// When it was granted, RFC 3339.
    #[serde(default)]
    pub acquired_at: String,
    /// How long it lives without renewal, milliseconds; `null`: until it is released.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// The request that it was granted to.
    #[serde(default)]
    pub request_id: Option<RequestId>,
    /// The record's revision before the grant. It is greater than that of every earlier grant, and so it is the fencing
    /// token for what the holder writes elsewhere. 0 in a lock that was written by hand or by a version without fences.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fence: u64,
    /// Whether another copy of the request was answered after the grant. Then the requester may hold the grant, even if
    /// the first answer had no responder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reasked: bool,
}

words!(
    /// The event of a change of the record.
    EventType {
        /// Created.
        SessionOpened = "session.opened",
        /// Placed on a worker.
        SessionActivated = "session.activated",
        /// Moved to another worker.
        SessionMoved = "session.moved",
        /// Left memory.
        SessionPassivated = "session.passivated",
        /// Taken from a worker that is gone, or from memory by an operator.
        SessionReclaimed = "session.reclaimed",
        /// Ended.
        SessionClosed = "session.closed",
        /// Granted.
        LockAcquired = "lock.acquired",
        /// Given a new token.
        LockRotated = "lock.rotated",
        /// Released.
        LockReleased = "lock.released",
        /// Expired.
        LockExpired = "lock.expired",
        /// Taken by an operator.
        LockTakenOver = "lock.taken_over",
        /// Edited by hand.
        LockChanged = "lock.changed",
    }
);

/// Why a revision of the record exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Who asked, in their own words.
    #[serde(default)]
    pub actor: Option<String>,
    /// Who asked as nats-server tells it, `ACCOUNT/user`; `None` when it did not tell, or is not trusted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_proven: Option<String>,
    /// Why, in their own words.
    #[serde(default)]
    pub reason: Option<String>,
    /// Who held the lock before.
    #[serde(default)]
    pub previous_owner: Option<String>,
    /// Which worker owned the session before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_worker: Option<WorkerName>,
    /// The request that asked for it.
    #[serde(default)]
    pub request_id: Option<RequestId>,
    /// Whether it takes back a grant whose reply had no responder. For the request, the grant then never happened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unheard: bool,
    /// The release before this grant, if one write did both. `lock_revision` has counted both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hand_over: Option<HandOver>,
}

impl Event {
    /// Who held the lock before it was released, also if the same write granted it to somebody else.
    pub fn holder_before(&self) -> Option<&str> {
        let released = self.hand_over.as_ref().and_then(|release| release.previous_owner.as_deref());
        released.or(self.previous_owner.as_deref())
    }
}

/// A release whose write also granted the lock to the next waiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    /// Who released the lock, in their own words.
    #[serde(default)]
    pub actor: Option<String>,
    /// Who released it as nats-server tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_proven: Option<String>,
    /// Who held it.
    #[serde(default)]
    pub previous_owner: Option<String>,
    /// The request that released it.
    #[serde(default)]
    pub request_id: Option<RequestId>,
}

/// The revision that the relay must announce before this record may change further; see [`MARK_EVERY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// A revision of this record.
    pub at: Revision,
    /// How many changes were made since.
    pub changes: u32,
}

/// Owner and lock of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SessionRecord {
    /// Version of this layout.
    pub v: u32,
    /// Namespace.
    pub namespace: Namespace,
    /// Id.
    pub id: SessionId,
    /// Kind of session; `document` is built in.
    pub kind: String,
    /// Workspace of its file.
    #[serde(default)]
    pub workspace: Option<WorkspaceName>,
    /// Canonical path of its file.
    #[serde(default)]
    pub path: Option<CanonicalPath>,
    /// Its state.
    pub state: State,
    /// Its owner.
    pub owner: Option<Owner>,
    /// Its lock, while held.
    pub lock: Option<Lock>,
    /// Counts grants, releases and takeovers.
    pub lock_revision: u64,
    /// Settings.
    pub config: SessionConfig,
    /// When it was created, RFC 3339.
    #[serde(default)]
    pub created_at: String,
    /// The generation of the secret that the lock's token is derived from. A coordinator that knows only an earlier
    /// generation grants nothing here before it has read the secret again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub secret: u64,
    /// Frames up to this stream sequence belong to an earlier session of the same id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_after: u64,
    /// The revision that the relay must announce in time.
    #[serde(default)]
    pub mark: Mark,
    /// Why this revision exists.
    #[serde(default)]
    pub event: Option<Event>,
}

impl SessionRecord {
    /// Reads the record of `key`.
    ///
    /// # Errors
    /// `conflict` / `record_invalid` with the parse error, when it is not a record of this version and key.
    pub fn from_json(json: &[u8], key: &SessionKey) -> Result<Self, Error> {
        let invalid = |why: String| stored::invalid("the stored record", key, &why);
        let record: Self = stored::read(json, RECORD_VERSION).map_err(invalid)?;
        if record.namespace != key.namespace || record.id != key.id {
            return Err(invalid(format!("it says that it is {}.{}", record.namespace, record.id)));
        }
        if record.workspace.is_some() != record.path.is_some() {
            return Err(invalid("workspace and path must be there together".to_owned()));
        }
        if (record.state == State::Active) != record.owner.is_some() {
            return Err(invalid("a session has an owner exactly while it is active".to_owned()));
        }
        if record.lock.as_ref().is_some_and(|lock| lock.revision > record.lock_revision) {
            return Err(invalid("lock.revision is above lock_revision".to_owned()));
        }
        Ok(record)
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is strings, numbers and enums")
    }

    /// The key of its session.
    pub fn key(&self) -> SessionKey {
        SessionKey::new(self.namespace.clone(), self.id.clone())
    }

    /// Whether this revision takes back the grant of `lock_revision`, whose reply had no responder.
    pub fn took_back(&self, lock_revision: u64) -> bool {
        self.event.as_ref().is_some_and(|event| event.unheard) && self.lock_revision == lock_revision + 1
    }

    /// Whether the process of `worker` with this `boot` owns it.
    pub fn is_owned_by(&self, worker: &WorkerName, boot: Boot) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.worker == *worker && owner.boot == boot)
    }

    /// The record for the next revision: `self` with its mark after one more change on top of `current`, when the relay
    /// has announced everything up to `announced`. Every writer of a record must call this, so that none resets the
    /// count.
    ///
    /// # Errors
    /// The revision that the relay must announce before this change may be made.
    pub fn marked(mut self, current: Revision, announced: u64, urgency: Urgency) -> Result<Self, Revision> {
        let Mark { at, changes } = self.mark;
        let changes = changes.saturating_add(1);
        let is_announced = announced >= at.0;
        self.mark = match is_announced {
            true if changes >= MARK_EVERY => Mark { at: current, changes: 0 },
            false if changes >= urgency.most_changes() => return Err(at),
            _ => Mark { at, changes },
        };
        Ok(self)
    }
}
