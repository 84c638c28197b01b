//! What a document is, and the changes that make it so.
//!
//! Law: the same changes in the same order make the same state.

use holdfast_files::{Baseline, Expected};
use holdfast_protocol::{Error, RequestId, json};
use holdfast_store::chance;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::history::{History, Weight};
use super::not_replayable;
use super::step::Step;
use crate::machine::Ask;

/// How many saves may have been begun and not come to an end before the first is forgotten.
const BEGUN_MAX: usize = 16;

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

/// A save that the file may have come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredBegun")]
pub(super) struct Begun {
    /// blake3 of the file to be, hex.
    pub(super) digest: String,
    /// All else.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) save: Option<BegunSave>,
}

/// What is to be known of a save that was begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BegunSave {
    /// Size of the file to be.
    pub(super) bytes: u64,
    /// The document's revision that it has.
    pub(super) revision: u64,
    /// Its front matter, where that is another than before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) front: Option<String>,
    /// Whose doing it is.
    pub(super) request_id: RequestId,
    /// When it was begun, and for whom.
    pub(super) stamp: Stamp,
}

/// As it was stored, at times as nothing but a digest.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredBegun {
    Whole {
        digest: String,
        #[serde(flatten)]
        save: BegunSave,
    },
    Named {
        digest: String,
    },
    Digest(String),
}

impl From<StoredBegun> for Begun {
    fn from(stored: StoredBegun) -> Self {
        match stored {
            StoredBegun::Whole { digest, save } => Self { digest, save: Some(save) },
            StoredBegun::Named { digest } | StoredBegun::Digest(digest) => Self { digest, save: None },
        }
    }
}

/// What a snapshot has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) body: String,
    #[serde(default, skip_serializing_if = "Map::is_empty", deserialize_with = "json::map")]
    pub(super) fields: Map<String, Value>,
    /// The file's front matter as text, since a save keeps of it what did not change.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) front: String,
    pub(super) revision: u64,
    /// The revision that the file has, or that the session began with.
    pub(super) saved_revision: u64,
    /// The file as it was last read or written; `None`: there was none.
    /// What only sessions with files have is boxed, because of all the others in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) baseline: Option<Box<Baseline>>,
    /// When and by whom that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) synced: Option<Box<Stamp>>,
    /// Saves that were begun since, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) begun: Vec<Begun>,
    /// Since when the file is known to be something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) diverged: Option<Box<str>>,
    /// The first change that no file has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unsaved: Option<Box<Stamp>>,
    /// The last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) changed: Option<Stamp>,
    #[serde(default, skip_serializing_if = "History::is_empty")]
    pub(super) history: History,
}

/// A change as it stands in the log. Members that were not always there may be missing.
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
        /// It has what the document has, so that what can be undone still can.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        same: bool,
        /// The file has the very text that the session knows, and it reads differently: this is the difference, which
        /// can be undone. `None`: what could be undone is dropped, unless it is the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<Step>,
    },
    /// The file is about to have this. Whether it came to that, only the file knows.
    Saving(Begun),
    /// Nothing came of that.
    NotSaved { digest: String },
    /// The file has what the document has.
    Save {
        baseline: Baseline,
        /// What the document was at then, if it has changed since.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revision: Option<u64>,
        /// The front matter, where it is another than before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        front: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
    },
    /// The file is not what the session knows.
    Diverged { at: Box<str> },
    /// It is again.
    Converged {},
    /// A new change, which drops what could be redone.
    Edit {
        step: Step,
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
    /// The last change taken back.
    Undo {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
        #[serde(default, skip_serializing_if = "Weight::is_raw")]
        weight: Weight,
    },
    /// The last undone change made again.
    Redo {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
        #[serde(default, skip_serializing_if = "Weight::is_raw")]
        weight: Weight,
    },
}

