//! `session.open`: finds a session or creates it.

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
    /// Create the session if the key still is at `expected`. Frames up to there belong to an earlier session.
    Create {
        /// The key's revision; 0 if it never had one.
        expected: Revision,
        /// The mark of the earlier record, continued: the bucket keeps 64 revisions of a key, over all its sessions.
        mark: Mark,
    },
    /// The session exists, as the request wants it.
    Existing,
    /// Refuse.
    Refuse(Error),
}

/// The session that is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its key.
    pub key: &'a SessionKey,
    /// Its file, when it has one.
    pub file: Option<&'a (WorkspaceName, CanonicalPath)>,
    /// Its kind.
    pub kind: &'a KindName,
    /// What to do if it exists, and if not.
    pub mode: Mode,
}

/// Decides on `session.open`. `revision` is the key's, even if there is no record or a deleted one.
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
        // The mark of the deleted record is not known here, so the relay must announce the deletion first.
        None => (revision, Mark { at: revision, changes: MARK_EVERY }),
    };
    match mode {
        Mode::Attach => OpenDecision::Refuse(Error::no_session(key)),
        // Otherwise an open of the file by its path would find a session without a file.
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

/// The refusal for a session that has the id of a file but is not the file's: its record was written by hand, or two
/// paths have the same digest.
fn is_another(record: &SessionRecord, revision: Revision, path: &CanonicalPath) -> Error {
    let why = format!("session {} is there since {}, and is not about {path}", record.id, record.created_at);
    let its_path = record.path.as_ref().map(CanonicalPath::as_str);
    exists(record, revision, why).advise(&[]).detail("requested_path", path.as_str()).detail("path", its_path)
}

/// The refusal for an existing session of another kind than `kind`.
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

/// What a new session's first record is made of.
pub struct Blank<'a> {
    /// Its key.
    pub key: &'a SessionKey,
    /// Its file, when it has one.
    pub file: Option<(WorkspaceName, CanonicalPath)>,
    /// Its kind.
    pub kind: KindName,
    /// Its settings.
    pub config: SessionConfig,
    /// Its first owner.
    pub owner: Owner,
    /// The key's revision before.
    pub expected: Revision,
    /// Its mark.
    pub mark: Mark,
    /// The generation of the secret.
    pub secret: u64,
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
        secret: blank.secret,
        log_after: blank.expected.0,
        mark: blank.mark,
        event: author.event(EventType::SessionOpened, None),
    }
}

/// The record of a new session after its first owner refused to activate it.
pub fn unmade(record: &SessionRecord, author: Author<'_>) -> SessionRecord {
    let previous = record.owner.as_ref().map(|owner| owner.worker.clone());
    let event = author.event(EventType::SessionClosed, previous);
    SessionRecord { state: State::Closed, owner: None, lock: None, event, ..record.clone() }
}

/// Whether a worker's refusal to activate a new session is final, so that the session must be closed again.
pub fn is_final(refusal: &Error) -> bool {
    !refusal.retryable && refusal.reason != Reason::Bug
}
