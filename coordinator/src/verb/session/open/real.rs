//! Finds the real path of a file: the one without symbolic links.
//!
//! Invariant: a session is only created for a real path, so two names of one file never make two sessions. A worker
//! that has the workspace resolves the path, as it is at that moment. A symbolic link that is created later has no
//! effect, because the session's agent follows none.

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

/// How long the owner of an existing session may take to resolve its path.
const PATIENCE: Duration = Duration::from_secs(1);

/// `wanted` with the real path of its file. An existing session's path is resolved too: it was real when the session
/// was created, and may lead to another file by now. That is not waited for long, because the open can be answered
/// without.
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
        // The path cannot be resolved, and no session will be created: it exists, or the open is an `attach`.
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

/// Asks the session's owner, or any worker if it has none; once.
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
            // `fleet` has noted it, and chooses another process.
            Err(Fault::Unheard) => {}
            Err(Fault::Silent) => return Err(silent(&process.worker, asked)),
        }
    }
}
