//! Acts: what operators did to workers and to the secret of tokens. These are no commits of a session, so no signal
//! tells them. A stream of their own keeps them, for `holdfast audit`.
//!
//! Invariant: an act that took effect once has one id, whichever coordinator tells it and however often: the id follows
//! from what was done and from the request. Source of the envelope: CloudEvents 1.0.2, as for signals.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::id::{Process, RequestId};

/// How many hex digits an id has.
const ID_DIGITS: usize = 32;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// A worker takes no more sessions, and hands over those that it has.
    Drained {
        /// The process that was asked.
        process: Process,
        /// How many sessions it had in memory.
        sessions_left: u64,
    },
    /// A worker takes sessions again.
    Undrained {
        /// The process that was asked.
        process: Process,
        /// How many sessions it had in memory.
        sessions_left: u64,
    },
    /// New tokens are derived from a new secret.
    Rotated {
        /// How many times the secret was rotated, with this one.
        generation: u64,
        /// Whether the tokens from before are no good any more.
        revoke: bool,
        /// How many locks were freed; `None`: not all could be freed by this request.
        released: Option<u64>,
    },
}

impl Done {
    /// The events, as [`Done::event`] names them.
    pub const EVENTS: [&str; 3] = ["worker.drained", "worker.undrained", "secret.rotated"];

    /// `group.event`, as in subjects and types.
    pub fn event(&self) -> &'static str {
        let [drained, undrained, rotated] = Self::EVENTS;
        match self {
            Self::Drained { .. } => drained,
            Self::Undrained { .. } => undrained,
            Self::Rotated { .. } => rotated,
        }
    }

    /// What it was done to: the name of a worker, or `secret`.
    fn object(&self) -> &str {
        match self {
            Self::Drained { process, .. } | Self::Undrained { process, .. } => process.worker.as_str(),
            Self::Rotated { .. } => "secret",
        }
    }

    /// What differs whenever it is done anew: a request takes effect once on a process, and once for a generation.
    fn occasion(&self) -> String {
        match self {
            Self::Drained { process, .. } | Self::Undrained { process, .. } => process.boot.to_string(),
            Self::Rotated { generation, .. } => generation.to_string(),
        }
    }

    fn data(&self) -> Map<String, Value> {
        let data = match self {
            Self::Drained { process, sessions_left } | Self::Undrained { process, sessions_left } => {
                json!({"worker": process.worker, "boot": process.boot, "sessions_left": sessions_left})
            }
            Self::Rotated { generation, revoke, released } => {
                json!({"generation": generation, "revoke": revoke, "released": released})
            }
        };
        match data {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }
}

/// Where it came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The request.
    pub request_id: &'a RequestId,
    /// Who asked, in the words of the request.
    pub actor: Option<&'a str>,
    /// Who asked, as nats-server tells it.
    pub actor_proven: Option<&'a str>,
    /// Why.
    pub reason: &'a str,
    /// When the request arrived, RFC 3339, by the clock of the coordinator that got it.
    pub time: &'a str,
}

/// An act as its stream keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Act {
    /// `1.0`
    pub specversion: String,
    /// The same id is the same act.
    pub id: String,
    /// `/holdfast/sys`
    pub source: String,
    /// `holdfast.<group>.<event>.v1`
    #[serde(rename = "type")]
    pub kind: String,
    /// The name of the worker, or `secret`.
    pub subject: String,
    /// When the request arrived, RFC 3339.
    pub time: String,
    /// `application/json`
    pub datacontenttype: String,
    /// The request.
    pub correlationid: RequestId,
    /// What was done, who asked for it, and why.
    #[serde(deserialize_with = "crate::json::map")]
    pub data: Map<String, Value>,
}

impl Act {
    /// The act of a request that took effect.
    pub fn of(done: &Done, origin: Origin<'_>) -> Self {
        let Origin { request_id, actor, actor_proven, reason, time } = origin;
        let (event, object) = (done.event(), done.object());
        let named = format!("{event} {object} {} {request_id}", done.occasion());
        let mut data = done.data();
        data.insert("reason".to_owned(), json!(reason));
        data.insert("actor".to_owned(), json!(actor));
        data.extend(actor_proven.map(|proven| ("actor_proven".to_owned(), json!(proven))));
        Self {
            specversion: "1.0".to_owned(),
            id: blake3::hash(named.as_bytes()).to_hex()[..ID_DIGITS].to_owned(),
            source: "/holdfast/sys".to_owned(),
            kind: format!("holdfast.{event}.v1"),
            subject: object.to_owned(),
            time: time.to_owned(),
            datacontenttype: "application/json".to_owned(),
            correlationid: request_id.clone(),
            data,
        }
    }

    /// `group.event`.
    pub fn event(&self) -> &str {
        let event = self.kind.strip_prefix("holdfast.").unwrap_or(&self.kind);
        event.strip_suffix(".v1").unwrap_or(event)
    }

    /// The body of the message.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an act is strings and JSON values")
    }
}