impl State {
    /// Makes a change of the session, which has a file or none.
    pub(super) fn make(&mut self, change: DocumentChange, has_file: bool) -> Result<(), Error> {
        match change {
            DocumentChange::Begin { body, fields, front, baseline, stamp } => {
                (self.body, self.fields, self.front) = (body, fields, front);
                // What was given for a file that is not there is in no file.
                if has_file && baseline.is_none() && !(self.body.is_empty() && self.fields.is_empty()) {
                    self.unsaved = stamp.clone().map(Box::new);
                }
                (self.baseline, self.synced) = (baseline.map(Box::new), stamp.map(Box::new));
                return Ok(());
            }
            DocumentChange::Saving(begun) => {
                self.begin_save(begun);
                return Ok(());
            }
            DocumentChange::NotSaved { digest } => {
                // Another attempt at the same text may be under way still, so it stays one's own.
                self.begun.iter_mut().filter(|begun| begun.digest == digest).for_each(|begun| begun.save = None);
                return Ok(());
            }
            DocumentChange::Diverged { at } => {
                self.diverged = Some(at);
                return Ok(());
            }
            DocumentChange::Converged {} => {
                self.diverged = None;
                return Ok(());
            }
            DocumentChange::Save { baseline, revision, front, stamp } => {
                self.saved_revision = revision.unwrap_or(self.revision);
                if self.saved_revision == self.revision {
                    self.unsaved = None;
                }
                if let Some(front) = front {
                    self.front = front;
                }
                self.synced_with(baseline, stamp);
                return Ok(());
            }
            DocumentChange::Load { body, fields, front, baseline, stamp, same, step } => {
                if let Some(step) = step {
                    let inverse = step.apply(&mut self.body, &mut self.fields, &mut self.front)?;
                    self.history.done(inverse, Weight::Encoded);
                } else if !same {
                    self.history = History::default();
                }
                (self.body, self.fields, self.front) = (body, fields, front);
                self.saved_revision = self.revision + 1;
                self.unsaved = None;
                self.changed.clone_from(&stamp);
                self.synced_with(baseline, stamp);
            }
            DocumentChange::Same { stamp } => {
                self.saved_revision += u64::from(!self.dirty());
                self.changed = stamp;
            }
            DocumentChange::Edit { step, stamp, weight } => {
                let inverse = step.apply(&mut self.body, &mut self.fields, &mut self.front)?;
                self.history.done(inverse, weight);
                self.change(stamp, has_file);
            }
            DocumentChange::Undo { stamp, weight } => {
                let step = self.history.take_done().ok_or_else(|| not_replayable("nothing to undo"))?;
                let inverse = step.apply(&mut self.body, &mut self.fields, &mut self.front)?;
                self.history.undone(inverse, weight);
                self.change(stamp, has_file);
            }
            DocumentChange::Redo { stamp, weight } => {
                let step = self.history.take_undone().ok_or_else(|| not_replayable("nothing to redo"))?;
                let inverse = step.apply(&mut self.body, &mut self.fields, &mut self.front)?;
                self.history.redone(inverse, weight);
                self.change(stamp, has_file);
            }
        }
        self.revision += 1;
        Ok(())
    }

    /// Whether there are changes that no file has.
    pub(super) fn dirty(&self) -> bool {
        self.revision != self.saved_revision || self.unsaved.is_some()
    }

    /// The session knows what the file is.
    fn synced_with(&mut self, baseline: Baseline, stamp: Option<Stamp>) {
        (self.baseline, self.synced) = (Some(Box::new(baseline)), stamp.map(Box::new));
        self.diverged = None;
        self.begun.clear();
    }

    fn change(&mut self, stamp: Option<Stamp>, has_file: bool) {
        if has_file && !self.dirty() {
            self.unsaved = stamp.clone().map(Box::new);
        }
        self.changed = stamp;
    }

    /// The file may have this from now on.
    fn begin_save(&mut self, save: Begun) {
        self.begun.retain(|begun| begun.digest != save.digest);
        // Of those before it is kept only whose they are: a front matter is large, and a snapshot must not be.
        self.begun.iter_mut().for_each(|before| before.save = None);
        self.begun.push(save);
        let over = self.begun.len().saturating_sub(BEGUN_MAX);
        self.begun.drain(..over);
    }

    pub(super) fn known(&self) -> Expected {
        Expected {
            baseline: self.baseline.as_ref().map(|baseline| baseline.digest.clone()),
            begun: self.begun.iter().map(|begun| begun.digest.clone()).collect(),
        }
    }
}
