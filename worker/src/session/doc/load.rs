//! `doc.load`: the file again, which drops changes that are not saved only when the request says so.

use holdfast_protocol::frame::OpEvent;
use holdfast_protocol::reply::Document as Reply;
use holdfast_protocol::request::{self, Load};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Limits};

use super::change::{DocumentChange, Stamp};
use super::delta::Delta;
use super::{Document, ask, event, raw};
use crate::machine::{Access, Ask, Change, Decision, Memory};

pub(super) fn parse(payload: &[u8], limits: &Limits) -> Result<Ask, Error> {
    let load: Load = request::parse(payload, limits)?;
    ask(Verb::DocLoad, Access::Write { token: load.token.clone() }, load)
}

impl Document {
    pub(super) async fn load(&self, load: &Load, ask: &Ask) -> Result<Decision, Error> {
        let (file, state) = (self.file()?, &self.state);
        if state.dirty() && load.discard != Some(true) {
            return Err(self.unsaved());
        }
        let found = file.read(&self.limits).await?.ok_or_else(|| file.missing())?;
        let (before, revision) = (state.revision, state.revision + 1);
        let delta = Delta::between((&state.body, &state.fields), (&found.body, &found.fields));
        let changed = delta.changed();
        let same = changed.is_empty();
        // The text that the session itself saved can read as another document: a body that begins with front matter
        // does, and so do some documents of logs of the first version.
        let is_own =
            !state.dirty() && state.baseline.as_ref().is_some_and(|baseline| baseline.digest == found.baseline.digest);
        let (body, fields) = (found.body.clone(), found.fields.clone());
        let reply = Reply { body, fields, revision, dirty: false, diverged: false, ..self.get() };
        let event = OpEvent { changed, actor: ask.actor.clone(), ..event("loaded", before, revision, Some(file)) };
        let change = DocumentChange::Load {
            body: found.body,
            fields: found.fields,
            front: found.front,
            baseline: found.baseline,
            stamp: Some(Stamp::of(ask)),
            same,
            delta: (is_own && !same).then_some(delta),
        };
        let (change, reply) = (raw(&change), raw(&reply));
        Ok(Decision::Change(Change { change, event: Some(event), reply, memory: Memory::Occurrence }))
    }
}
