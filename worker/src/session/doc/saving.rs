//! A save of a document: its content, its steps and its outcome.
//!
//! Invariant: a save overwrites another program's change only when the request says so. The log has the digest of the
//! new file before the file is in its place.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_files::{Baseline, Over, Placed, Prepared};
use holdfast_frontmatter::{join, split};
use holdfast_protocol::error::Reason;
use holdfast_protocol::reply::Saved;
use holdfast_protocol::request::Save;
use holdfast_protocol::{Error, Limits, RequestId, SessionId};
use holdfast_store::chance;

use super::disk::Standpoint;
use super::file::File;
use super::state::{Begun, BegunSave};
use super::{Document, DocumentChange, Stamp, front, raw};
use crate::machine::{Ask, Change, Effect, Memory, Unfinished, Work};

impl Document {
    /// The content of a save, and the intent that the log must have before it.
    pub(super) fn begin_save(&self, save: &Save, ask: &Ask) -> Result<Effect, Error> {
        let file = self.file()?.clone();
        file.writable()?;
        let state = &self.state;
        let front = self.front_to_save().map_err(|error| file.describe(error))?;
        let text = join(&front, &state.body);
        let baseline = Baseline::of(text.as_bytes());
        let front = (front != state.front).then_some(front);
        let request_id = ask.request_id.clone().unwrap_or_else(|| RequestId::made(chance::id()));
        let (bytes, revision, stamp) = (baseline.bytes, state.revision, Stamp::of(ask));
        let begun = BegunSave { bytes, revision, front, request_id, stamp };
        let intent = DocumentChange::Saving(Begun { digest: baseline.digest.clone(), save: Some(begun.clone()) });
        let nothing = DocumentChange::NotSaved { digest: baseline.digest.clone() };
        let over = if save.overwrite == Some(true) { Over::Anything } else { Over::Expected(state.known()) };
        let known = Standpoint::of(self);
        let work =
            Saving { file, limits: self.limits.clone(), known, begun, stage: Stage::Begun { text, baseline, over } };
        Ok(Effect { intent: raw(&intent), nothing: raw(&nothing), work: Box::new(work) })
    }

    /// The front matter of the new file. A document without fields whose body begins with front matter is written as it
    /// is, and the next load reads that as fields; so it must parse.
    fn front_to_save(&self) -> Result<String, Error> {
        let state = &self.state;
        let front = front::rewrite(&state.front, &state.fields, &state.body, &self.limits)?;
        if front.is_empty() {
            front::read(split(&state.body).front, &self.limits)?;
        }
        Ok(front)
    }
}

/// A save in progress.
struct Saving {
    file: Arc<File>,
    limits: Arc<Limits>,
    known: Standpoint,
    begun: BegunSave,
    stage: Stage,
}

/// The stage of a save.
enum Stage {
    Begun {
        text: String,
        baseline: Baseline,
        over: Over,
    },
    Prepared(Prepared),
    /// It was finished or refused.
    Over,
}

#[async_trait]
impl Work for Saving {
    async fn prepare(&mut self) -> Result<(), Error> {
        let Stage::Begun { text, baseline, over } = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Err(Error::new(Reason::Bug, "a save can be prepared only once"));
        };
        self.stage = Stage::Prepared(self.file.prepare(text, baseline, over, &self.known, &self.limits).await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Change, Unfinished> {
        let Stage::Prepared(prepared) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Err(Unfinished::Refused(Error::new(
                Reason::Bug,
                "a save can be finished only once, after it was prepared",
            )));
        };
        let placed = self.file.finish(prepared, &self.known).await?;
        Ok(saved(&self.file, &self.known.session, &self.begun, placed))
    }
}

/// The change that tells the log of a finished save.
pub(super) fn saved(file: &File, session: &SessionId, save: &BegunSave, placed: Placed) -> Change {
    let Placed { baseline, links_cut } = placed;
    let BegunSave { revision, front, stamp, .. } = save.clone();
    let (bytes, digest) = (baseline.bytes, baseline.digest.clone());
    let reply = raw(&Saved { session_id: session.clone(), revision, bytes, digest, links_cut });
    let event = file.event("saved", revision, revision, Vec::new(), stamp.by.clone());
    let change = raw(&DocumentChange::Save { baseline, revision: Some(revision), front, stamp: Some(stamp) });
    Change { change, event: Some(event), reply, memory: Memory::Answer }
}
