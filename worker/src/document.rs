//! The built-in kind of session: a document with a body, fields, bounded undo and redo.
//!
//! Invariant: a change is a `Step`, which is exact: it replays to the same document, and has an inverse. Requests (whole
//! bodies, merge patches) become steps when they are decided.

mod file;
pub mod frontmatter;
mod history;
mod request;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_protocol::document::{Content, check_fields};
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::OpEvent;
use holdfast_protocol::record::SessionRecord;
use holdfast_protocol::reply::{Document as DocumentReply, Edited, Saved};
use holdfast_protocol::request::{Edit, Load, Save, Undo};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Limits, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::machine::{Ask, Change, Decision, Kind, Machine, Memory, Surroundings};
use file::{Baseline, File, Written};
use history::History;
use request::Body;
use step::Step;

/// Makes documents.
pub struct DocumentKind;

impl Kind for DocumentKind {
    fn create(&self, record: &SessionRecord, surroundings: Surroundings) -> Box<dyn Machine> {
        let file = File::of(record, surroundings.workspace).map(Box::new);
        Box::new(Document { id: record.id.clone(), limits: surroundings.limits, file, state: State::default() })
    }
}

/// A document.
pub struct Document {
    id: SessionId,
    limits: Arc<Limits>,
    file: Option<Box<File>>,
    state: State,
}

/// What a snapshot has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    body: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    fields: Map<String, Value>,
    revision: u64,
    /// The revision that the file has, or that the session began with.
    saved_revision: u64,
    /// The file as it was last read or written; `None`: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    baseline: Option<Baseline>,
    #[serde(default, skip_serializing_if = "History::is_empty")]
    history: History,
}

