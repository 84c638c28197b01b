//! `doc.get`: the whole document.

use holdfast_protocol::reply::Document as Reply;
use holdfast_protocol::request::{self, Consistency, DocGet};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Limits};

use super::{Document, ask};
use crate::machine::{Access, Ask};

pub(super) fn parse(payload: &[u8], limits: &Limits) -> Result<Ask, Error> {
    let get: DocGet = request::parse(payload, limits)?;
    let access = match get.consistency.unwrap_or_default() {
        Consistency::Local => Access::Read,
        Consistency::Linearizable => Access::LinearizableRead,
    };
    ask(Verb::DocGet, access, get)
}

impl Document {
    pub(super) fn get(&self) -> Reply {
        Reply {
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
}
