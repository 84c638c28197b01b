//! A client that knows nothing but NATS and JSON, as a foreign one does.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subject};
use futures_util::StreamExt;
use holdfast_store::net::Process;
use holdfast_store::wire::{Outgoing, Request, RequestError, Subscription, Wire, WireError};
use serde_json::Value;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A foreign client.
#[derive(Clone)]
pub struct Client {
    process: Process,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// It was done.
    Done(Value),
    /// It was refused: what stands under `error`.
    Refused(Value),
    /// Nobody listens.
    Nobody,
    /// No answer in time.
    Silence,
}

impl Reply {
    fn of(message: &Message) -> Self {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Self::Nobody;
        }
        let value: Value = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
        match value.get("error") {
            Some(error) => Self::Refused(error.clone()),
            None => Self::Done(value),
        }
    }

    /// Whether the same request may be sent again: it was not answered, or the answer says so.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Done(_) => false,
            Self::Refused(error) => error["retryable"] == true,
            Self::Nobody | Self::Silence => true,
        }
    }

    /// The answer of what was done.
    ///
    /// # Panics
    /// When it was not done.
    #[track_caller]
    pub fn done(self) -> Value {
        match self {
            Self::Done(value) => value,
            other => panic!("not done: {other:?}"),
        }
    }

    /// Why it was refused.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(error) => error["reason"].as_str(),
            Self::Done(_) | Self::Nobody | Self::Silence => None,
        }
    }
}

impl Client {
    pub(crate) fn new(process: Process) -> Self {
        Self { process }
    }

    /// Its process, which can be cut off and killed as any other.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Asks and waits for the answer.
    pub async fn ask(&self, subject: &str, body: &Value) -> Reply {
        let payload = body.to_string().into();
        let request = Request { subject: subject.into(), headers: None, payload, timeout: PATIENCE };
        match self.process.request(request).await {
            Ok(message) => Reply::of(&message),
            Err(RequestError::NoResponders) => Reply::Nobody,
            Err(RequestError::TooLarge(_) | RequestError::Refused(_) | RequestError::Unknown(_)) => Reply::Silence,
        }
    }

    /// A request whose reply subject its caller knows.
    ///
    /// # Errors
    /// When the connection takes no subscriptions.
    pub async fn begin(&self, subject: &str, body: &Value) -> Result<Pending, WireError> {
        let inbox = self.process.new_inbox();
        let answers = self.process.subscribe(Subject::from(inbox.as_str()), None).await?;
        let request = Outgoing::to(subject, body.to_string()).with_reply(inbox.as_str());
        Ok(Pending { process: self.process.clone(), inbox, answers, request: Some(request) })
    }

    /// Listens to signals.
    ///
    /// # Errors
    /// When the connection takes no subscriptions.
    pub async fn listen(&self, subject: &str) -> Result<Signals, WireError> {
        Ok(Signals(self.process.subscribe(Subject::from(subject), None).await?))
    }
}

/// A request that waits for its answer. Once it is dropped, nobody listens on its reply subject.
pub struct Pending {
    process: Process,
    /// Its reply subject.
    pub inbox: String,
    answers: Subscription,
    request: Option<Outgoing>,
}

impl Pending {
    /// Sends it, once, and waits for its answer.
    pub async fn answer(&mut self, patience: Duration) -> Reply {
        if let Some(request) = self.request.take()
            && self.process.publish(request).await.is_err()
        {
            return Reply::Silence;
        }
        match tokio::time::timeout(patience, self.answers.next()).await {
            Ok(Some(message)) => Reply::of(&message),
            Ok(None) | Err(_) => Reply::Silence,
        }
    }
}

/// Signals that a client hears.
pub struct Signals(Subscription);

impl Signals {
    /// The next one's subject and body, if one comes within `time`.
    pub async fn next_within(&mut self, time: Duration) -> Option<(String, Value)> {
        let message = tokio::time::timeout(time, self.0.next()).await.ok()??;
        Some((message.subject.to_string(), serde_json::from_slice(&message.payload).unwrap_or(Value::Null)))
    }

    /// All that come until none does for `quiet`.
    pub async fn until_quiet(&mut self, quiet: Duration) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        while let Some(signal) = self.next_within(quiet).await {
            all.push(signal);
        }
        all
    }
}
