//! What to do about a session: opening, placing, moving, sweeping and closing, as plain functions of its record.
//!
//! Invariant: nothing here does I/O, reads a clock or draws a random number; every change of a record says in its `event`
//! why it was made. The rules of locks are in `protocol::lock`.

use holdfast_protocol::path::CanonicalPath;
use holdfast_protocol::record::{
    Event, EventType, MARK_EVERY, Mark, Owner, RECORD_VERSION, SessionConfig, SessionRecord, State,
};
use holdfast_protocol::request::Mode;
use holdfast_protocol::{Error, Reason, RequestId, Revision, SessionKey, WorkerName};

use holdfast_protocol::id::{KindName, WorkspaceName};

use crate::cache::Known;
use crate::error;
use crate::records::Found;

#[cfg(test)]
mod tests;

/// Who asks for a change of a record, and why.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Author<'a> {
    /// Who, in their own words.
    pub(crate) actor: Option<&'a str>,
    /// Why, in their own words.
    pub(crate) reason: Option<&'a str>,
    /// The request.
    pub(crate) request_id: Option<&'a RequestId>,
}

impl Author<'_> {
    fn event(&self, kind: EventType, previous_worker: Option<WorkerName>) -> Option<Event> {
        Some(Event {
            kind,
            actor: self.actor.map(str::to_owned),
            reason: self.reason.map(str::to_owned),
            previous_owner: None,
            previous_worker,
            request_id: self.request_id.cloned(),
            unheard: false,
        })
    }
}

/// Where a session stands, as far as requests on it are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing<'a> {
    /// This agent holds it.
    Active(&'a Owner),
    /// This agent held it, and its worker is gone.
    Orphaned(&'a Owner),
    /// Nobody holds it.
    Passive,
    /// It is over.
    Closed,
}

/// Where `record` stands.
pub(crate) fn standing(record: &SessionRecord, is_gone: impl FnOnce(&Owner) -> bool) -> Standing<'_> {
    match (record.state, &record.owner) {
        (State::Closed, _) => Standing::Closed,
        (State::Active, Some(owner)) if is_gone(owner) => Standing::Orphaned(owner),
        (State::Active, Some(owner)) => Standing::Active(owner),
        (State::Active, None) | (State::Passive, _) => Standing::Passive,
    }
}

/// What to do about `session.open`.
#[derive(Debug)]
pub(crate) enum OpenDecision {
    /// Make it, if the key still is at `expected`. Frames up to there are of an earlier session.
    Create {
        /// The key's revision, 0 where there was none ever.
        expected: Revision,
        /// How far the relay must come, carried on: the bucket keeps 64 revisions of a key, whichever session's.
        mark: Mark,
    },
    /// It is there, and that is fine.
    Existing,
    /// No.
    Refuse(Error),
}

/// Decides on `session.open` of `key`, which is the session of `file` if there is one.
pub(crate) fn open(
    found: &Found,
    mode: Mode,
    key: &SessionKey,
    file: Option<&(WorkspaceName, CanonicalPath)>,
) -> OpenDecision {
    let (expected, mark) = match found {
        Found::Record(known) if known.record.state != State::Closed => {
            if let Some((workspace, path)) = file
                && (known.record.workspace.as_ref(), known.record.path.as_ref()) != (Some(workspace), Some(path))
            {
                return OpenDecision::Refuse(is_another(&known.record, known.revision, path));
            }
            return match mode {
                Mode::Create => OpenDecision::Refuse(already_exists(&known.record, known.revision)),
                Mode::Ensure | Mode::Attach => OpenDecision::Existing,
            };
        }
        Found::Record(known) => (known.revision, known.record.mark),
        // What stood there before it was deleted is not known here, so the deletion must be announced first.
        Found::Nothing { revision } => (*revision, Mark { at: *revision, changes: MARK_EVERY }),
    };
    match mode {
        Mode::Attach => OpenDecision::Refuse(error::no_session(key)),
        // Else whoever opens the file by its path would find a session without a file.
        Mode::Ensure | Mode::Create if file.is_none() && key.id.is_of_a_file() => {
            let message = format!("{} is an id of a file: such a session is made by the file's path", key.id);
            let refusal = Error::invalid(Reason::InvalidSessionId, message);
            OpenDecision::Refuse(refusal.detail("session_id", key.id.as_str()).detail("field", "id"))
        }
        Mode::Ensure | Mode::Create => OpenDecision::Create { expected, mark },
    }
}

fn already_exists(record: &SessionRecord, revision: Revision) -> Error {
    let why = format!("session {} exists since {}, and mode is create", record.id, record.created_at);
    exists(record, revision, why).detail("mode", "create")
}

