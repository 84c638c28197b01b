//! The state of a document, and what each change makes of it.
//!
//! Law: the same changes in the same order make the same state.

use holdfast_files::{Baseline, Expected};
use holdfast_protocol::{Error, json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::{Begun, DocumentChange, Stamp};
use super::delta::Delta;
use super::history::{History, Way, Weight};
use super::not_replayable;

/// How many begun saves are remembered. More are forgotten, the oldest first.
const BEGUN_MAX: usize = 16;

/// The state, as a snapshot has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) body: String,
    #[serde(default, skip_serializing_if = "Map::is_empty", deserialize_with = "json::map")]
    pub(super) fields: Map<String, Value>,
    /// The file's front matter as text: a save keeps the parts that did not change.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) front: String,
    pub(super) revision: u64,
    /// The revision that the file has, or that the session began with.
    pub(super) saved_revision: u64,
    /// The file as it was last read or written; `None`: there was none. Boxed, as all that only sessions with files
    /// have: most sessions in memory are idle and have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) baseline: Option<Box<Baseline>>,
    /// When and by whom it was read or written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) synced: Option<Box<Stamp>>,
    /// Saves begun since, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) begun: Vec<Begun>,
    /// Since when the file is known to differ.
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

impl State {
    /// Makes a change of a session with or without a file.
    pub(super) fn make(&mut self, change: DocumentChange, has_file: bool) -> Result<(), Error> {
        match change {
            DocumentChange::Begin { body, fields, front, baseline, stamp } => {
                (self.body, self.fields, self.front) = (body, fields, front);
                // The content that the opener gave is not in the file yet.
                if has_file && baseline.is_none() && !(self.body.is_empty() && self.fields.is_empty()) {
                    self.unsaved = stamp.clone().map(Box::new);
                }
                (self.baseline, self.synced) = (baseline.map(Box::new), stamp.map(Box::new));
            }
            DocumentChange::Saving(begun) => self.begin_save(begun),
            DocumentChange::NotSaved { digest } => {
                // The digest stays: another attempt at the same text may still be under way.
                self.begun.iter_mut().filter(|begun| begun.digest == digest).for_each(|begun| begun.save = None);
            }
            DocumentChange::Diverged { at } => self.diverged = Some(at),
            DocumentChange::Converged {} => self.diverged = None,
            DocumentChange::Save { baseline, revision, front, stamp } => {
                self.saved_revision = revision.unwrap_or(self.revision);
                if self.saved_revision == self.revision {
                    self.unsaved = None;
                }
                if let Some(front) = front {
                    self.front = front;
                }
                self.synced_with(baseline, stamp);
            }
            DocumentChange::Load { body, fields, front, baseline, stamp, same, delta } => {
                if let Some(delta) = delta {
                    let inverse = self.apply(&delta)?;
                    self.history.record(inverse, Weight::Encoded);
                } else if !same {
                    self.history = History::default();
                }
                (self.body, self.fields, self.front) = (body, fields, front);
                self.advance(stamp.clone());
                (self.saved_revision, self.unsaved) = (self.revision, None);
                self.synced_with(baseline, stamp);
            }
            DocumentChange::Same { stamp } => {
                self.saved_revision += u64::from(!self.dirty());
                self.advance(stamp);
            }
            DocumentChange::Edit { delta, stamp, weight } => {
                let inverse = self.apply(&delta)?;
                self.history.record(inverse, weight);
                self.advance_unsaved(stamp, has_file);
            }
            DocumentChange::Undo { stamp, weight } => self.go(Way::Undo, stamp, weight, has_file)?,
            DocumentChange::Redo { stamp, weight } => self.go(Way::Redo, stamp, weight, has_file)?,
        }
        Ok(())
    }

    /// Undoes or redoes.
    fn go(&mut self, way: Way, stamp: Option<Stamp>, weight: Weight, has_file: bool) -> Result<(), Error> {
        let delta = self.history.pop(way).ok_or_else(|| not_replayable("there is none to undo or redo"))?;
        let inverse = self.apply(&delta)?;
        self.history.push(way.opposite(), inverse, weight);
        self.advance_unsaved(stamp, has_file);
        Ok(())
    }

    /// Applies `delta` and returns its inverse.
    fn apply(&mut self, delta: &Delta) -> Result<Delta, Error> {
        delta.apply(&mut self.body, &mut self.fields, &mut self.front)
    }

    /// Whether there are changes that no file has.
    pub(super) fn dirty(&self) -> bool {
        self.revision != self.saved_revision || self.unsaved.is_some()
    }

    /// The file was read or written and has this.
    fn synced_with(&mut self, baseline: Baseline, stamp: Option<Stamp>) {
        (self.baseline, self.synced) = (Some(Box::new(baseline)), stamp.map(Box::new));
        self.diverged = None;
        self.begun.clear();
    }

    /// The next revision, which the file does not have.
    fn advance_unsaved(&mut self, stamp: Option<Stamp>, has_file: bool) {
        if has_file && !self.dirty() {
            self.unsaved = stamp.clone().map(Box::new);
        }
        self.advance(stamp);
    }

    fn advance(&mut self, stamp: Option<Stamp>) {
        self.revision += 1;
        self.changed = stamp;
    }

    /// From now on the file may have the text of `save`.
    fn begin_save(&mut self, save: Begun) {
        self.begun.retain(|begun| begun.digest != save.digest);
        // Of earlier saves only the digests are kept: a front matter is large, and a snapshot must not be.
        self.begun.iter_mut().for_each(|before| before.save = None);
        self.begun.push(save);
        let over = self.begun.len().saturating_sub(BEGUN_MAX);
        self.begun.drain(..over);
    }

    /// What the session expects at its file's path.
    pub(super) fn known(&self) -> Expected {
        Expected {
            baseline: self.baseline.as_ref().map(|baseline| baseline.digest.clone()),
            begun: self.begun.iter().map(|begun| begun.digest.clone()).collect(),
        }
    }
}
