//! The built-in kind of session: a document with a body, fields, bounded undo and redo.
//!
//! Invariant: a change is a `Delta`, which is exact: it replays to the same document, and has an
//! inverse. Requests (whole bodies, merge patches) become deltas when they are decided, each in the file of its verb.

mod change;
mod delta;
mod disk;
mod edit;
mod file;
mod front;
mod get;
mod history;
mod load;
mod save;
mod splice;
mod state;
#[cfg(test)]
mod tests;
mod undo;

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_frontmatter::BYTE_ORDER_MARK;
use holdfast_protocol::document::{Content, check_fields};
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::OpEvent;
use holdfast_protocol::record::SessionRecord;
use holdfast_protocol::reply::Edited;
use holdfast_protocol::request::Request;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Limits, RequestId, SessionId};
use holdfast_store::chance;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::machine::{Access, Ask, Change, Decision, Effect, Kind, Machine, Memory, Noticed, Surroundings};
use change::{DocumentChange, Stamp};
use file::File;
pub(crate) use file::{resolve, session_of};
use history::Way;
use state::State;

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

    /// `refusal`, with the document's revision and who made it when.
    fn explain(&self, refusal: Error) -> Error {
        let changed = self.state.changed.as_ref();
        refusal
            .detail("session_id", self.id.as_str())
            .detail("revision", self.state.revision)
            .detail("changed_at", changed.map(|stamp| stamp.at.clone()))
            .detail("changed_by", changed.and_then(|stamp| stamp.by.clone()))
    }

    /// The decision to make `change`, which counts as a revision, and to answer as edits are answered.
    fn changed(&self, change: &DocumentChange, kind: &str, changed: Vec<String>, ask: &Ask) -> Decision {
        let previous_revision = self.state.revision;
        let revision = previous_revision + 1;
        let dirty = self.state.dirty() || !matches!(change, DocumentChange::Same { .. });
        let reply = raw(&Edited { session_id: self.id.clone(), revision, previous_revision, dirty });
        let event = event(kind, previous_revision, revision, self.file.as_deref());
        let event = Some(OpEvent { changed, actor: ask.actor.clone(), ..event });
        Decision::Change(Change { change: raw(change), event, reply, memory: Memory::Answer })
    }
}

/// A parsed request, whose body the verb's own function takes.
fn ask<R: Request + Send + Sync + 'static>(verb: Verb, access: Access, request: R) -> Result<Ask, Error> {
    let request_id = request.request_id().map(RequestId::parse).transpose()?;
    let actor = request.actor().map(str::to_owned);
    Ok(Ask { verb, access, request_id, actor, body: Box::new(request) })
}

fn body<R: 'static>(ask: &Ask) -> &R {
    ask.body.downcast_ref().expect("the ask was parsed by this machine, for this verb")
}

fn not_answered(verb: Verb) -> Error {
    Error::invalid(Reason::BadValue, format!("a document does not answer {verb}"))
}

/// What the signal of a change says, to which the caller adds what its verb knows.
fn event(kind: &str, previous_revision: u64, revision: u64, file: Option<&File>) -> OpEvent {
    let path = file.map(|file| file.path().to_owned());
    OpEvent {
        kind: kind.to_owned(),
        revision,
        previous_revision,
        changed: Vec::new(),
        actor: None,
        actor_proven: None,
        path,
        error: None,
    }
}

fn not_replayable(why: &str) -> Error {
    // No action on the record repairs a log.
    Error::new(Reason::RecordInvalid, format!("a change in the log cannot be made: {why}")).advise(&[])
}

fn raw<T: Serialize>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("documents are strings, numbers and JSON values")
}

#[async_trait]
impl Machine for Document {
    fn parse(&self, verb: Verb, payload: &[u8]) -> Result<Ask, Error> {
        match verb {
            Verb::DocGet => get::parse(payload, &self.limits),
            Verb::DocEdit => edit::parse(payload, &self.limits),
            Verb::DocUndo | Verb::DocRedo => undo::parse(verb, payload, &self.limits),
            Verb::DocLoad => load::parse(payload, &self.limits),
            Verb::DocSave => save::parse(payload, &self.limits),
            verb => Err(not_answered(verb)),
        }
    }

    async fn decide(&self, ask: &Ask) -> Result<Decision, Error> {
        match ask.verb {
            Verb::DocGet => Ok(Decision::Reply(raw(&self.get()))),
            Verb::DocEdit => self.edit(body(ask), ask),
            Verb::DocUndo => self.undo(Way::Undo, body(ask), ask),
            Verb::DocRedo => self.undo(Way::Redo, body(ask), ask),
            Verb::DocLoad => self.load(body(ask), ask).await,
            verb => Err(not_answered(verb)),
        }
    }

    async fn effect(&self, ask: &Ask) -> Result<Effect, Error> {
        match ask.verb {
            Verb::DocSave => self.save(body(ask), ask).await,
            verb => Err(not_answered(verb)),
        }
    }

    async fn begin(&self, content: Option<&Content>) -> Result<Option<Change>, Error> {
        let found = match &self.file {
            Some(file) => file.read(&self.limits).await?,
            None => None,
        };
        let stamp = Some(Stamp { at: chance::now().to_string(), by: None });
        let (body, fields, front, baseline) = match (found, content) {
            (Some(found), _) => (found.body, found.fields, found.front, Some(found.baseline)),
            (None, Some(content)) => {
                let fields = content.fields.clone().unwrap_or_default();
                check_fields(&fields, &self.limits)?;
                let (mut body, mut front) = (content.body.clone().unwrap_or_default(), String::new());
                if self.file.is_some() && !fields.is_empty() && body.starts_with(BYTE_ORDER_MARK) {
                    body = body.trim_start_matches(BYTE_ORDER_MARK).to_owned();
                    front.push(BYTE_ORDER_MARK);
                }
                (body, fields, front, None)
            }
            // The log records that there was no file.
            (None, None) if self.file.is_some() => Default::default(),
            (None, None) => return Ok(None),
        };
        let change = raw(&DocumentChange::Begin { body, fields, front, baseline, stamp });
        let reply = raw(&Map::<String, Value>::new());
        Ok(Some(Change { change, event: None, reply, memory: Memory::Answer }))
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
        raw(&self.get())
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
