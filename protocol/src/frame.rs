//! Log frames: what a session agent appends on condition that the record is unchanged, and how a log is read back.
//!
//! Invariant: replaying a frame twice changes nothing. Every op has a number within its session, from 1; a reader that
//! is at op n takes n + 1 and drops what it has seen, so a late copy of an old frame does no harm.

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
/// The number of messages below which a log stays; the stream keeps 64 of a subject and would drop the oldest.
pub const FRAMES_MAX: u64 = 59;
const _: () = assert!(SNAPSHOT_EVERY < FRAMES_MAX && FRAMES_MAX < 64 - 2);

/// The file of a session is not what the session knows.
pub const DIVERGED: &str = "diverged";
/// It is again.
pub const CONVERGED: &str = "converged";

/// What a signal says of a committed op.
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
    /// The file, where one was read or written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is wrong, where something is: `code`, `reason`, `message` and `details` of an error.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::json::optional_value")]
    pub error: Option<Value>,
}

impl OpEvent {
    /// Whether it tells what an agent noticed, and no request was the cause.
    pub fn is_noticed(&self) -> bool {
        matches!(self.kind.as_str(), DIVERGED | CONVERGED)
    }
}

/// One accepted change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Op {
    /// The request that it answers.
    pub request_id: RequestId,
    /// What its signal says; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<OpEvent>,
    /// The change, in the words of the session's kind.
    pub change: Box<RawValue>,
    /// The reply that a retry gets.
    pub reply: Box<RawValue>,
}

impl Op {
    /// Whether a request may come again that it answers. What an agent noted or noticed by itself answers none.
    pub fn answers(&self) -> bool {
        let is_noted = self.event.as_ref().is_none_or(OpEvent::is_noticed);
        !(is_noted && self.reply.get() == RawValue::NULL.get())
    }
}

/// A committed event that a snapshot carries on, because the frame that it stood in may leave the log before the relay has
/// read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedEvent {
    /// Stream sequence of the frame that it stood in.
    pub sequence: u64,
    /// Its place within that frame.
    pub index: u32,
    /// The request.
    pub request_id: RequestId,
    /// What its signal says.
    pub event: OpEvent,
}

/// An answered request, remembered for its retry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// The request.
    pub request_id: RequestId,
    /// Its reply.
    pub reply: Box<RawValue>,
}

/// The whole state of a session at one point of its log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Number of the last op in it.
    pub ops: u64,
    /// The state, in the words of the session's kind.
    pub state: Box<RawValue>,
    /// Recent answers, oldest first.
    pub answered: Vec<Remembered>,
    /// Events that may not have been announced, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carried: Vec<CarriedEvent>,
}

/// One message of a log. Without ops and snapshot it is a barrier, which proves that the record is unchanged: a
/// linearizable read appends one, and so did new owners of older versions before they read a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Frame {
    /// Version of this layout.
    pub v: u32,
    /// The activation that wrote it.
    pub activation: Activation,
    /// Number of the first op in it.
    pub first_op: u64,
    /// The document's revision before it.
    pub first_revision: u64,
    /// Changes, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ops: Vec<Op>,
    /// What replaces all that was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// Frames up to this sequence of the stream are of an earlier session of the same id, of which nothing else was known when
    /// this one was opened; 0: there are none. The first frame and each snapshot say so.
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

    /// The frame as it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a frame is strings, numbers and JSON")
    }

    /// The ops that a reader at op `seen` has not seen.
    ///
    /// # Errors
    /// `record_invalid` when ops between `seen` and this frame are missing.
    pub fn unseen(&self, seen: u64, key: &SessionKey) -> Result<&[Op], Error> {
        if self.ops.is_empty() {
            return Ok(&[]);
        }
        // A stored number may be anything: it must not overflow.
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
