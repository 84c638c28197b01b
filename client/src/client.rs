//! What all requests of a client share: the connection, the subject root, the namespace and the actor.

use std::time::Duration;

use holdfast_protocol::request::Request;
use holdfast_protocol::subject::{Root, Target, Verb};
use holdfast_protocol::{Namespace, SessionId, SessionKey, WorkerName};
use serde_json::{Map, Value};

use crate::call::{Call, members_of};
use crate::denials::Denials;

/// How long a request may take with all its retries, by default.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of one namespace. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) nats: async_nats::Client,
    root: Root,
    namespace: Namespace,
    pub(crate) actor: Option<String>,
    pub(crate) patience: Duration,
    pub(crate) denials: Denials,
}

impl Client {
    /// A client of the namespace `default` below the root `hf`.
    ///
    /// It cannot tell a request that NATS denies from one that is not answered, unless [`Client::noticing`] is called
    /// too; [`Client::connect`] does both.
    pub fn new(nats: async_nats::Client) -> Self {
        let namespace = Namespace::parse("default").expect("it follows the rule for namespaces");
        let denials = Denials::default();
        Self { nats, root: Root::default(), namespace, actor: None, patience: PATIENCE, denials }
    }

    /// Connects. A request that NATS denies ends at once with `forbidden` / `permission_denied`. This replaces the
    /// event callback of `options`.
    ///
    /// # Errors
    /// When the first connection fails.
    pub async fn connect(
        servers: impl async_nats::ToServerAddrs,
        options: async_nats::ConnectOptions,
    ) -> Result<Self, async_nats::ConnectError> {
        let denials = Denials::default();
        let noted = denials.clone();
        let options = options.event_callback(move |event| {
            if let async_nats::Event::ServerError(error) = &event {
                noted.note(&error.to_string());
            }
            std::future::ready(())
        });
        Ok(Self::new(options.connect(servers).await?).noticing(denials))
    }

    /// Ends requests that `denials` names, for a connection whose event callback tells it the server's errors.
    #[must_use]
    pub fn noticing(self, denials: Denials) -> Self {
        Self { denials, ..self }
    }

    /// Uses another subject root.
    #[must_use]
    pub fn below(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    /// Uses another namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Names who asks, for the audit trail. It is free text and proves nothing.
    #[must_use]
    pub fn acting_as(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// Sets how long a request may take with all its retries; 10 seconds by default. The time that a request waits on
    /// purpose, as with [`Acquire::wait`](crate::Acquire::wait), is added.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The session `id` of this client's namespace. This sends nothing, and the session need not exist.
    pub fn session(&self, id: SessionId) -> SessionClient {
        SessionClient { client: self.clone(), key: SessionKey::new(self.namespace.clone(), id) }
    }

    /// A request about the namespace or the fleet as a whole.
    pub(crate) fn call<T>(&self, verb: Verb, request: &impl Request) -> Call<T> {
        debug_assert!(matches!(verb.target(), Target::Namespace | Target::Fleet));
        let subject = match verb.target() {
            Target::Fleet => self.root.sys_request(verb, None),
            _ => self.root.namespace_request(verb, &self.namespace),
        };
        Call::new(self.clone(), verb, subject, members_of(request))
    }

    /// A request about one worker.
    pub(crate) fn call_worker<T>(&self, verb: Verb, worker: &WorkerName, request: &impl Request) -> Call<T> {
        debug_assert_eq!(verb.target(), Target::Worker);
        Call::new(self.clone(), verb, self.root.sys_request(verb, Some(worker)), members_of(request))
    }
}

/// The requests about one session. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionClient {
    pub(crate) client: Client,
    key: SessionKey,
}

impl SessionClient {
    /// The session's id.
    pub fn id(&self) -> &SessionId {
        &self.key.id
    }

    /// A request with the caller's own members, for a kind of session other than `document`. `verb` must be about a
    /// session.
    pub fn ask<T>(&self, verb: Verb, members: Map<String, Value>) -> Call<T> {
        debug_assert_eq!(verb.target(), Target::Session);
        Call::new(self.client.clone(), verb, self.client.root.session_request(verb, &self.key), members)
    }

    pub(crate) fn call<T>(&self, verb: Verb, request: &impl Request) -> Call<T> {
        self.ask(verb, members_of(request))
    }

    /// The subject of the session's signals, or of one group of them.
    pub(crate) fn signals_subject(&self, group: Option<&str>) -> String {
        self.client.root.signals(&self.key, group)
    }
}
