//! One request of the contract: its body, its `request_id`, and how it is sent.
//!
//! Invariant: the bytes of a [`Call`] are made once. A retry sends the very same ones, so a coordinator that has done the
//! thing already answers as it did the first time.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::RequestId;
use holdfast_protocol::subject::Verb;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::client::Client;
use crate::error::Error;
use crate::retry;

/// A request's own members, beside `request_id` and `actor`, and what answers it.
pub trait Ask: Serialize + Send + Sync {
    /// What is asked.
    const VERB: Verb;
    /// What comes back.
    type Reply: DeserializeOwned;

    /// How long the request waits on purpose, as for a lock: so much longer than its caller's patience it may take.
    fn may_take(&self) -> Duration {
        Duration::ZERO
    }
}

/// A request that is ready to be sent: await it, or change it before.
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
#[derive(Debug)]
pub struct Call<A> {
    client: Client,
    subject: String,
    ask: A,
    request_id: RequestId,
    actor: Option<String>,
    patience: Duration,
}

#[derive(Serialize)]
struct Body<'a, A> {
    #[serde(flatten)]
    ask: &'a A,
    request_id: &'a RequestId,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
}

impl<A: Ask> Call<A> {
    pub(crate) fn new(client: Client, subject: String, ask: A) -> Self {
        let actor = client.actor.clone();
        let patience = client.patience + ask.may_take();
        Self { client, subject, ask, request_id: RequestId::made(Uuid::now_v7()), actor, patience }
    }

    /// Names the request, so that a program that starts anew can ask for the same outcome again.
    pub fn request_id(mut self, request_id: RequestId) -> Self {
        self.request_id = request_id;
        self
    }

    /// Says who asks, for the audit trail.
    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// How long it may take with all its retries, in place of the client's patience.
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience + self.ask.may_take();
        self
    }

    /// The subject it is sent to.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The body that is sent, JSON.
    pub fn body(&self) -> Bytes {
        let body = Body { ask: &self.ask, request_id: &self.request_id, actor: self.actor.as_deref() };
        serde_json::to_vec(&body).expect("a request is strings, numbers and JSON values").into()
    }

    /// Sends it, and returns the reply's body as it came.
    ///
    /// # Errors
    /// As [`Error`] has it; never an error reply in the place of a reply.
    pub async fn send_raw(&self) -> Result<Bytes, Error> {
        let sending = retry::Sending {
            nats: &self.client.nats,
            subject: &self.subject,
            body: self.body(),
            request_id: &self.request_id,
            is_read: A::VERB.is_read(),
            may_take: self.ask.may_take(),
        };
        retry::until_answered(&sending, self.patience).await
    }

    /// Reads a reply's body that [`Call::send_raw`] returned.
    ///
    /// # Errors
    /// [`Error::Refused`] with `internal` / `bug` when it does not have the shape of the contract.
    pub fn read(&self, reply: &[u8]) -> Result<A::Reply, Error> {
        serde_json::from_slice(reply).map_err(|problem| Error::of_garbled(&problem, &self.request_id))
    }

    /// Sends it, and returns the reply.
    ///
    /// # Errors
    /// As [`Error`] has it.
    pub async fn send(&self) -> Result<A::Reply, Error> {
        self.read(&self.send_raw().await?)
    }
}

impl<A: Ask + 'static> IntoFuture for Call<A> {
    type Output = Result<A::Reply, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.send().await })
    }
}