/// A change as it stands in the log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum DocumentChange {
    /// What the session begins with; revision 0.
    Begin {
        body: String,
        fields: Map<String, Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        baseline: Option<Baseline>,
    },
    /// The file, read again.
    Load { body: String, baseline: Baseline },
    /// The file has what the document has.
    Save { baseline: Baseline },
    /// A new change, which drops what could be redone.
    Edit { step: Step },
    /// The last change taken back.
    Undo,
    /// The last undone change made again.
    Redo,
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
        }
    }

    fn decide_edit(&self, edit: &Edit, ask: &Ask) -> Result<Decision, Error> {
        self.expect_revision(edit.expected_revision)?;
        let step = Step::of(edit, &self.state.body, &self.state.fields, &self.limits)?;
        let changed = step.changed();
        self.change(&DocumentChange::Edit { step }, "edited", changed, ask)
    }

    fn decide_undo(&self, undo: &Undo, ask: &Ask) -> Result<Decision, Error> {
        self.expect_revision(undo.expected_revision)?;
        let (step, change, kind) = match ask.verb {
            Verb::DocRedo => (self.state.history.last_undone(), DocumentChange::Redo, "redone"),
            _ => (self.state.history.last_done(), DocumentChange::Undo, "undone"),
        };
        let word = if ask.verb == Verb::DocRedo { "redo" } else { "undo" };
        let Some(step) = step else {
            return Err(Error::new(Reason::NothingToUndo, format!("session {} has nothing to {word}", self.id))
                .detail("session_id", self.id.as_str())
                .detail("revision", self.state.revision));
        };
        self.change(&change, kind, step.changed(), ask)
    }

    fn expect_revision(&self, expected: Option<u64>) -> Result<(), Error> {
        let revision = self.state.revision;
        match expected {
            Some(expected) if expected != revision => Err(Error::new(
                Reason::RevisionMismatch,
                format!("session {} is at revision {revision}, not {expected}", self.id),
            )
            .detail("session_id", self.id.as_str())
            .detail("expected_revision", expected)
            .detail("revision", revision)),
            _ => Ok(()),
        }
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

    fn file(&self) -> Result<&File, Error> {
        self.file.as_deref().ok_or_else(|| {
            Error::new(Reason::NoFile, format!("session {} has no file", self.id))
                .detail("session_id", self.id.as_str())
        })
    }

    async fn decide_load(&self, load: &Load, ask: &Ask) -> Result<Decision, Error> {
        let file = self.file()?;
        if self.dirty() && load.discard != Some(true) {
            let message = format!("session {} has changes that its file does not have", self.id);
            return Err(Error::new(Reason::UnsavedChanges, message)
                .detail("session_id", self.id.as_str())
                .detail("revision", self.state.revision));
        }
        let found = file.read(&self.limits).await?.ok_or_else(|| file.missing())?;
        let previous_revision = self.state.revision;
        let revision = previous_revision + 1;
        let changed = if found.text == self.state.body { Vec::new() } else { vec!["body".to_owned()] };
        let mut after = self.reply();
        (after.body, after.fields, after.revision, after.dirty) = (found.text.clone(), Map::new(), revision, false);
        let event = file.event("loaded", previous_revision, revision, changed, ask.actor.clone());
        let change = raw(&DocumentChange::Load { body: found.text, baseline: found.baseline });
        Ok(Decision::Change(Change { change, event: Some(event), reply: raw(&after), memory: Memory::Occurrence }))
    }

    async fn decide_save(&self, save: &Save, ask: &Ask) -> Result<Decision, Error> {
        let file = self.file()?;
        if !self.state.fields.is_empty() {
            // The file's front matter is the place of fields; until it is written, dropping them would be a loss.
            let message = "this version saves bodies only, and the document has fields";
            return Err(Error::new(Reason::BadFrontmatter, message).detail("session_id", self.id.as_str()));
        }
        let expected =
            if save.overwrite == Some(true) { Written::Anything } else { Written::Only(self.state.baseline.clone()) };
        let baseline = file.write(self.state.body.clone(), expected).await?;
        let revision = self.state.revision;
        let reply =
            Saved { session_id: self.id.clone(), revision, bytes: baseline.bytes, digest: baseline.digest.clone() };
        let event = file.event("saved", revision, revision, Vec::new(), ask.actor.clone());
        let change = raw(&DocumentChange::Save { baseline });
        Ok(Decision::Change(Change { change, event: Some(event), reply: raw(&reply), memory: Memory::Answer }))
    }

    fn make(&mut self, change: DocumentChange) -> Result<(), Error> {
        let state = &mut self.state;
        match change {
            DocumentChange::Begin { body, fields, baseline } => {
                state.body = body;
                state.fields = fields;
                state.baseline = baseline;
                return Ok(());
            }
            DocumentChange::Save { baseline } => {
                state.saved_revision = state.revision;
                state.baseline = Some(baseline);
                return Ok(());
            }
            DocumentChange::Load { body, baseline } => {
                state.history = History::default();
                state.body = body;
                state.fields = Map::new();
                state.saved_revision = state.revision + 1;
                state.baseline = Some(baseline);
            }
            DocumentChange::Edit { step } => {
                let inverse = step.apply(&mut state.body, &mut state.fields)?;
                state.history.done(inverse);
            }
            DocumentChange::Undo => {
                let step = state.history.take_done().ok_or_else(|| not_replayable("nothing to undo"))?;
                let inverse = step.apply(&mut state.body, &mut state.fields)?;
                state.history.undone(inverse);
            }
            DocumentChange::Redo => {
                let step = state.history.take_undone().ok_or_else(|| not_replayable("nothing to redo"))?;
                let inverse = step.apply(&mut state.body, &mut state.fields)?;
                state.history.redone(inverse);
            }
        }
        state.revision += 1;
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
            (Some(found), _) => {
                DocumentChange::Begin { body: found.text, fields: Map::new(), baseline: Some(found.baseline) }
            }
            (None, Some(content)) => {
                let fields = content.fields.clone().unwrap_or_default();
                check_fields(&fields, &self.limits)?;
                DocumentChange::Begin { body: content.body.clone().unwrap_or_default(), fields, baseline: None }
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

    fn has_unsaved_changes(&self) -> bool {
        self.file.is_some() && self.dirty()
    }
}
