//! Log frames: what a session's agent appends on condition that the record is unchanged, and how a log is read back.
//!
//! Invariant: replaying a frame twice changes nothing. Every op has a number within its session, from 1. A reader at op
//! n takes op n + 1 and drops earlier ones, so a late copy of an old frame does no harm.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, Reason};
use crate::id::{Activation, RequestId, SessionKey};
use crate::stored::{self, is_zero};

/// The version of frames that this build reads and writes.
pub const FRAME_VERSION: u32 = 1;

/// How many frames may follow a snapshot before the next one is due.
pub const SNAPSHOT_EVERY: u64 = 32;
/// How many bytes of frames may follow a snapshot before the next one is due.
pub const SNAPSHOT_EVERY_BYTES: u64 = 256 * 1024;
/// How many messages a log may have; the stream keeps 64 per subject and would drop the oldest.
pub const FRAMES_MAX: u64 = 59;
const _: () = assert!(SNAPSHOT_EVERY < FRAMES_MAX && FRAMES_MAX < 64 - 2);

/// The event of a file that differs from what the session last read or wrote.
pub const DIVERGED: &str = "diverged";
/// The event of a file that matches again.
pub const CONVERGED: &str = "converged";

/// The data of a committed op's signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpEvent {
    /// Event within the group `doc`: `edited`, `undone`, `redone`, `loaded`, `saved`, `diverged`, `converged`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The document's revision after it.
    pub revision: u64,
    /// The document's revision before it.
    pub previous_revision: u64,
    /// Which parts changed: `body`, `fields`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Who asked as nats-server tells it, `ACCOUNT/user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_proven: Option<String>,
    /// The file, if one was read or written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The problem, if there is one: `code`, `reason`, `message` and `details` of an error.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::json::optional_value")]
    pub error: Option<Value>,
}

impl OpEvent {
    /// Whether an agent noticed it by itself, without a request.
    pub fn is_noticed(&self) -> bool {
        matches!(self.kind.as_str(), DIVERGED | CONVERGED)
    }
}

/// One accepted change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Op {
    /// The request that it answers.
    pub request_id: RequestId,
    /// The data of its signal; `None`: it has no signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<OpEvent>,
    /// The change, in the format of the session's kind.
    pub change: Box<RawValue>,
    /// The reply that a retry gets.
    pub reply: Box<RawValue>,
}

impl Op {
    /// Whether it answers a request, which may be sent again. Ops that an agent made by itself answer none.
    pub fn answers(&self) -> bool {
        let is_noted = self.event.as_ref().is_none_or(OpEvent::is_noticed);
        !(is_noted && self.reply.get() == RawValue::NULL.get())
    }
}

/// A committed event that a snapshot carries, because its frame may be removed before the relay has read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedEvent {
    /// The stream sequence of its frame.
    pub sequence: u64,
    /// Its index within that frame.
    pub index: u32,
    /// The request.
    pub request_id: RequestId,
    /// The data of its signal.
    pub event: OpEvent,
}

/// An answered request, kept for its retries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// The request.
    pub request_id: RequestId,
    /// Its reply.
    pub reply: Box<RawValue>,
}

/// The whole state of a session after an op of its log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The number of the last op in it.
    pub ops: u64,
    /// The state, in the format of the session's kind.
    pub state: Box<RawValue>,
    /// Recent answers, oldest first.
    pub answered: Vec<Remembered>,
    /// Events that may not have been announced, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carried: Vec<CarriedEvent>,
}

/// One message of a log. Without ops and snapshot it is a barrier, which proves that the record is unchanged. A
/// linearizable read appends one. New owners of older versions appended one before they read a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Frame {
    /// Version of this layout.
    pub v: u32,
    /// The activation that wrote it.
    pub activation: Activation,
    /// The number of the first op in it.
    pub first_op: u64,
    /// The document's revision before it.
    pub first_revision: u64,
    /// Changes, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ops: Vec<Op>,
    /// The snapshot that replaces all earlier frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// Frames up to this stream sequence belong to an earlier session of the same id, whose record was gone when this
    /// one was opened; 0: there are none. The first frame and each snapshot have it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub opened: u64,
}

impl Frame {
    /// Reads a frame of the log of `key`.
    ///
    /// # Errors
    /// `conflict` / `record_invalid` when it is not a frame of this version.
    pub fn from_json(json: &[u8], key: &SessionKey) -> Result<Self, Error> {
        stored::read(json, FRAME_VERSION).map_err(|why| stored::invalid("a stored frame", key, &why).advise(&[]))
    }

    /// The stored form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a frame is strings, numbers and JSON")
    }

    /// The ops after `seen`.
    ///
    /// # Errors
    /// `record_invalid` when ops between `seen` and this frame are missing.
    pub fn unseen(&self, seen: u64, key: &SessionKey) -> Result<&[Op], Error> {
        if self.ops.is_empty() {
            return Ok(&[]);
        }
        // A stored number may have any value, so it must not overflow.
        let next = seen.saturating_add(1);
        if self.first_op > next {
            let message = format!("the log of session {} lacks ops {next} to {}", key.id, self.first_op - 1);
            let error = Error::new(Reason::RecordInvalid, message).advise(&[]);
            return Err(error.detail("session_id", key.id.as_str()));
        }
        let known = usize::try_from(next - self.first_op).unwrap_or(usize::MAX);
        Ok(self.ops.get(known..).unwrap_or(&[]))
    }
}
