//! Requests that a document answers.

use holdfast_protocol::error::Reason;
use holdfast_protocol::request::{Consistency, DocGet, Edit, Load, Request, Save, Undo, parse as parse_body};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Limits, RequestId};

use crate::machine::{Access, Ask};

/// A parsed body.
pub(super) enum Body {
    Get,
    Edit(Edit),
    Undo(Undo),
    Load(Load),
    Save(Save),
}

pub(super) fn parse(verb: Verb, payload: &[u8], limits: &Limits) -> Result<Ask, Error> {
    match verb {
        Verb::DocGet => {
            let get: DocGet = parse_body(payload, limits)?;
            let access = match get.consistency.unwrap_or_default() {
                Consistency::Local => Access::Read,
                Consistency::Linearizable => Access::LinearizableRead,
            };
            ask(verb, get, |_| (access, Body::Get))
        }
        Verb::DocEdit => {
            let edit: Edit = parse_body(payload, limits)?;
            ask(verb, edit, |edit| (Access::Write { token: edit.token.clone() }, Body::Edit(edit)))
        }
        Verb::DocUndo | Verb::DocRedo => {
            let undo: Undo = parse_body(payload, limits)?;
            ask(verb, undo, |undo| (Access::Write { token: undo.token.clone() }, Body::Undo(undo)))
        }
        Verb::DocLoad => {
            let load: Load = parse_body(payload, limits)?;
            ask(verb, load, |load| (Access::Write { token: load.token.clone() }, Body::Load(load)))
        }
        Verb::DocSave => {
            let save: Save = parse_body(payload, limits)?;
            ask(verb, save, |save| (Access::Write { token: save.token.clone() }, Body::Save(save)))
        }
        verb => Err(Error::invalid(Reason::BadValue, format!("a document does not answer {verb}"))),
    }
}

fn ask<R: Request>(verb: Verb, request: R, split: impl FnOnce(R) -> (Access, Body)) -> Result<Ask, Error> {
    let request_id = request.request_id().map(RequestId::parse).transpose()?;
    let actor = request.actor().map(str::to_owned);
    let (access, body) = split(request);
    Ok(Ask { verb, access, request_id, actor, body: Box::new(body) })
}
