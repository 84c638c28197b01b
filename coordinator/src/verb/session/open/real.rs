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
use crate::call::Call;
use crate::control::{Fault, ask_boot};
use crate::error;
use crate::hub::Hub;

/// How long the owner of a session that is there may take to say where its path leads.
const PATIENCE: Duration = Duration::from_secs(1);

/// `wanted`, with the real path of its file. It is asked for a session that is there as well: its path was real when it was
/// made, and may lead to another file by now. But nobody waits long for that, since there is an answer without it.
pub(super) async fn real(hub: &Hub, wanted: Wanted, call: &Call) -> Result<Wanted, Error> {
    let Some((workspace, path)) = &wanted.file else { return Ok(wanted) };
    let asked = FilePath { workspace: workspace.clone(), path: path.clone() };
    let there = there(hub, &wanted, call).await?;
    let resolved = match &there {
        Some(known) => resolve_at_once(hub, known, &wanted, &asked, call).await,
        None => resolve(hub, &wanted, &asked, call).await,
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

async fn there(hub: &Hub, wanted: &Wanted, call: &Call) -> Result<Option<Known>, Error> {
    let found = match hub.records.cached(&wanted.key) {
        Some(known) => Found::Record(known),
        None => hub.records.read(&wanted.key, call.deadline).await?,
    };
    Ok(match found {
        Found::Record(known) if known.record.state != State::Closed => Some(known),
        Found::Record(_) | Found::Nothing { .. } => None,
    })
}

/// Asks the session's owner, if it has one, and once.
async fn resolve_at_once(
    hub: &Hub,
    known: &Known,
    wanted: &Wanted,
    asked: &FilePath,
    call: &Call,
) -> Result<FilePath, Error> {
    let (worker, boot) = match &known.record.owner {
        Some(owner) => (owner.worker.clone(), owner.boot),
        None => hub.registry.pick(&wanted.key, wanted.needs(), None, call.deadline).await?,
    };
    let patience = call.left().min(PATIENCE);
    match ask_boot(hub, (&worker, boot), control::RESOLVE, asked, patience).await {
        Ok(real) => Ok(real),
        Err(Fault::Refused(refusal)) => Err(refusal),
        Err(Fault::Unheard | Fault::Silent) => Err(silent(&worker, asked)),
    }
}

fn silent(worker: &WorkerName, asked: &FilePath) -> Error {
    error::storage_unavailable(&format!("worker {worker} did not say in time where {} leads", asked.path))
}

async fn resolve(hub: &Hub, wanted: &Wanted, asked: &FilePath, call: &Call) -> Result<FilePath, Error> {
    loop {
        call.in_time(&wanted.key)?;
        let (worker, boot) = hub.registry.pick(&wanted.key, wanted.needs(), None, call.deadline).await?;
        match ask_boot(hub, (&worker, boot), control::RESOLVE, asked, call.left()).await {
            Ok(real) => return Ok(real),
            Err(Fault::Refused(refusal)) => return Err(refusal),
            // The registry knows that it is gone.
            Err(Fault::Unheard) => {}
            Err(Fault::Silent) => return Err(silent(&worker, asked)),
        }
    }
}
