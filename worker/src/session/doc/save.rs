//! `doc.save`: the content of the file, the stages of writing it, and the outcome. How the log hears of it is
//! `session/effect.rs`.
//!
//! Invariant: a save overwrites another program's change only when the request says so. The log has the digest of the
//! new file before the file is in its place.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_files::{Baseline, Over, Placed, Prepared};
use holdfast_frontmatter::{join, split};
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::OpEvent;
use holdfast_protocol::reply::Saved;
use holdfast_protocol::request::{self, Save};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Limits, RequestId};
use holdfast_store::chance;
use serde_json::{Map, Value};

use super::change::{Begun, BegunSave, DocumentChange, Stamp};
use super::disk::Standpoint;
use super::file::File;
use super::{Document, ask, event, front, raw};
use crate::machine::{Access, Ask, Change, Effect, Memory, Unfinished, Work};

pub(super) fn parse(payload: &[u8], limits: &Limits) -> Result<Ask, Error> {
    let save: Save = request::parse(payload, limits)?;
    ask(Verb::DocSave, Access::Write { token: save.token.clone() }, save)
}

impl Document {
    /// The content of a save, and the intent that the log must have before it.
    pub(super) async fn save(&self, save: &Save, ask: &Ask) -> Result<Effect, Error> {
        let file = self.file()?.clone();
        file.writable()?;
        let (state, limits) = (&self.state, self.limits.clone());
        let (front, fields, body) = (state.front.clone(), state.fields.clone(), state.body.clone());
        let (front, text) = file
            .work(move || {
                let front = front_to_save(&front, &fields, &body, &limits)?;
                let text = join(&front, &body);
                Ok((front, text))
            })
            .await?;
        let baseline = Baseline::of(text.as_bytes());
        let front = (front != state.front).then_some(front);
        let request_id = ask.request_id.clone().unwrap_or_else(|| RequestId::made(chance::id()));
        let (bytes, revision, stamp) = (baseline.bytes, state.revision, Stamp::of(ask));
        let begun = BegunSave { bytes, revision, front, request_id, stamp };
        let intent = DocumentChange::Saving(Begun { digest: baseline.digest.clone(), save: Some(begun.clone()) });
        let nothing = DocumentChange::NotSaved { digest: baseline.digest.clone() };
        let over = if save.overwrite == Some(true) { Over::Anything } else { Over::Expected(state.known()) };
        let (limits, known) = (self.limits.clone(), Standpoint::of(self));
        let work = Saving { file, limits, known, begun, stage: Stage::Begun { text, baseline, over } };
        Ok(Effect { intent: raw(&intent), nothing: raw(&nothing), work: Box::new(work) })
    }
}

/// The front matter of the new file. A document without fields whose body begins with front matter is written as it is,
/// and the next load reads that as fields; so it must parse.
fn front_to_save(front: &str, fields: &Map<String, Value>, body: &str, limits: &Limits) -> Result<String, Error> {
    let front = front::rewrite(front, fields, body, limits)?;
    if front.is_empty() {
        front::read(split(body).front, limits)?;
    }
    Ok(front)
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
        Ok(saved(&self.file, &self.begun, placed))
    }
}

/// The change that tells the log of a finished save.
pub(super) fn saved(file: &File, save: &BegunSave, placed: Placed) -> Change {
    let Placed { baseline, links_cut } = placed;
    let BegunSave { revision, front, stamp, .. } = save.clone();
    let (session_id, bytes, digest) = (file.session().clone(), baseline.bytes, baseline.digest.clone());
    let reply = raw(&Saved { session_id, revision, bytes, digest, links_cut });
    let event = OpEvent { actor: stamp.by.clone(), ..event("saved", revision, revision, Some(file)) };
    let change = raw(&DocumentChange::Save { baseline, revision: Some(revision), front, stamp: Some(stamp) });
    Change { change, event: Some(event), reply, memory: Memory::Answer }
}
