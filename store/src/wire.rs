//! The only way to other processes: request, publish and subscribe over NATS.
//!
//! Invariant: silence is never reported as a refusal. [`RequestError::NoResponders`] and [`RequestError::Refused`] mean
//! that the message had no effect; [`RequestError::Unknown`] means that it may have had one.
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

/// The header with the id of an atomic batch, nats-server's ADR-50: its messages are stored together or not at all.
pub const BATCH_ID: &str = "Nats-Batch-Id";
/// The header with the number of a message in its batch, from 1.
pub const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
/// The header of the last message of a batch, whose answer is that of the whole batch.
pub const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// A message that expects one answer.
#[derive(Clone, Debug)]
pub struct Request {
    /// The subject that it is sent to.
    pub subject: Subject,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its body.
    pub payload: Bytes,
    /// How long to wait for the answer.
    pub timeout: Duration,
}

/// A message that expects no answer.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The subject that it is sent to.
    pub subject: Subject,
    /// The subject for an answer, or for the server's message that there is no responder.
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
    /// No responder: this copy had no effect.
    #[error("nobody listens")]
    NoResponders,
    /// It is larger than the server's limit, and was not sent.
    #[error("the message is too large: {0}")]
    TooLarge(String),
    /// It was not sent: its subject is invalid.
    #[error("the request was refused: {0}")]
    Refused(String),
    /// No answer in time, or the connection was closed: it may have had an effect.
    #[error("no answer: {0}")]
    Unknown(String),
}

/// Why a message was not sent. A message that was sent may still be lost.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It is larger than the server's limit.
    #[error("the message is too large: {0}")]
    TooLarge(String),
    /// The connection is closed, or the subject is invalid.
    #[error("the message was not sent: {0}")]
    NotSent(String),
}

/// The connection is closed, or its permissions do not allow it.
#[derive(Debug, thiserror::Error)]
#[error("the connection refuses: {0}")]
pub struct WireError(pub String);

/// The messages that a subscription receives.
#[async_trait]
pub trait Messages: Stream<Item = Message> + Send + Sync + Unpin {
    /// Stops receiving new messages; the stream ends after those that the server has already sent.
    async fn drain(&mut self) -> Result<(), WireError>;
}

/// A subscription. Dropping it ends it.
pub struct Subscription(Box<dyn Messages>);

impl Subscription {
    /// A subscription that receives `messages`.
    pub fn new(messages: impl Messages + 'static) -> Self {
        Self(Box::new(messages))
    }

    /// Stops receiving new messages; the stream ends after those that the server has already sent.
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

    /// Publishes a message. One connection sends messages in the order of these calls.
    async fn publish(&self, message: Outgoing) -> Result<(), PublishError>;

    /// Subscribes to `subject`, which may have wildcards. Of all subscribers with the same `queue`, one gets each
    /// message.
    async fn subscribe(&self, subject: Subject, queue: Option<&str>) -> Result<Subscription, WireError>;

    /// Waits until the messages that were sent before have left this process.
    async fn flush(&self) -> Result<(), WireError>;

    /// A new subject of this connection's own. All subjects below it are this connection's own too.
    fn new_inbox(&self) -> String;

    /// How many times the connection was made. Messages that were published before the last time may be lost.
    fn connects(&self) -> u64;
}

/// A shared wire.
pub type SharedWire = Arc<dyn Wire>;
