//! The error contract: one shape for every refusal, with a code, a reason and what to do next.
//!
//! Invariant: no token ever enters an error.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::{RequestId, SessionKey};

use crate::words::words;

words!(
    /// The class of an error.
    Code {
        /// The request itself is wrong; sending it again changes nothing.
        InvalidParams = "invalid_params",
        /// Not allowed here.
        Forbidden = "forbidden",
        /// The object of the request does not exist.
        NotFound = "not_found",
        /// Another change was first.
        Conflict = "conflict",
        /// Over a limit.
        TooLarge = "too_large",
        /// Too many requests at once; ask again.
        Busy = "busy",
        /// A part of Holdfast or NATS is not available; nothing was changed.
        Unavailable = "unavailable",
        /// The change may or may not be there; ask again with the same `request_id`.
        UnknownOutcome = "unknown_outcome",
        /// The file system refused.
        Filesystem = "filesystem",
        /// A fault of Holdfast.
        Internal = "internal",
    }
);

words!(
    /// Why, within a [`Code`].
    Reason {
        /// Not JSON, or not UTF-8, or nested too deeply.
        BadJson = "bad_json",
        /// A member that the request does not have.
        UnknownField = "unknown_field",
        /// A member that the request must have.
        MissingField = "missing_field",
        /// A member of the wrong type or out of bounds.
        BadValue = "bad_value",
        /// A session id out of bounds.
        InvalidSessionId = "invalid_session_id",
        /// A path that no file may have.
        InvalidPath = "invalid_path",
        /// A path that leaves its workspace.
        PathEscape = "path_escape",
        /// The workspace may not be written.
        WorkspaceDenied = "workspace_denied",
        /// NATS does not let the asker make this request.
        PermissionDenied = "permission_denied",
        /// No such session, or it is closed.
        NoSession = "no_session",
        /// No such file.
        NoFile = "no_file",
        /// No worker has that workspace.
        NoWorkspace = "no_workspace",
        /// No such worker.
        NoWorker = "no_worker",
        /// Another holds the lock.
        LockHeld = "lock_held",
        /// The token is not the current one.
        StaleToken = "stale_token",
        /// A token was given, and the lock is free.
        NotLocked = "not_locked",
        /// The session requires the lock for every change.
        LockRequired = "lock_required",
        /// The lock is not the one that the operator saw.
        LockMoved = "lock_moved",
        /// The document is not at the revision that the caller expected.
        RevisionMismatch = "revision_mismatch",
        /// `create` found an existing session.
        AlreadyExists = "already_exists",
        /// The file changed on disk.
        DiskDiverged = "disk_diverged",
        /// There are changes that the file does not have.
        UnsavedChanges = "unsaved_changes",
        /// Nothing to undo or redo.
        NothingToUndo = "nothing_to_undo",
        /// The stored record or log does not parse.
        RecordInvalid = "record_invalid",
        /// The body is over its limit.
        BodyTooLarge = "body_too_large",
        /// The fields are over their limit.
        FieldsTooLarge = "fields_too_large",
        /// The request is over its limit.
        RequestTooLarge = "request_too_large",
        /// Too many requests wait already.
        MailboxFull = "mailbox_full",
        /// The log must be compacted first and cannot be just now.
        SnapshotPending = "snapshot_pending",
        /// The part that was asked is shutting down.
        Draining = "draining",
        /// No live worker can take the session.
        NoLiveWorker = "no_live_worker",
        /// JetStream does not answer.
        StorageUnavailable = "storage_unavailable",
        /// The worker cannot prove that it still owns the session.
        LeaseLost = "lease_lost",
        /// A write was sent and not acknowledged.
        AckTimeout = "ack_timeout",
        /// Reading or writing a file failed.
        Io = "io",
        /// The file is not UTF-8.
        NotUtf8 = "not_utf8",
        /// The file's front matter does not parse.
        BadFrontmatter = "bad_frontmatter",
        /// A bug.
        Bug = "bug",
    }
);

impl Code {
    /// The number in the header `Nats-Service-Error-Code`.
    pub fn number(self) -> u16 {
        match self {
            Self::InvalidParams => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Filesystem => 422,
            Self::Busy => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::UnknownOutcome => 504,
        }
    }
}

impl Reason {
    /// The code that this reason belongs to.
    pub fn code(self) -> Code {
        use Reason::*;
        match self {
            BadJson | UnknownField | MissingField | BadValue | InvalidSessionId | InvalidPath | PathEscape => {
                Code::InvalidParams
            }
            WorkspaceDenied | PermissionDenied => Code::Forbidden,
            NoSession | NoFile | NoWorkspace | NoWorker => Code::NotFound,
            LockHeld | StaleToken | NotLocked | LockRequired | LockMoved | RevisionMismatch | AlreadyExists
            | DiskDiverged | UnsavedChanges | NothingToUndo | RecordInvalid => Code::Conflict,
            BodyTooLarge | FieldsTooLarge | RequestTooLarge => Code::TooLarge,
            MailboxFull | SnapshotPending | Draining => Code::Busy,
            NoLiveWorker | StorageUnavailable | LeaseLost => Code::Unavailable,
            AckTimeout => Code::UnknownOutcome,
            Io | NotUtf8 | BadFrontmatter => Code::Filesystem,
            Bug => Code::Internal,
        }
    }

