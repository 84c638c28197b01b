//! `session.open`: finding a session or making it.

use holdfast_protocol::id::{KindName, WorkspaceName};
use holdfast_protocol::path::CanonicalPath;
use holdfast_protocol::record::{
    EventType, MARK_EVERY, Mark, Owner, RECORD_VERSION, SessionConfig, SessionRecord, State,
};
use holdfast_protocol::request::Mode;
use holdfast_protocol::{Error, Reason, Revision, SessionKey};

use crate::Author;

/// What to do about `session.open`.
#[derive(Debug)]
pub enum OpenDecision {
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

/// What is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Which.
    pub key: &'a SessionKey,
    /// Its file, when it has one.
    pub file: Option<&'a (WorkspaceName, CanonicalPath)>,
    /// What it is.
    pub kind: &'a KindName,
    /// What to do where it is there, and where not.
    pub mode: Mode,
}

/// Decides on `session.open`. `revision` is the key's, also where there is no record (any more).
pub fn open(found: Option<&SessionRecord>, revision: Revision, wanted: Wanted<'_>) -> OpenDecision {
    let Wanted { key, file, kind, mode } = wanted;
    let (expected, mark) = match found {
        Some(record) if record.state != State::Closed => {
            if let Some(refusal) = is_of_another_kind(record, revision, kind) {
                return OpenDecision::Refuse(refusal);
            }
            if let Some((workspace, path)) = file
                && (record.workspace.as_ref(), record.path.as_ref()) != (Some(workspace), Some(path))
            {
                return OpenDecision::Refuse(is_another(record, revision, path));
            }
            return match mode {
                Mode::Create => OpenDecision::Refuse(already_exists(record, revision)),
                Mode::Ensure | Mode::Attach => OpenDecision::Existing,
            };
        }
        Some(record) => (revision, record.mark),
        // What stood there before it was deleted is not known here, so the deletion must be announced first.
        None => (revision, Mark { at: revision, changes: MARK_EVERY }),
    };
    match mode {
        Mode::Attach => OpenDecision::Refuse(Error::no_session(key)),
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
fn is_of_another_kind(record: &SessionRecord, revision: Revision, kind: &KindName) -> Option<Error> {
    if record.kind == kind.as_str() {
        return None;
    }
    let why = format!("session {} is there since {}, and is a {}", record.id, record.created_at, record.kind);
    let refusal = exists(record, revision, why).advise(&[]).detail("field", "kind");
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
pub struct Blank<'a> {
    /// Which.
    pub key: &'a SessionKey,
    /// Its file, when it has one.
    pub file: Option<(WorkspaceName, CanonicalPath)>,
    /// What it is.
    pub kind: KindName,
    /// Its settings.
    pub config: SessionConfig,
    /// Who gets it.
    pub owner: Owner,
    /// The key's revision before.
    pub expected: Revision,
    /// How far the relay must come.
    pub mark: Mark,
}

/// The first record of a session.
pub fn created(blank: Blank<'_>, author: Author<'_>) -> SessionRecord {
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

/// The record of a session that was made and then refused by the worker that was to take it up.
pub fn unmade(record: &SessionRecord, author: Author<'_>) -> SessionRecord {
    let previous = record.owner.as_ref().map(|owner| owner.worker.clone());
    let event = author.event(EventType::SessionClosed, previous);
    SessionRecord { state: State::Closed, owner: None, lock: None, event, ..record.clone() }
}

/// Whether a worker's refusal to take a new session up is final, so that the session must not stay behind.
pub fn is_final(refusal: &Error) -> bool {
    !refusal.retryable && refusal.reason != Reason::Bug
}
