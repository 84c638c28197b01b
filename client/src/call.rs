//! One request of the contract: its body, its `request_id`, and how it is sent.
//!
//! Invariant: the bytes of a [`Call`] are made once. A retry sends the same bytes, so a coordinator that has executed
//! the request already gives the first answer again.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::RequestId;
use holdfast_protocol::request::Request;
use holdfast_protocol::subject::Verb;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::client::Client;
use crate::error::Error;
use crate::retry;

/// A request that is ready to be sent. Awaiting it sends it and gives a `T`; it can be changed before.
///
/// ```no_run
/// # use std::time::Duration;
/// # use holdfast_client::{Client, Edit, protocol::{RequestId, SessionId}};
/// # async fn example(client: Client, id: SessionId) -> Result<(), Box<dyn std::error::Error>> {
/// let session = client.session(id);
/// // A job that may be run again after a crash names its requests itself.
/// let request = RequestId::parse("job-17-step-3")?;
/// session.edit(Edit::body("done")).request_id(request).within(Duration::from_secs(60)).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is asked until a call is awaited"]
pub struct Call<T> {
    client: Client,
    verb: Verb,
    subject: String,
    members: Map<String, Value>,
    request_id: RequestId,
    patience: Duration,
    wait: Duration,
    reply: PhantomData<fn() -> T>,
}

/// The members of `request`.
pub(crate) fn members_of(request: &impl Request) -> Map<String, Value> {
    match serde_json::to_value(request) {
        Ok(Value::Object(members)) => members,
        // The value is not shown, because it may have a token.
        _ => unreachable!("a request is an object of strings, numbers and JSON values"),
    }
}

impl<T> Call<T> {
    pub(crate) fn new(client: Client, verb: Verb, subject: String, mut members: Map<String, Value>) -> Self {
        if let Some(actor) = client.actor.clone() {
            members.entry("actor").or_insert_with(|| actor.into());
        }
        let given = members.get("request_id").and_then(Value::as_str).and_then(|id| RequestId::parse(id).ok());
        let request_id = given.unwrap_or_else(|| RequestId::made(Uuid::now_v7()));
        members.entry("request_id").or_insert_with(|| request_id.as_str().into());
        let patience = client.patience;
        Self { client, verb, subject, members, request_id, patience, wait: Duration::ZERO, reply: PhantomData }
    }

    pub(crate) fn waiting(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Sets the request's id, so that a program that restarts can ask for the same outcome again.
    pub fn request_id(mut self, request_id: RequestId) -> Self {
        self.members.insert("request_id".to_owned(), request_id.as_str().into());
        self.request_id = request_id;
        self
    }

    /// Names who asks, for the audit trail.
    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.members.insert("actor".to_owned(), actor.into().into());
        self
    }

    /// Sets how long it may take with all its retries, in place of the client's default.
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// How long it may take at most: the time for its retries and the time that it waits on purpose, as for a lock.
    pub fn may_take(&self) -> Duration {
        self.patience + self.wait
    }

    /// The subject it is sent to.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The body that is sent, JSON.
    pub fn body(&self) -> Bytes {
        serde_json::to_vec(&self.members).expect("JSON values serialize").into()
    }

    /// Sends it, and returns the reply's body unchanged.
    ///
    /// # Errors
    /// [`Error`]. An error reply is never returned as a reply.
    pub async fn send_raw(&self) -> Result<Bytes, Error> {
        let sending = retry::Sending {
            nats: &self.client.nats,
            denials: &self.client.denials,
            subject: &self.subject,
            body: self.body(),
            request_id: &self.request_id,
            is_read: self.verb.is_read(),
            wait: self.wait,
        };
        retry::until_answered(&sending, self.may_take()).await
    }
}

impl<T: DeserializeOwned> Call<T> {
    /// Reads a reply's body that [`Call::send_raw`] returned.
    ///
    /// # Errors
    /// [`Error::Refused`] with `internal` / `bug` when it does not have the shape of the contract.
    pub fn read(&self, reply: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(reply).map_err(|problem| Error::of_garbled(&problem, &self.request_id))
    }

    /// Sends it, and returns the reply.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn send(&self) -> Result<T, Error> {
        self.read(&self.send_raw().await?)
    }
}

impl<T: DeserializeOwned + 'static> IntoFuture for Call<T> {
    type Output = Result<T, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.send().await })
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The members may have a token or a user's text, and neither may reach a log line.
        f.debug_struct("Call")
            .field("subject", &self.subject)
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}
