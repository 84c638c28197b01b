//! Which file a path is about, when symbolic links are followed.
//!
//! Invariant: a session is only ever made for a real path, so that two names never make two sessions of one file. Whether a
//! path is real is for a worker that has the workspace to say; it says so of the moment. A link that is put in the way
//! later leads nowhere: the session's agent follows none.

use std::time::Duration;

use holdfast_protocol::internal::{FilePath, control};
use holdfast_protocol::record::State;
use holdfast_protocol::request::Mode;
use holdfast_protocol::{Error, Reason, WorkerName};
use holdfast_records::{Found, Known};

use super::Wanted;
use crate::context::Context;
use crate::control::{Fault, ask_process};
use crate::error;
use crate::operation::Operation;

/// How long the owner of a session that is there may take to say where its path leads.
const PATIENCE: Duration = Duration::from_secs(1);

/// `wanted`, with the real path of its file. It is asked for a session that is there as well: its path was real when it was
/// made, and may lead to another file by now. But nobody waits long for that, since there is an answer without it.
pub(super) async fn real(context: &Context, wanted: Wanted, operation: &Operation) -> Result<Wanted, Error> {
    let Some((workspace, path)) = &wanted.file else { return Ok(wanted) };
    let asked = FilePath { workspace: workspace.clone(), path: path.clone() };
    let there = there(context, &wanted, operation).await?;
    let resolved = match &there {
        Some(known) => resolve_at_once(context, known, &wanted, &asked, operation).await,
        None => resolve(context, &wanted, &asked, operation).await,
    };
    match resolved {
        Ok(real) if real.path == asked.path => Ok(wanted),
        Ok(real) => {
            let id = real.path.session_id(&real.workspace);
            let key = holdfast_protocol::SessionKey::new(wanted.key.namespace.clone(), id);
            Ok(Wanted { key, file: Some((real.workspace, real.path)), ..wanted })
        }
        // Nobody can say, and nothing is to be made: the session is there, or there is none.
        Err(refusal) if there.is_some() && !is_about_the_path(&refusal) => Ok(wanted),
        Err(refusal) if wanted.mode == Mode::Attach && is_about_workers(&refusal) => Ok(wanted),
        Err(refusal) => Err(refusal),
    }
}

fn is_about_workers(refusal: &Error) -> bool {
    matches!(refusal.reason, Reason::NoWorkspace | Reason::NoLiveWorker)
}

fn is_about_the_path(refusal: &Error) -> bool {
    matches!(refusal.reason, Reason::PathEscape | Reason::InvalidPath)
}

async fn there(context: &Context, wanted: &Wanted, operation: &Operation) -> Result<Option<Known>, Error> {
    let found = match context.records.cached(&wanted.key) {
        Some(known) => Found::Record(known),
        None => context.records.read(&wanted.key, operation.deadline).await?,
    };
    Ok(match found {
        Found::Record(known) if known.record.state != State::Closed => Some(known),
        Found::Record(_) | Found::Nothing { .. } => None,
    })
}

/// Asks the session's owner, if it has one, and once.
async fn resolve_at_once(
    context: &Context,
    known: &Known,
    wanted: &Wanted,
    asked: &FilePath,
    operation: &Operation,
) -> Result<FilePath, Error> {
    let process = match &known.record.owner {
        Some(owner) => owner.process(),
        None => context.fleet.pick(&wanted.key, wanted.needs(), None, operation.deadline).await?,
    };
    let patience = operation.left().min(PATIENCE);
    match ask_process(context, &process, control::RESOLVE, asked, patience).await {
        Ok(real) => Ok(real),
        Err(Fault::Refused(refusal)) => Err(refusal),
        Err(Fault::Unheard | Fault::Silent) => Err(silent(&process.worker, asked)),
    }
}

fn silent(worker: &WorkerName, asked: &FilePath) -> Error {
    error::storage_unavailable(&format!("worker {worker} did not say in time where {} leads", asked.path))
}

async fn resolve(
    context: &Context,
    wanted: &Wanted,
    asked: &FilePath,
    operation: &Operation,
) -> Result<FilePath, Error> {
    loop {
        operation.in_time(&wanted.key)?;
        let process = context.fleet.pick(&wanted.key, wanted.needs(), None, operation.deadline).await?;
        match ask_process(context, &process, control::RESOLVE, asked, operation.left()).await {
            Ok(real) => return Ok(real),
            Err(Fault::Refused(refusal)) => return Err(refusal),
            // The fleet knows that it is gone.
            Err(Fault::Unheard) => {}
            Err(Fault::Silent) => return Err(silent(&process.worker, asked)),
        }
    }
}
