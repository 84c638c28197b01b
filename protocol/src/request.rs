//! The bodies of requests, and how bytes from outside are parsed into them.
//!
//! Invariant: for any bytes, [`parse()`] returns a checked request or an error of the contract. It does not panic and
//! does not recurse without bound (`read.rs`, `json.rs`). Every refusal names the member that it is about.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::document::{Content, Splice};
use crate::error::{Error, Reason};
use crate::id::{KindName, SessionId, WorkerName, WorkspaceName};
use crate::json;
use crate::limits::Limits;
use crate::path::CanonicalPath;
use crate::record::{LockMode, OnIdle, State};
use crate::token::Token;

mod bounds;
mod build;
mod fault;
mod parse;
mod read;

use bounds::{invalid, text, token_shape, within};
pub use parse::{Peeked, check_size, parse, peek, peek_request_id};

/// The body of a request: what a client sends and a coordinator or an agent parses.
pub trait Request: Serialize + DeserializeOwned {
    /// The caller's idempotency key, unchecked.
    fn request_id(&self) -> Option<&str>;
    /// Who asked, for the audit trail.
    fn actor(&self) -> Option<&str>;
    /// Checks what the types do not.
    ///
    /// # Errors
    /// `invalid_params` or `too_large` for the first member that is out of bounds.
    fn check(&self, limits: &Limits) -> Result<(), Error>;
}

/// Declares a request: its required members, its optional members, and the check of both.
macro_rules! request {
    (
        $(#[$doc:meta])*
        $name:ident
        { $($(#[$needed_doc:meta])* $needed:ident: $needed_type:ty,)* }
        may { $($(#[$member_doc:meta])* $member:ident: $type:ty,)* }
        $check:expr
    ) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$needed_doc])* pub $needed: $needed_type,)*
            $(
                $(#[$member_doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $member: Option<$type>,
            )*
            /// Idempotency key.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub request_id: Option<String>,
            /// Who asked, for the audit trail.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub actor: Option<String>,
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                // A body may have a token or a user's text, and neither may reach a log line.
                f.debug_struct(stringify!($name)).field("request_id", &self.request_id).finish_non_exhaustive()
            }
        }

        impl Request for $name {
            fn request_id(&self) -> Option<&str> {
                self.request_id.as_deref()
            }

            fn actor(&self) -> Option<&str> {
                self.actor.as_deref()
            }

            fn check(&self, limits: &Limits) -> Result<(), Error> {
                let check: fn(&Self, &Limits) -> Result<(), Error> = $check;
                check(self, limits)
            }
        }
    };
}

/// What `session.open` does about an existing or a missing session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Create a missing one.
    #[default]
    Ensure,
    /// Refuse an existing one.
    Create,
    /// Refuse a missing one.
    Attach,
}

/// How current a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// The state of the owner's agent.
    #[default]
    Local,
    /// The state of the owner's agent after it has proved that it is the owner.
    Linearizable,
}

/// Settings that an opener may give; the others have their defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OpenConfig {
    /// How long without activity counts as idle, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<u64>,
    /// What happens to an idle session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_idle: Option<OnIdle>,
    /// Whether changes need the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockMode>,
}

request!(
    /// `session.open`
    Open {} may {
        /// The session's id; excludes `path`.
        id: String,
        /// The file's path; excludes `id`.
        path: String,
        /// The file's workspace, `main` when left out.
        workspace: String,
        /// The kind of session, `document` when left out.
        kind: KindName,
        /// What to do about an existing or a missing session.
        mode: Mode,
        /// Settings.
        config: OpenConfig,
        /// The initial content of a new session.
        content: Content,
    }
    |open, limits| {
        open.target(limits)?;
        let config = open.config.clone().unwrap_or_default();
        within("config.idle_timeout_ms", config.idle_timeout_ms, limits.idle_timeout_ms)?;
        open.content.as_ref().map_or(Ok(()), |content| content.check(limits))
    }
);

/// What `session.open` opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenTarget {
    /// The session with this id.
    Id(SessionId),
    /// The session of a file.
    File(WorkspaceName, CanonicalPath),
    /// A new session with an id that the coordinator makes.
    Fresh,
}

impl Open {
    /// What it opens.
    ///
    /// # Errors
    /// `invalid_params` when id, path or workspace are malformed or exclude each other.
    pub fn target(&self, limits: &Limits) -> Result<OpenTarget, Error> {
        match (&self.id, &self.path) {
            (Some(_), Some(_)) => Err(invalid(Reason::BadValue, "path", "path and id exclude each other")),
            (None, Some(path)) => {
                let workspace = WorkspaceName::parse(self.workspace.as_deref().unwrap_or("main"));
                let workspace = workspace.map_err(|error| error.detail("field", "workspace"))?;
                let path = CanonicalPath::parse(path, limits.path_chars);
                Ok(OpenTarget::File(workspace, path.map_err(|error| error.detail("field", "path"))?))
            }
            (_, None) if self.workspace.is_some() => {
                Err(invalid(Reason::BadValue, "workspace", "workspace goes with path"))
            }
            (Some(id), None) => {
                let id = SessionId::parse(id).map_err(|error| error.detail("field", "id"))?;
                Ok(OpenTarget::Id(id))
            }
            (None, None) if self.mode == Some(Mode::Attach) => {
                Err(invalid(Reason::MissingField, "id", "attach needs an id or a path"))
            }
            (None, None) => Ok(OpenTarget::Fresh),
        }
    }
}

request!(
    /// A request without members of its own.
    Empty {} may {} |_, _| Ok(())
);

