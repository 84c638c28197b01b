//! The built-in kind of session: a document with a body, fields, bounded undo and redo.
//!
//! Invariant: a change is a `Step`, which is exact: it replays to the same document, and has an inverse. Requests (whole
//! bodies, merge patches) become steps when they are decided.

mod disk;
mod file;
pub mod frontmatter;
mod history;
mod request;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use holdfast_protocol::document::{Content, check_fields};
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::OpEvent;
use holdfast_protocol::record::SessionRecord;
use holdfast_protocol::reply::{Document as DocumentReply, Edited};
use holdfast_protocol::request::{Edit, Undo};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Limits, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::machine::{Ask, Change, Decision, Kind, Machine, Memory, Surroundings};
#[cfg(feature = "failpoints")]
pub use file::STEPS as SAVE_STEPS;
pub(crate) use file::resolve;
use file::{Baseline, File, Known};
use history::History;
use request::Body;
use step::Step;

/// Makes documents.
pub struct DocumentKind;

impl Kind for DocumentKind {
    fn create(&self, record: &SessionRecord, surroundings: Surroundings) -> Box<dyn Machine> {
        let file = File::of(record, surroundings.workspace).map(Box::new);
        Box::new(Document {
            id: record.id.clone(),
            limits: surroundings.limits,
            file,
            state: State::default(),
            diverged: AtomicBool::new(false),
        })
    }
}

/// A document.
pub struct Document {
    id: SessionId,
    limits: Arc<Limits>,
    file: Option<Box<File>>,
    state: State,
    /// Whether the file was something else when it was last looked at. Not part of the state: it is about the disk.
    diverged: AtomicBool,
}

/// When something was done, by the worker's clock, and by whom. For people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

impl Stamp {
    fn of(ask: &Ask) -> Self {
        Self { at: jiff::Timestamp::now().to_string(), by: ask.actor.clone() }
    }
}

/// What a snapshot has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    body: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    fields: Map<String, Value>,
    /// The file's front matter as text, since a save keeps of it what did not change.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    front: String,
    revision: u64,
    /// The revision that the file has, or that the session began with.
    saved_revision: u64,
    /// The file as it was last read or written; `None`: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    baseline: Option<Baseline>,
    /// When and by whom that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    synced: Option<Stamp>,
    /// Digests of saves that were begun since, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    begun: Vec<String>,
    /// The first change that no file has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unsaved: Option<Stamp>,
    /// The last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changed: Option<Stamp>,
    #[serde(default, skip_serializing_if = "History::is_empty")]
    history: History,
}

/// A change as it stands in the log. Members that were not always there may be missing.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum DocumentChange {
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

impl Document {
    fn dirty(&self) -> bool {
        self.state.revision != self.state.saved_revision
    }

    fn reply(&self) -> DocumentReply {
        DocumentReply {
            session_id: self.id.clone(),
            body: self.state.body.clone(),
            fields: self.state.fields.clone(),
            revision: self.state.revision,
            dirty: self.dirty(),
            path: self.file.as_ref().map(|file| file.path().to_owned()),
            workspace: self.file.as_ref().map(|file| file.workspace().to_owned()),
            diverged: self.diverged.load(Ordering::Relaxed),
        }
    }

    fn decide_edit(&self, edit: &Edit, ask: &Ask) -> Result<Decision, Error> {
        self.expect_revision(edit.expected_revision)?;
        let step = Step::of(edit, &self.state.body, &self.state.fields, &self.limits)?;
        let changed = step.changed();
        self.change(&DocumentChange::Edit { step, stamp: Some(Stamp::of(ask)) }, "edited", changed, ask)
    }

    fn decide_undo(&self, undo: &Undo, ask: &Ask) -> Result<Decision, Error> {
        self.expect_revision(undo.expected_revision)?;
        let stamp = Some(Stamp::of(ask));
        let (step, change, kind) = match ask.verb {
            Verb::DocRedo => (self.state.history.last_undone(), DocumentChange::Redo { stamp }, "redone"),
            _ => (self.state.history.last_done(), DocumentChange::Undo { stamp }, "undone"),
        };
        let word = if ask.verb == Verb::DocRedo { "redo" } else { "undo" };
        let Some(step) = step else {
            let message = format!("session {} has nothing to {word}", self.id);
            return Err(self.explain(Error::new(Reason::NothingToUndo, message)));
        };
        self.change(&change, kind, step.changed(), ask)
    }

    fn expect_revision(&self, expected: Option<u64>) -> Result<(), Error> {
        let revision = self.state.revision;
        match expected {
            Some(expected) if expected != revision => {
                let since =
                    self.state.changed.as_ref().map(|stamp| format!(", since {}", stamp.at)).unwrap_or_default();
                let message = format!("session {} is at revision {revision}{since}, not {expected}", self.id);
                Err(self.explain(Error::new(Reason::RevisionMismatch, message)).detail("expected_revision", expected))
            }
            _ => Ok(()),
        }
    }

    /// `refusal`, with what the document is at, since when, and by whom.
    fn explain(&self, refusal: Error) -> Error {
        let changed = self.state.changed.as_ref();
        refusal
            .detail("session_id", self.id.as_str())
            .detail("revision", self.state.revision)
            .detail("changed_at", changed.map(|stamp| stamp.at.clone()))
            .detail("changed_by", changed.and_then(|stamp| stamp.by.clone()))
    }

