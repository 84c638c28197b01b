//! `holdfast session`: open, get, list, touch, close.

use clap::{Args, Subcommand};
use holdfast_client::protocol::SessionId;
use holdfast_client::protocol::document::Content;
use holdfast_client::protocol::id::KindName;
use holdfast_client::protocol::record::{LockMode, OnIdle};
use holdfast_client::protocol::request::{Close, Mode, Open, OpenConfig};

use crate::ask::{Asker, Requests};
use crate::content::{Body, Fields, fields};
use crate::duration::milliseconds;
use crate::exit::Failure;
use crate::list::ListArgs;
use crate::lock::OptionalToken;
use crate::words::{Words, one_of};

const MODES: Words =
    &[("ensure", "Create on demand"), ("create", "Refuse an existing one"), ("attach", "Refuse a missing one")];
const ON_IDLE: Words = &[("passivate", "It leaves memory and comes back when asked for"), ("close", "It ends")];
const LOCKS: Words =
    &[("optional", "While the lock is free, anybody may change the document"), ("required", "Only the holder may")];

/// The session's id.
#[derive(Args, Debug)]
pub(crate) struct Of {
    /// The session's id
    #[arg(value_name = "ID", value_parser = SessionId::parse)]
    pub(crate) id: SessionId,
}

/// The group's requests.
#[derive(Subcommand, Debug)]
pub(crate) enum Request {
    /// Find or create a session: by id, by file, or a new one with a new id
    Open(Box<OpenArgs>),
    /// Show a session, without activating or touching it
    Get {
        #[command(flatten)]
        session: Of,
    },
    /// List sessions
    List(Box<ListArgs>),
    /// Count as activity, so that the session is not idle
    Touch {
        #[command(flatten)]
        session: Of,
    },
    /// Close a session
    Close {
        #[command(flatten)]
        session: Of,
        #[command(flatten)]
        token: OptionalToken,
        /// Discard unsaved changes
        #[arg(long)]
        discard: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct OpenArgs {
    /// The session's id
    #[arg(value_name = "ID", value_parser = SessionId::parse, conflicts_with_all = ["path", "workspace"])]
    session: Option<SessionId>,
    /// The file's path in its workspace
    #[arg(long)]
    path: Option<String>,
    /// The file's workspace [default: main]
    #[arg(long, requires = "path", value_name = "NAME")]
    workspace: Option<String>,
    /// The kind of session, one that a worker hosts [default: document]
    #[arg(long, value_name = "NAME", value_parser = KindName::parse)]
    kind: Option<KindName>,
    /// What to do about an existing or a missing session [default: ensure]
    #[arg(long, value_name = "HOW", value_parser = one_of::<Mode>(MODES))]
    mode: Option<Mode>,
    /// How long without activity counts as idle
    #[arg(long = "idle-timeout", alias = "idle-timeout-ms", value_name = "TIME", value_parser = milliseconds)]
    idle_timeout_ms: Option<u64>,
    /// What happens to an idle session [default: passivate]
    #[arg(long, value_name = "HOW", value_parser = one_of::<OnIdle>(ON_IDLE))]
    on_idle: Option<OnIdle>,
    /// Whether changes need the lock [default: optional]
    #[arg(long, value_name = "HOW", value_parser = one_of::<LockMode>(LOCKS))]
    lock: Option<LockMode>,
    #[command(flatten)]
    body: Body,
    /// The initial fields of a new session
    #[arg(long, value_name = "JSON", value_parser = fields)]
    fields: Option<Fields>,
}

impl OpenArgs {
    fn open(self) -> Result<Open, Failure> {
        let body = self.body.read()?;
        let content = (body.is_some() || self.fields.is_some()).then_some(Content { body, fields: self.fields });
        let config = OpenConfig { idle_timeout_ms: self.idle_timeout_ms, on_idle: self.on_idle, lock: self.lock };
        Ok(Open {
            id: self.session.map(|id| id.to_string()),
            path: self.path,
            workspace: self.workspace,
            kind: self.kind,
            mode: self.mode,
            config: Some(config).filter(|config| *config != OpenConfig::default()),
            content,
            ..Open::default()
        })
    }
}

impl Requests for Request {
    async fn ask(self, asker: &Asker) -> Result<(), Failure> {
        let client = &asker.client;
        match self {
            Self::Open(open) => asker.ask(client.open(open.open()?)).await,
            Self::Get { session } => asker.ask(asker.session(&session).get()).await,
            Self::List(list) => list.show(asker).await,
            Self::Touch { session } => asker.ask(asker.session(&session).touch()).await,
            Self::Close { session, token, discard } => {
                let close = Close { token: token.token, discard: discard.then_some(true), ..Close::default() };
                asker.ask(asker.session(&session).close(close)).await
            }
        }
    }
}