request!(
    /// `session.list`
    List {} may {
        /// Page size, 1 to 1000; 100 when left out.
        limit: u64,
        /// `next` of the page before.
        after: String,
        /// Only sessions in this state.
        state: State,
        /// Only sessions on this worker.
        worker: WorkerName,
        /// Only sessions whose lock is held, or only those whose lock is free.
        locked: bool,
        /// Only sessions whose lock this client holds.
        lock_owner: String,
        /// Only sessions in memory that had no activity for at least this long.
        idle_ms: u64,
    }
    |list, limits| {
        within("limit", list.limit, (1, 1000))?;
        text("lock_owner", list.lock_owner.as_deref(), limits)
    }
);

request!(
    /// `session.close`
    Close {} may {
        /// The lock's token, when it is held.
        token: Token,
        /// Discard unsaved changes.
        discard: bool,
    }
    |close, _| token_shape("token", close.token.as_deref())
);

request!(
    /// `lock.acquire`
    Acquire {
        /// The holder's name.
        owner: String,
    } may {
        /// The token that the caller believes is current.
        expected_token: Token,
        /// Ask for a new token in place of `expected_token`.
        rotate: bool,
        /// How long the lock lives without renewal, milliseconds.
        ttl_ms: u64,
        /// How long to wait while another client holds it, milliseconds.
        wait_ms: u64,
    }
    |acquire, limits| {
        text("owner", Some(&acquire.owner), limits)?;
        token_shape("expected_token", acquire.expected_token.as_deref())?;
        within("ttl_ms", acquire.ttl_ms, limits.ttl_ms)?;
        within("wait_ms", acquire.wait_ms, (0, limits.wait_ms))
    }
);

request!(
    /// `lock.validate`, `lock.renew` and `lock.release`
    ShowToken {
        /// The token.
        token: Token,
    } may {}
    |show, _| token_shape("token", Some(&show.token))
);

request!(
    /// `doc.get`
    DocGet {} may {
        /// How current the answer must be.
        consistency: Consistency,
    }
    |_, _| Ok(())
);

request!(
    /// `doc.edit`
    Edit {} may {
        /// The lock's token.
        token: Token,
        /// The document's revision that the change is meant for.
        expected_revision: u64,
        /// A whole new text; excludes `splices`.
        body: String,
        /// Changes of the text, each on the result of the one before.
        splices: Vec<Splice>,
        /// JSON merge patch (RFC 7396) of the fields.
        #[serde(deserialize_with = "json::optional_unique_map")]
        fields: Map<String, Value>,
    }
    |edit, limits| {
        token_shape("token", edit.token.as_deref())?;
        if edit.body.is_some() && edit.splices.is_some() {
            return Err(invalid(Reason::BadValue, "splices", "body and splices exclude each other"));
        }
        if edit.body.is_none() && edit.splices.is_none() && edit.fields.is_none() {
            return Err(invalid(Reason::MissingField, "body", "an edit needs body, splices or fields"));
        }
        if edit.body.as_ref().is_some_and(|body| body.len() > limits.body_bytes) {
            return Err(crate::document::body_too_large(limits));
        }
        Ok(())
    }
);

request!(
    /// `doc.load`
    Load {} may {
        /// The lock's token.
        token: Token,
        /// Discard unsaved changes.
        discard: bool,
    }
    |load, _| token_shape("token", load.token.as_deref())
);

request!(
    /// `doc.save`
    Save {} may {
        /// The lock's token.
        token: Token,
        /// Overwrite a file that changed on disk.
        overwrite: bool,
    }
    |save, _| token_shape("token", save.token.as_deref())
);

request!(
    /// `doc.undo` and `doc.redo`
    Undo {} may {
        /// The lock's token.
        token: Token,
        /// The document's revision that the change is meant for.
        expected_revision: u64,
    }
    |undo, _| token_shape("token", undo.token.as_deref())
);

request!(
    /// `admin.takeover`
    Takeover {
        /// The new holder's name.
        owner: String,
        /// Why.
        reason: String,
    } may {
        /// How long the lock lives without renewal, milliseconds.
        ttl_ms: u64,
        /// The lock revision that the operator saw.
        expected_lock_revision: u64,
    }
    |takeover, limits| {
        text("owner", Some(&takeover.owner), limits)?;
        text("reason", Some(&takeover.reason), limits)?;
        within("ttl_ms", takeover.ttl_ms, limits.ttl_ms)
    }
);

request!(
    /// `admin.unlock`
    Unlock {
        /// Why.
        reason: String,
    } may {
        /// The lock revision that the operator saw.
        expected_lock_revision: u64,
    }
    |unlock, limits| text("reason", Some(&unlock.reason), limits)
);

request!(
    /// `admin.move`
    Move {
        /// Why.
        reason: String,
    } may {
        /// The new worker; any other when left out.
        worker: WorkerName,
    }
    |request, limits| text("reason", Some(&request.reason), limits)
);

request!(
    /// `admin.rotate_secret`
    RotateSecret {
        /// Why.
        reason: String,
    } may {
        /// Free all locks that were granted before, so that their tokens are not good any more.
        revoke: bool,
    }
    |rotate, limits| text("reason", Some(&rotate.reason), limits)
);

request!(
    /// `admin.reclaim`
    Reclaim {
        /// Idle for at least this long.
        max_idle_ms: u64,
    } may {}
    |_, _| Ok(())
);

request!(
    /// `worker.drain` and `worker.undrain`
    Drain {
        /// Why.
        reason: String,
    } may {}
    |drain, limits| text("reason", Some(&drain.reason), limits)
);