/// A session has the id of a file and is not about it: somebody wrote its record by hand, or two paths have one digest.
fn is_another(record: &SessionRecord, revision: Revision, path: &CanonicalPath) -> Error {
    let why = format!("session {} is there since {}, and is not about {path}", record.id, record.created_at);
    let its_path = record.path.as_ref().map(CanonicalPath::as_str);
    exists(record, revision, why).advise(&[]).detail("requested_path", path.as_str()).detail("path", its_path)
}

/// The refusal to open what is there and of another kind than `kind`: it answers with bodies of its own.
pub(crate) fn is_of_another_kind(found: &Found, kind: &KindName) -> Option<Error> {
    let Found::Record(Known { record, revision, .. }) = found else { return None };
    if record.state == State::Closed || record.kind == kind.as_str() {
        return None;
    }
    let why = format!("session {} is there since {}, and is a {}", record.id, record.created_at, record.kind);
    let refusal = exists(record, *revision, why).advise(&[]).detail("field", "kind");
    Some(refusal.detail("kind", record.kind.as_str()).detail("requested_kind", kind.as_str()))
}

fn exists(record: &SessionRecord, revision: Revision, why: String) -> Error {
    Error::new(Reason::AlreadyExists, why)
        .detail("session_id", record.id.as_str())
        .detail("owner", record.lock.as_ref().map(|lock| lock.owner.clone()))
        .detail("state", serde_json::json!(record.state))
        .detail("created_at", record.created_at.as_str())
        .detail("lock_revision", record.lock_revision)
        .detail("revision", revision.0)
}

/// A session that is to be made.
pub(crate) struct Blank<'a> {
    /// Which.
    pub(crate) key: &'a SessionKey,
    /// Its file, when it has one.
    pub(crate) file: Option<(WorkspaceName, CanonicalPath)>,
    /// What it is.
    pub(crate) kind: KindName,
    /// Its settings.
    pub(crate) config: SessionConfig,
    /// Who gets it.
    pub(crate) owner: Owner,
    /// The key's revision before.
    pub(crate) expected: Revision,
    /// How far the relay must come.
    pub(crate) mark: Mark,
}

/// The first record of a session.
pub(crate) fn created(blank: Blank<'_>, author: Author<'_>) -> SessionRecord {
    let (workspace, path) = blank.file.unzip();
    SessionRecord {
        v: RECORD_VERSION,
        namespace: blank.key.namespace.clone(),
        id: blank.key.id.clone(),
        kind: blank.kind.to_string(),
        workspace,
        path,
        state: State::Active,
        created_at: blank.owner.since.clone(),
        owner: Some(blank.owner),
        lock: None,
        lock_revision: 0,
        config: blank.config,
        log_after: blank.expected.0,
        mark: blank.mark,
        event: author.event(EventType::SessionOpened, None),
    }
}

/// The record once `owner` has the session: moved from whoever had it, or brought back from nobody.
pub(crate) fn placed(record: &SessionRecord, owner: Owner, author: Author<'_>) -> SessionRecord {
    let previous = record.owner.as_ref().map(|owner| owner.worker.clone());
    let kind = if previous.is_some() { EventType::SessionMoved } else { EventType::SessionActivated };
    SessionRecord { state: State::Active, owner: Some(owner), event: author.event(kind, previous), ..record.clone() }
}

/// The record of a session whose worker is gone and that nobody needs just now.
pub(crate) fn reclaimed(record: &SessionRecord, author: Author<'_>) -> SessionRecord {
    let previous = record.owner.as_ref().map(|owner| owner.worker.clone());
    let event = author.event(EventType::SessionReclaimed, previous);
    SessionRecord { state: State::Passive, owner: None, event, ..record.clone() }
}

/// The record of a session that was made and then refused by the worker that was to take it up.
pub(crate) fn unmade(record: &SessionRecord, author: Author<'_>) -> SessionRecord {
    let previous = record.owner.as_ref().map(|owner| owner.worker.clone());
    let event = author.event(EventType::SessionClosed, previous);
    SessionRecord { state: State::Closed, owner: None, lock: None, event, ..record.clone() }
}

/// What the sweep does about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SweepDecision {
    /// Nothing.
    Keep,
    /// Give it to another worker: its lock has a lease, and somebody must count it down.
    Move,
    /// Take it from the worker that is gone; the next request brings it back.
    Reclaim,
}

/// Decides on one record of a sweep.
pub(crate) fn sweep(record: &SessionRecord, is_gone: impl FnOnce(&Owner) -> bool) -> SweepDecision {
    match standing(record, is_gone) {
        Standing::Active(_) | Standing::Passive | Standing::Closed => SweepDecision::Keep,
        Standing::Orphaned(_) if record.lock.as_ref().is_some_and(|lock| lock.ttl_ms.is_some()) => SweepDecision::Move,
        Standing::Orphaned(_) => SweepDecision::Reclaim,
    }
}

/// Whether a worker's refusal to take a new session up is final, so that the session must not stay behind.
pub(crate) fn is_final(refusal: &Error) -> bool {
    !refusal.retryable && refusal.reason != Reason::Bug
}
