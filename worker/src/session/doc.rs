//! The built-in kind of session: a document with a body, fields, bounded undo and redo.
//!
//! Invariant: a change is a `Step`, which is exact: it replays to the same document, and has an inverse. Requests (whole
//! bodies, merge patches) become steps when they are decided.

mod disk;
mod file;
mod front;
mod history;
mod request;
mod saving;
mod state;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_frontmatter::BYTE_ORDER_MARK;
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

use crate::machine::{Ask, Change, Decision, Effect, Kind, Machine, Memory, Noticed, Surroundings};
use file::File;
pub(crate) use file::{resolve, session_of};
use history::Weight;
use holdfast_store::chance;
use request::Body;
use state::{DocumentChange, Stamp, State};
use step::Step;

/// Makes documents.
pub struct DocumentKind;

impl Kind for DocumentKind {
    fn create(&self, record: &SessionRecord, surroundings: Surroundings) -> Box<dyn Machine> {
        let file = File::of(record, surroundings.workspace).map(Arc::new);
        Box::new(Document { id: record.id.clone(), limits: surroundings.limits, file, state: State::default() })
    }
}

/// A document.
pub struct Document {
    id: SessionId,
    limits: Arc<Limits>,
    file: Option<Arc<File>>,
    state: State,
}

impl Document {
    fn reply(&self) -> DocumentReply {
        DocumentReply {
            session_id: self.id.clone(),
            body: self.state.body.clone(),
            fields: self.state.fields.clone(),
            revision: self.state.revision,
            dirty: self.state.dirty(),
            path: self.file.as_ref().map(|file| file.path().to_owned()),
            workspace: self.file.as_ref().map(|file| file.workspace().to_owned()),
            diverged: self.state.diverged.is_some(),
        }
    }

    fn decide_edit(&self, edit: &Edit, ask: &Ask) -> Result<Decision, Error> {
        self.expect_revision(edit.expected_revision)?;
        let State { body, fields, front, .. } = &self.state;
        let mut step = Step::of(edit, body, fields, &self.limits)?;
        if self.file.is_some() {
            step = step.with_mark_in_front(body, fields, front)?;
        }
        let (changed, stamp, weight) = (step.changed(), Some(Stamp::of(ask)), Weight::Encoded);
        let change = match changed.is_empty() {
            true => DocumentChange::Same { stamp },
            false => DocumentChange::Edit { step, stamp, weight },
        };
        self.change(&change, "edited", changed, ask)
    }

    fn decide_undo(&self, undo: &Undo, ask: &Ask) -> Result<Decision, Error> {
        self.expect_revision(undo.expected_revision)?;
        let (stamp, weight) = (Some(Stamp::of(ask)), Weight::Encoded);
        let (step, change, kind) = match ask.verb {
            Verb::DocRedo => (self.state.history.last_undone(), DocumentChange::Redo { stamp, weight }, "redone"),
            _ => (self.state.history.last_done(), DocumentChange::Undo { stamp, weight }, "undone"),
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
        let dirty = self.state.dirty() || !matches!(change, DocumentChange::Same { .. });
        let reply = Edited { session_id: self.id.clone(), revision, previous_revision, dirty };
        let event = OpEvent {
            kind: kind.to_owned(),
            revision,
            previous_revision,
            changed,
            actor: ask.actor.clone(),
            path: self.file.as_ref().map(|file| file.path().to_owned()),
            error: None,
        };
        let reply = raw(&reply);
        Ok(Decision::Change(Change { change: raw(change), event: Some(event), reply, memory: Memory::Answer }))
    }
}

fn not_replayable(why: &str) -> Error {
    // An edit of the record repairs no log.
    Error::new(Reason::RecordInvalid, format!("a change in the log cannot be made: {why}")).advise(&[])
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
            Body::Save(_) => Err(Error::new(Reason::Bug, "a save is an effect")),
        }
    }

    fn effect(&self, ask: &Ask) -> Result<Effect, Error> {
        match ask.body.downcast_ref::<Body>() {
            Some(Body::Save(save)) => self.begin_save(save, ask),
            _ => Err(Error::new(Reason::Bug, "only a save is an effect")),
        }
    }

    async fn begin(&self, content: Option<&Content>) -> Result<Option<Change>, Error> {
        let found = match &self.file {
            Some(file) => file.read(&self.limits).await?,
            None => None,
        };
        let now = Some(Stamp { at: chance::now().to_string(), by: None });
        let change = match (found, content) {
            (Some(found), _) => DocumentChange::Begin {
                body: found.body,
                fields: found.fields,
                front: found.front,
                baseline: Some(found.baseline),
                stamp: now,
            },
            (None, Some(content)) => {
                let fields = content.fields.clone().unwrap_or_default();
                check_fields(&fields, &self.limits)?;
                let (mut body, mut front) = (content.body.clone().unwrap_or_default(), String::new());
                if self.file.is_some() && !fields.is_empty() && body.starts_with(BYTE_ORDER_MARK) {
                    body = body.trim_start_matches(BYTE_ORDER_MARK).to_owned();
                    front.push(BYTE_ORDER_MARK);
                }
                DocumentChange::Begin { body, fields, front, baseline: None, stamp: now }
            }
            // That there was no file is something to know, too.
            (None, None) if self.file.is_some() => DocumentChange::Begin {
                body: String::new(),
                fields: Map::new(),
                front: String::new(),
                baseline: None,
                stamp: now,
            },
            (None, None) => return Ok(None),
        };
        let reply = raw(&Map::<String, Value>::new());
        Ok(Some(Change { change: raw(&change), event: None, reply, memory: Memory::Answer }))
    }

    fn apply(&mut self, change: &RawValue) -> Result<(), Error> {
        let change = serde_json::from_str(change.get()).map_err(|error| not_replayable(&error.to_string()))?;
        self.state.make(change, self.file.is_some())
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
        (self.file.is_some() && self.state.dirty()).then(|| self.unsaved())
    }

    async fn look(&self) -> Option<Noticed> {
        self.look_at_disk().await
    }
}
