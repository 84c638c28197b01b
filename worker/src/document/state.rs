//! What a document is, and the changes that make it so.
//!
//! Law: the same changes in the same order make the same state.

use holdfast_protocol::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::file::{Baseline, Known};
use super::history::History;
use super::step::Step;
use super::{disk, not_replayable};
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
        Self { at: jiff::Timestamp::now().to_string(), by: ask.actor.clone() }
    }
}

/// What a snapshot has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) body: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) fields: Map<String, Value>,
    /// The file's front matter as text, since a save keeps of it what did not change.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) front: String,
    pub(super) revision: u64,
    /// The revision that the file has, or that the session began with.
    pub(super) saved_revision: u64,
    /// The file as it was last read or written; `None`: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) baseline: Option<Baseline>,
    /// When and by whom that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) synced: Option<Stamp>,
    /// Digests of saves that were begun since, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) begun: Vec<String>,
    /// The first change that no file has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unsaved: Option<Stamp>,
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
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        fields: Map<String, Value>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        front: String,
        baseline: Baseline,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
    },
    /// The file is about to have this. Whether it came to that, only the file knows.
    Saving { digest: String },
    /// The file has what the document has.
    Save {
        baseline: Baseline,
        /// The front matter, where it is another than before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        front: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
    },
    /// A new change, which drops what could be redone.
    Edit {
        step: Step,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
    },
    /// The last change taken back.
    Undo {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
    },
    /// The last undone change made again.
    Redo {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<Stamp>,
    },
}

impl State {
    /// Makes a change of the session, which has a file or none.
    pub(super) fn make(&mut self, change: DocumentChange, has_file: bool) -> Result<(), Error> {
        match change {
            DocumentChange::Begin { body, fields, front, baseline, stamp } => {
                (self.body, self.fields, self.front) = (body, fields, front);
                (self.baseline, self.synced) = (baseline, stamp);
                return Ok(());
            }
            DocumentChange::Saving { digest } => {
                self.begin_save(digest);
                return Ok(());
            }
            DocumentChange::Save { baseline, front, stamp } => {
                self.saved_revision = self.revision;
                if let Some(front) = front {
                    self.front = front;
                }
                self.synced_with(baseline, stamp);
                return Ok(());
            }
            DocumentChange::Load { body, fields, front, baseline, stamp } => {
                self.history = History::default();
                (self.body, self.fields, self.front) = (body, fields, front);
                self.saved_revision = self.revision + 1;
                self.changed.clone_from(&stamp);
                self.synced_with(baseline, stamp);
            }
            DocumentChange::Edit { step, stamp } => {
                let inverse = step.apply(&mut self.body, &mut self.fields)?;
                self.history.done(inverse);
                self.change(stamp, has_file);
            }
            DocumentChange::Undo { stamp } => {
                let step = self.history.take_done().ok_or_else(|| not_replayable("nothing to undo"))?;
                let inverse = step.apply(&mut self.body, &mut self.fields)?;
                self.history.undone(inverse);
                self.change(stamp, has_file);
            }
            DocumentChange::Redo { stamp } => {
                let step = self.history.take_undone().ok_or_else(|| not_replayable("nothing to redo"))?;
                let inverse = step.apply(&mut self.body, &mut self.fields)?;
                self.history.redone(inverse);
                self.change(stamp, has_file);
            }
        }
        self.revision += 1;
        Ok(())
    }

    /// File and document are the same.
    fn synced_with(&mut self, baseline: Baseline, stamp: Option<Stamp>) {
        (self.baseline, self.synced) = (Some(baseline), stamp);
        self.unsaved = None;
        self.begun.clear();
    }

    fn change(&mut self, stamp: Option<Stamp>, has_file: bool) {
        if has_file && self.revision == self.saved_revision {
            self.unsaved.clone_from(&stamp);
        }
        self.changed = stamp;
    }

    /// The file may have this from now on.
    fn begin_save(&mut self, digest: String) {
        self.begun.retain(|begun| *begun != digest);
        self.begun.push(digest);
        let over = self.begun.len().saturating_sub(disk::BEGUN_MAX);
        self.begun.drain(..over);
    }

    pub(super) fn known(&self) -> Known {
        Known { baseline: self.baseline.clone(), begun: self.begun.clone() }
    }
}
