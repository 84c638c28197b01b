//! `session.*`: open, get, list, touch, close.

use holdfast_protocol::document::Content;
use holdfast_protocol::record::{LockMode, OnIdle, State};
use holdfast_protocol::reply::{Closed, Opened, Session, SessionPage, Touched};
use holdfast_protocol::request::Mode;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{SessionId, WorkerName};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::client::{Client, SessionClient};
use crate::lock::Token;
use crate::request::{Ask, Call};

/// `session.open`: finds or creates a session.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Open {
    /// The session's id; excludes `path`. Without both, the coordinator makes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The file's path; excludes `id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The file's workspace, `main` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// How to treat existence.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "mode_word")]
    pub mode: Option<Mode>,
    /// Settings of a new session.
    #[serde(skip_serializing_if = "Config::is_default")]
    pub config: Config,
    /// What a new session begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
}

/// Settings of a new session; what is left out has the contract's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Config {
    /// How long without activity counts as idle, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<u64>,
    /// What then happens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_idle: Option<OnIdle>,
    /// Whether changes need the lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockMode>,
}

impl Config {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn mode_word<S: Serializer>(mode: &Option<Mode>, serializer: S) -> Result<S::Ok, S::Error> {
    let word = mode.map(|mode| match mode {
        Mode::Ensure => "ensure",
        Mode::Create => "create",
        Mode::Attach => "attach",
    });
    word.serialize(serializer)
}

impl Open {
    /// The session `id`.
    pub fn id(id: &SessionId) -> Self {
        Self { id: Some(id.to_string()), ..Self::default() }
    }

    /// The session of the file `path`, in the workspace `main` unless said.
    pub fn file(path: impl Into<String>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    /// A new session, whose id the coordinator makes.
    pub fn fresh() -> Self {
        Self::default()
    }

    /// The file is in this workspace.
    #[must_use]
    pub fn workspace(mut self, workspace: impl Into<String>) -> Self {
        self.workspace = Some(workspace.into());
        self
    }

    /// How to treat existence; created on demand unless said.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Settings of a new session.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The text that a new session begins with.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.content.get_or_insert_default().body = Some(body.into());
        self
    }

    /// The fields that a new session begins with.
    #[must_use]
    pub fn fields(mut self, fields: Map<String, Value>) -> Self {
        self.content.get_or_insert_default().fields = Some(fields);
        self
    }
}

impl Ask for Open {
    const VERB: Verb = Verb::SessionOpen;
    type Reply = Opened;
}

/// `session.get`: shows a session, without activating or touching it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Get {}

impl Ask for Get {
    const VERB: Verb = Verb::SessionGet;
    type Reply = Session;
}

/// `session.list`: one page of a namespace's sessions.
#[derive(Clone, Debug, Default, Serialize)]
pub struct List {
    /// Page size, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only sessions in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Only sessions on this worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerName>,
}

impl Ask for List {
    const VERB: Verb = Verb::SessionList;
    type Reply = SessionPage;
}

/// `session.touch`: counts as activity.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Touch {}

impl Ask for Touch {
    const VERB: Verb = Verb::SessionTouch;
    type Reply = Touched;
}

/// `session.close`: ends a session.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Close {
    /// The lock's token, while it is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Give unsaved changes up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard: Option<bool>,
}

impl Close {
    /// Shows the token of the held lock.
    #[must_use]
    pub fn token(mut self, token: &Token) -> Self {
        self.token = Some(token.clone());
        self
    }

    /// Gives unsaved changes up.
    #[must_use]
    pub fn discarding(mut self) -> Self {
        self.discard = Some(true);
        self
    }
}

impl Ask for Close {
    const VERB: Verb = Verb::SessionClose;
    type Reply = Closed;
}

impl Client {
    /// Finds or creates a session.
    pub fn open(&self, open: Open) -> Call<Open> {
        self.call(open)
    }

    /// One page of the namespace's sessions. It may have fewer than were asked for, or none, and yet a `next`; a
    /// session that changes meanwhile may come again on a later page.
    pub fn list(&self, list: List) -> Call<List> {
        self.call(list)
    }
}

impl SessionClient {
    /// Shows the session, without activating or touching it.
    pub fn get(&self) -> Call<Get> {
        self.call(Get {})
    }

    /// Counts as activity.
    pub fn touch(&self) -> Call<Touch> {
        self.call(Touch {})
    }

    /// Ends the session.
    pub fn close(&self, close: Close) -> Call<Close> {
        self.call(close)
    }
}