    /// Whether the same request may succeed later without a correction.
    pub fn retryable(self) -> bool {
        matches!(self.code(), Code::Busy | Code::Unavailable | Code::UnknownOutcome) || self == Self::LockHeld
    }

    /// What the caller can do next when nothing more is known of the situation; words of the contract's `actions`.
    pub fn actions(self) -> &'static [&'static str] {
        use Reason::*;
        match self {
            LockHeld => &["wait", "takeover"],
            StaleToken => &["acquire", "takeover"],
            NotLocked | LockRequired => &["acquire"],
            LockMoved | RevisionMismatch => &["read", "retry"],
            AlreadyExists => &["attach"],
            DiskDiverged => &["load_discard", "save_overwrite", "read"],
            UnsavedChanges => &["save", "discard"],
            RecordInvalid => &["repair_record"],
            NoSession => &["open"],
            NoFile => &["save"],
            NoWorkspace | NoLiveWorker => &["start_worker"],
            MailboxFull | SnapshotPending | Draining | StorageUnavailable | LeaseLost => &["retry"],
            AckTimeout => &["retry_same_request_id"],
            _ => &[],
        }
    }

    /// Every word that `actions` may have for this reason. The situation decides which of them an error has.
    pub fn possible_actions(self) -> &'static [&'static str] {
        match self {
            Self::StaleToken => &["wait", "takeover", "acquire"],
            Self::UnsavedChanges => &["save", "save_overwrite", "discard"],
            Self::Io => &["save_overwrite"],
            other => other.actions(),
        }
    }
}

/// How many characters of foreign text a message repeats at most.
const REPEATED_CHARS: usize = 300;

/// The beginning of a foreign `text` of any length, to repeat in an error.
pub(crate) fn bounded(text: &str) -> String {
    match text.char_indices().nth(REPEATED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A refusal or a failure, as it goes over the wire within `{"error": …}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Error {
    /// Class.
    pub code: Code,
    /// Cause within the class.
    pub reason: Reason,
    /// One sentence for a person.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// When to try again, milliseconds, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Facts for a program; see the contract for each reason.
    #[serde(deserialize_with = "crate::json::map")]
    pub details: Map<String, Value>,
    /// What to do next.
    pub actions: Vec<String>,
    /// The caller's `request_id`, or the one that a coordinator made; empty until the reply is written.
    pub request_id: String,
}

/// The body of an error reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorReply {
    /// The error.
    pub error: Error,
}

impl Error {
    /// `no_session`: there is no record under `key`, or its session is closed.
    pub fn no_session(key: &SessionKey) -> Self {
        Self::new(Reason::NoSession, format!("there is no session {}", key.id)).detail("session_id", key.id.as_str())
    }

    /// An error with the reason's own code, retryability and actions.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code: reason.code(),
            reason,
            message: message.into(),
            retryable: reason.retryable(),
            retry_after_ms: None,
            details: Map::new(),
            actions: reason.actions().iter().map(|action| (*action).to_owned()).collect(),
            request_id: String::new(),
        }
    }

    /// The refusal of a wrong request.
    pub fn invalid(reason: Reason, message: impl Into<String>) -> Self {
        debug_assert_eq!(reason.code(), Code::InvalidParams);
        Self::new(reason, message)
    }

    /// Adds one fact.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Replaces the actions by those that help in this situation. They must be possible for the reason.
    #[must_use]
    pub fn advise(mut self, actions: &[&str]) -> Self {
        debug_assert!(actions.iter().all(|action| self.reason.possible_actions().contains(action)), "{actions:?}");
        self.actions = actions.iter().map(|action| (*action).to_owned()).collect();
        self
    }

    /// Sets when to try again.
    #[must_use]
    pub fn retry_after_ms(mut self, after: Option<u64>) -> Self {
        self.retry_after_ms = after;
        self
    }

    /// Marks it as not retryable in this situation, although its reason is in others.
    #[must_use]
    pub fn not_retryable(mut self) -> Self {
        (self.retryable, self.retry_after_ms) = (false, None);
        self
    }

    /// Names the request that it answers.
    #[must_use]
    pub fn for_request(mut self, request_id: &RequestId) -> Self {
        self.request_id = request_id.as_str().to_owned();
        self
    }

    /// The body of the reply.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            error: &'a Error,
        }
        serde_json::to_vec(&Borrowed { error: self }).expect("an error is strings, numbers and JSON values")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} / {})", self.message, self.code, self.reason)
    }
}

impl std::error::Error for Error {}
