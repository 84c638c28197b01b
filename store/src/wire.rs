//! The one way to other processes: request, publish and subscribe over NATS.
//!
//! Invariant: silence is never told as a no. [`RequestError::NoResponders`] and [`RequestError::Refused`] mean that the
//! message had no effect; [`RequestError::Unknown`] means that it may have had one.
//!
//! Deliberately absent: JetStream, which is behind [`crate::Storage`] and [`crate::Feed`]. The data types are those of
//! async-nats; [`nats::Nats`] is the real wire, `crate::net::Process` the one in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::{HeaderMap, Message, Subject};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

pub mod nats;

pub use nats::Nats;

/// A message that wants one answer.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where to.
    pub subject: Subject,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its body.
    pub payload: Bytes,
    /// How long the answer is waited for.
    pub timeout: Duration,
}

/// A message that nobody waits for an answer to.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub subject: Subject,
    /// Where an answer, or word that nobody listens, is to go.
    pub reply: Option<Subject>,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its body.
    pub payload: Bytes,
}

impl Outgoing {
    /// A message with a body only.
    pub fn to(subject: impl Into<Subject>, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), reply: None, headers: None, payload: payload.into() }
    }

    /// The same with headers.
    #[must_use]
    pub fn with_headers(self, headers: HeaderMap) -> Self {
        Self { headers: Some(headers), ..self }
    }

    /// The same with a reply subject.
    #[must_use]
    pub fn with_reply(self, reply: impl Into<Subject>) -> Self {
        Self { reply: Some(reply.into()), ..self }
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody listens: this copy had no effect.
    #[error("nobody listens")]
    NoResponders,
    /// It is over the server's limit, and was not sent.
    #[error("the message is too large: {0}")]
    TooLarge(String),
    /// It was not sent: its subject is none.
    #[error("the request was refused: {0}")]
    Refused(String),
    /// No answer in time, or the connection is closed: it may have had an effect.
    #[error("no answer: {0}")]
    Unknown(String),
}

/// Why a message was not taken. That it was taken does not mean that it arrives.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It is over the server's limit.
    #[error("the message is too large: {0}")]
    TooLarge(String),
    /// The connection is closed, or the subject is none.
    #[error("the message was not sent: {0}")]
    NotSent(String),
}

/// The connection is closed, or does not allow it.
#[derive(Debug, thiserror::Error)]
#[error("the connection refuses: {0}")]
pub struct WireError(pub String);

/// What a subscription receives.
#[async_trait]
pub trait Messages: Stream<Item = Message> + Send + Sync + Unpin {
    /// Takes no new messages; the stream ends behind those that are on their way.
    async fn drain(&mut self) -> Result<(), WireError>;
}

/// One subscription; dropping it ends it.
pub struct Subscription(Box<dyn Messages>);

impl Subscription {
    /// A subscription that receives `messages`.
    pub fn new(messages: impl Messages + 'static) -> Self {
        Self(Box::new(messages))
    }

    /// Takes no new messages; the stream ends behind those that are on their way.
    ///
    /// # Errors
    /// [`WireError`] when the connection is closed.
    pub async fn drain(&mut self) -> Result<(), WireError> {
        self.0.drain().await
    }
}

impl Stream for Subscription {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        Pin::new(&mut *self.0).poll_next(context)
    }
}

/// What coordinators and workers need of NATS.
#[async_trait]
pub trait Wire: Send + Sync + 'static {
    /// Sends a request and waits for its first answer.
    async fn request(&self, request: Request) -> Result<Message, RequestError>;

    /// Publishes a message. On one connection messages leave in the order of these calls.
    async fn publish(&self, message: Outgoing) -> Result<(), PublishError>;

    /// Subscribes to `subject`, which may have wildcards; of all who subscribe with one `queue`, one gets each message.
    async fn subscribe(&self, subject: Subject, queue: Option<&str>) -> Result<Subscription, WireError>;

    /// Waits until what was asked and published before has left this process.
    async fn flush(&self) -> Result<(), WireError>;

    /// A subject that nobody else has. Below it, all subjects are this connection's own.
    fn new_inbox(&self) -> String;

    /// How often the connection was made. What was published before the last time may be lost.
    fn connects(&self) -> u64;
}

/// A shared wire.
pub type SharedWire = Arc<dyn Wire>;