    fn change(&self, change: &DocumentChange, kind: &str, changed: Vec<String>, ask: &Ask) -> Result<Decision, Error> {
        let previous_revision = self.state.revision;
        let revision = previous_revision + 1;
        let reply = Edited { session_id: self.id.clone(), revision, previous_revision, dirty: true };
        let event = OpEvent {
            kind: kind.to_owned(),
            revision,
            previous_revision,
            changed,
            actor: ask.actor.clone(),
            path: self.file.as_ref().map(|file| file.path().to_owned()),
        };
        let reply = raw(&reply);
        Ok(Decision::Change(Change { change: raw(change), event: Some(event), reply, memory: Memory::Answer }))
    }

    fn make(&mut self, change: DocumentChange) -> Result<(), Error> {
        let has_file = self.file.is_some();
        let state = &mut self.state;
        match change {
            DocumentChange::Begin { body, fields, front, baseline, stamp } => {
                (state.body, state.fields, state.front) = (body, fields, front);
                (state.baseline, state.synced) = (baseline, stamp);
                return Ok(());
            }
            DocumentChange::Saving { digest } => {
                state.begin_save(digest);
                return Ok(());
            }
            DocumentChange::Save { baseline, front, stamp } => {
                state.saved_revision = state.revision;
                if let Some(front) = front {
                    state.front = front;
                }
                state.synced_with(baseline, stamp);
                self.diverged.store(false, Ordering::Relaxed);
                return Ok(());
            }
            DocumentChange::Load { body, fields, front, baseline, stamp } => {
                state.history = History::default();
                (state.body, state.fields, state.front) = (body, fields, front);
                state.saved_revision = state.revision + 1;
                state.changed.clone_from(&stamp);
                state.synced_with(baseline, stamp);
                self.diverged.store(false, Ordering::Relaxed);
            }
            DocumentChange::Edit { step, stamp } => {
                let inverse = step.apply(&mut state.body, &mut state.fields)?;
                state.history.done(inverse);
                state.change(stamp, has_file);
            }
            DocumentChange::Undo { stamp } => {
                let step = state.history.take_done().ok_or_else(|| not_replayable("nothing to undo"))?;
                let inverse = step.apply(&mut state.body, &mut state.fields)?;
                state.history.undone(inverse);
                state.change(stamp, has_file);
            }
            DocumentChange::Redo { stamp } => {
                let step = state.history.take_undone().ok_or_else(|| not_replayable("nothing to redo"))?;
                let inverse = step.apply(&mut state.body, &mut state.fields)?;
                state.history.redone(inverse);
                state.change(stamp, has_file);
            }
        }
        state.revision += 1;
        Ok(())
    }
}

impl State {
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

    fn known(&self) -> Known {
        Known { baseline: self.baseline.clone(), begun: self.begun.clone() }
    }
}

fn not_replayable(why: &str) -> Error {
    Error::new(Reason::RecordInvalid, format!("a change in the log cannot be made: {why}"))
}

fn raw<T: Serialize>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("documents are strings, numbers and JSON values")
}

#[async_trait]
impl Machine for Document {
    fn parse(&self, verb: Verb, payload: &[u8]) -> Result<Ask, Error> {
        request::parse(verb, payload, &self.limits)
    }

    async fn decide(&self, ask: &Ask) -> Result<Decision, Error> {
        let body = ask.body.downcast_ref::<Body>().expect("the ask was parsed by this machine");
        match body {
            Body::Get => Ok(Decision::Reply(raw(&self.reply()))),
            Body::Edit(edit) => self.decide_edit(edit, ask),
            Body::Undo(undo) => self.decide_undo(undo, ask),
            Body::Load(load) => self.decide_load(load, ask).await,
            Body::Save(save) => self.decide_save(save, ask).await,
        }
    }

    async fn begin(&self, content: Option<&Content>) -> Result<Option<Change>, Error> {
        let found = match &self.file {
            Some(file) => file.read(&self.limits).await?,
            None => None,
        };
        let change = match (found, content) {
            (Some(found), _) => DocumentChange::Begin {
                body: found.body,
                fields: found.fields,
                front: found.front,
                baseline: Some(found.baseline),
                stamp: Some(Stamp { at: jiff::Timestamp::now().to_string(), by: None }),
            },
            (None, Some(content)) => {
                let fields = content.fields.clone().unwrap_or_default();
                check_fields(&fields, &self.limits)?;
                DocumentChange::Begin {
                    body: content.body.clone().unwrap_or_default(),
                    fields,
                    front: String::new(),
                    baseline: None,
                    stamp: None,
                }
            }
            (None, None) => return Ok(None),
        };
        let reply = raw(&Map::<String, Value>::new());
        Ok(Some(Change { change: raw(&change), event: None, reply, memory: Memory::Answer }))
    }

    fn apply(&mut self, change: &RawValue) -> Result<(), Error> {
        let change = serde_json::from_str(change.get()).map_err(|error| not_replayable(&error.to_string()))?;
        self.make(change)
    }

    fn snapshot(&self) -> Box<RawValue> {
        raw(&self.state)
    }

    fn restore(&mut self, state: &RawValue) -> Result<(), Error> {
        self.state = serde_json::from_str(state.get()).map_err(|error| not_replayable(&error.to_string()))?;
        Ok(())
    }

    fn view(&self) -> Box<RawValue> {
        raw(&self.reply())
    }

    fn revision(&self) -> u64 {
        self.state.revision
    }

    fn unsaved_changes(&self) -> Option<Error> {
        (self.file.is_some() && self.dirty()).then(|| self.unsaved())
    }

    async fn intent(&self, payload: &[u8]) -> Option<Box<RawValue>> {
        self.intended_save(payload).map(|change| raw(&change))
    }

    async fn look(&self) {
        self.look_at_disk().await;
    }
}
