//! The changes of a document as its log has them.
//!
//! Rule: members are added and never renamed. What later versions added may be missing in a log, and its default means
//! what the log meant before.

use holdfast_files::Baseline;
use holdfast_protocol::{RequestId, json};
use holdfast_store::chance;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::delta::Delta;
use super::history::Weight;
use crate::machine::Ask;

/// When something was done, by the worker's clock, and by whom. For people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    pub(super) at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<String>,
}

impl Stamp {
    pub(super) fn of(ask: &Ask) -> Self {
        Self { at: chance::now().to_string(), by: ask.actor.clone() }
    }
}

/// A save that was begun: the file may have its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredBegun")]
pub(super) struct Begun {
    /// blake3 of the new file, hex.
    pub(super) digest: String,
    /// What else the log is to be told if the file has it; `None`: nobody waits for that any more.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) save: Option<BegunSave>,
}

/// What the log is to be told of a begun save once it is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BegunSave {
    /// Size of the new file.
    pub(super) bytes: u64,
    /// Revision of the document in it.
    pub(super) revision: u64,
    /// Its front matter, if it is not the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) front: Option<String>,
    /// The request that began it.
    pub(super) request_id: RequestId,
    /// When it began, and who asked.
    pub(super) stamp: Stamp,
}

/// A begun save as logs have it: those of the first version have only the digest.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredBegun {
    Whole {
        digest: String,
        #[serde(flatten)]
        save: Option<BegunSave>,
    },
    Digest(String),
}

impl From<StoredBegun> for Begun {
    fn from(stored: StoredBegun) -> Self {
        match stored {
            StoredBegun::Whole { digest, save } => Self { digest, save },
            StoredBegun::Digest(digest) => Self { digest, save: None },
        }
    }
}

/// A change as the log has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum DocumentChange {
    /// What the session begins with; revision 0.
    Begin {
        body: String,
        #[serde(deserialize_with = "json::map")]
        fields: Map<String, Value>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        front: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        baseline: Option<Baseline>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
    },
    /// The file, read again.
    Load {
        body: String,
        #[serde(default, skip_serializing_if = "Map::is_empty", deserialize_with = "json::map")]
        fields: Map<String, Value>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        front: String,
        baseline: Baseline,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
        /// It has the content of the document, so the history stays.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        same: bool,
        /// How the content differs where the file has the text that the session wrote, which reads as another document:
        /// it can be undone. `None`: the history is dropped, unless the content is the same.
        #[serde(rename = "step", default, skip_serializing_if = "Option::is_none")]
        delta: Option<Delta>,
    },
    /// A save was begun. Whether the file has its text, only a look at the file tells.
    Saving(Begun),
    /// The save of this digest was refused.
    NotSaved { digest: String },
    /// The file was written.
    Save {
        baseline: Baseline,
        /// The revision that was written; `None`: the present one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revision: Option<u64>,
        /// The front matter, if it is not the one before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        front: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
    },
    /// The file differs from what the session knows.
    Diverged { at: Box<str> },
    /// The file is what the session knows again.
    Converged {},
    /// A new change, after which there is nothing to redo.
    Edit {
        #[serde(rename = "step")]
        delta: Delta,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
        #[serde(default, skip_serializing_if = "Weight::is_raw")]
        weight: Weight,
    },
    /// An edit that changed nothing: it counts, and there is nothing to undo or to save.
    Same {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
    },
    /// The last change, taken back.
    Undo {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
        #[serde(default, skip_serializing_if = "Weight::is_raw")]
        weight: Weight,
    },
    /// The last undone change, made again.
    Redo {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
        #[serde(default, skip_serializing_if = "Weight::is_raw")]
        weight: Weight,
    },
}
