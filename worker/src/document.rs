//! The built-in kind of session: a document with a body, fields, bounded undo and redo.
//!
//! Invariant: a change is a `Step`, which is exact: it replays to the same document, and has an inverse. Requests (whole
//! bodies, merge patches) become steps when they are decided.

mod disk;
mod file;
pub mod frontmatter;
mod history;
mod request;
mod state;
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
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::machine::{Ask, Change, Decision, Kind, Machine, Memory, Surroundings};
use file::File;
#[cfg(feature = "failpoints")]
pub use file::STEPS as SAVE_STEPS;
pub(crate) use file::resolve;
use request::Body;
use state::{DocumentChange, Stamp, State};
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
        let is_in_step = matches!(change, DocumentChange::Save { .. } | DocumentChange::Load { .. });
        self.state.make(change, self.file.is_some())?;
        if is_in_step {
            self.diverged.store(false, Ordering::Relaxed);
        }
        Ok(())
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
