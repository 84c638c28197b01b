//! `doc.undo` and `doc.redo`.

use holdfast_protocol::error::Reason;
use holdfast_protocol::request::{self, Undo};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Limits};

use super::change::{DocumentChange, Stamp};
use super::history::{Way, Weight};
use super::{Document, ask};
use crate::machine::{Access, Ask, Decision};

pub(super) fn parse(verb: Verb, payload: &[u8], limits: &Limits) -> Result<Ask, Error> {
    let undo: Undo = request::parse(payload, limits)?;
    ask(verb, Access::Write { token: undo.token.clone() }, undo)
}

impl Document {
    pub(super) fn undo(&self, way: Way, undo: &Undo, ask: &Ask) -> Result<Decision, Error> {
        self.expect_revision(undo.expected_revision)?;
        let (stamp, weight) = (Some(Stamp::of(ask)), Weight::Encoded);
        let (change, word, kind) = match way {
            Way::Undo => (DocumentChange::Undo { stamp, weight }, "undo", "undone"),
            Way::Redo => (DocumentChange::Redo { stamp, weight }, "redo", "redone"),
        };
        let Some(delta) = self.state.history.next(way) else {
            let message = format!("session {} has nothing to {word}", self.id);
            return Err(self.explain(Error::new(Reason::NothingToUndo, message)));
        };
        Ok(self.changed(&change, kind, delta.changed(), ask))
    }
}
