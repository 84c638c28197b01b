//! A save: what is written, in which steps, and what comes of it.
//!
//! Invariant: what somebody else wrote is not written over unless the request says so. The log is told what the file will be
//! before the file is that.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_protocol::error::Reason;
use holdfast_protocol::reply::Saved;
use holdfast_protocol::request::Save;
use holdfast_protocol::{Error, Limits, RequestId, SessionId};
use uuid::Uuid;

use super::disk::Standpoint;
use super::file::{Baseline, File, Finished, Over, Placed, Prepared, Written};
use super::state::{Begun, BegunSave};
use super::{Document, DocumentChange, Stamp, frontmatter, raw};
use crate::machine::{Ask, Change, Effect, Memory, Unfinished, Work};

impl Document {
    /// What a save writes, and what the log is to have before.
    pub(super) fn begin_save(&self, save: &Save, ask: &Ask) -> Result<Effect, Error> {
        let file = self.file()?.clone();
        file.writable()?;
        let state = &self.state;
        let front = self.front_to_save().map_err(|error| file.describe(error))?;
        let text = frontmatter::join(&front, &state.body);
        let baseline = Baseline::of(text.as_bytes());
        let front = (front != state.front).then_some(front);
        let request_id = ask.request_id.clone().unwrap_or_else(|| RequestId::made(Uuid::now_v7()));
        let (bytes, revision, stamp) = (baseline.bytes, state.revision, Stamp::of(ask));
        let begun = BegunSave { bytes, revision, front, request_id, stamp };
        let intent = DocumentChange::Saving(Begun { digest: baseline.digest.clone(), save: Some(begun.clone()) });
        let nothing = DocumentChange::NotSaved { digest: baseline.digest.clone() };
        let over = if save.overwrite == Some(true) { Over::Anything } else { Over::Known(state.known()) };
        let known = Standpoint::of(self);
        let work =
            Saving { file, limits: self.limits.clone(), known, begun, step: Step::Begun { text, baseline, over } };
        Ok(Effect { intent: raw(&intent), nothing: raw(&nothing), work: Box::new(work) })
    }

    /// The front matter of the file to be. A body that begins with one of its own is written as it stands, and read as
    /// fields when the file is read again; so it must be one that can be read.
    fn front_to_save(&self) -> Result<String, Error> {
        let state = &self.state;
        let front = frontmatter::rewrite(&state.front, &state.fields, &state.body, &self.limits)?;
        if front.is_empty() {
            frontmatter::read(frontmatter::split(&state.body).front, &self.limits)?;
        }
        Ok(front)
    }
}

/// A save on its way.
struct Saving {
    file: Arc<File>,
    limits: Arc<Limits>,
    known: Standpoint,
    begun: BegunSave,
    step: Step,
}

/// How far it is.
enum Step {
    Begun {
        text: String,
        baseline: Baseline,
        over: Over,
    },
    Prepared(Prepared),
    /// It cannot go on.
    Over,
}

impl Saving {
    fn go_on<T>(&self, written: Written<T>) -> Result<T, Error> {
        match written {
            Written::Done(done) => Ok(done),
            Written::Diverged(found) => Err(self.known.diverged(&self.file, &found)),
        }
    }
}

#[async_trait]
impl Work for Saving {
    async fn prepare(&mut self) -> Result<(), Error> {
        let Step::Begun { text, baseline, over } = std::mem::replace(&mut self.step, Step::Over) else {
            return Err(Error::new(Reason::Bug, "a save is prepared once"));
        };
        let written = self.file.prepare(text, baseline, over, &self.limits).await?;
        self.step = Step::Prepared(self.go_on(written)?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Change, Unfinished> {
        let Step::Prepared(prepared) = std::mem::replace(&mut self.step, Step::Over) else {
            return Err(Unfinished::Refused(Error::new(Reason::Bug, "a save is finished once it is prepared")));
        };
        let placed = match self.file.finish(prepared).await.map_err(Unfinished::Refused)? {
            Finished::Known(written) => self.go_on(written).map_err(Unfinished::Refused)?,
            Finished::Unsure(error) => return Err(Unfinished::Unsure(error)),
        };
        Ok(saved(&self.file, &self.known.session, &self.begun, placed))
    }
}

/// That the file has what was to be saved.
pub(super) fn saved(file: &File, session: &SessionId, save: &BegunSave, placed: Placed) -> Change {
    let Placed { baseline, links_cut } = placed;
    let BegunSave { revision, front, stamp, .. } = save.clone();
    let (bytes, digest) = (baseline.bytes, baseline.digest.clone());
    let reply = raw(&Saved { session_id: session.clone(), revision, bytes, digest, links_cut });
    let event = file.event("saved", revision, revision, Vec::new(), stamp.by.clone());
    let change = raw(&DocumentChange::Save { baseline, revision: Some(revision), front, stamp: Some(stamp) });
    Change { change, event: Some(event), reply, memory: Memory::Answer }
}
