//! [`Wire`] on a connection of async-nats.
//!
//! Deliberately absent: connecting (`connect`).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use async_nats::{Client, Message, PublishErrorKind, RequestErrorKind, Statistics, Subject, Subscriber};
use async_trait::async_trait;
use futures_util::Stream;

use super::{Messages, Outgoing, PublishError, Request, RequestError, SharedWire, Subscription, Wire, WireError};

/// [`Wire`] on a connection to nats-server.
#[derive(Clone, Debug)]
pub struct Nats {
    client: Client,
    statistics: Arc<Statistics>,
}

impl Nats {
    /// The wire of `client`.
    pub fn new(client: Client) -> Self {
        Self { statistics: client.statistics(), client }
    }

    /// The same, shared.
    pub fn shared(client: Client) -> SharedWire {
        Arc::new(Self::new(client))
    }
}

#[async_trait]
impl Wire for Nats {
    async fn request(&self, request: Request) -> Result<Message, RequestError> {
        let Request { subject, headers, payload, timeout } = request;
        let request =
            async_nats::Request { payload: Some(payload), headers, timeout: Some(Some(timeout)), inbox: None };
        self.client.send_request(subject, request).await.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => RequestError::NoResponders,
            RequestErrorKind::MaxPayloadExceeded => RequestError::TooLarge(error.to_string()),
            RequestErrorKind::InvalidSubject => RequestError::Refused(error.to_string()),
            RequestErrorKind::TimedOut | RequestErrorKind::Other => RequestError::Unknown(error.to_string()),
        })
    }

    async fn publish(&self, message: Outgoing) -> Result<(), PublishError> {
        let Outgoing { subject, reply, headers, payload } = message;
        let client = &self.client;
        let sent = match (reply, headers) {
            (None, None) => client.publish(subject, payload).await,
            (None, Some(headers)) => client.publish_with_headers(subject, headers, payload).await,
            (Some(reply), None) => client.publish_with_reply(subject, reply, payload).await,
            (Some(reply), Some(headers)) => {
                client.publish_with_reply_and_headers(subject, reply, headers, payload).await
            }
        };
        sent.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => PublishError::TooLarge(error.to_string()),
            PublishErrorKind::InvalidSubject | PublishErrorKind::Send => PublishError::NotSent(error.to_string()),
        })
    }

    async fn subscribe(&self, subject: Subject, queue: Option<&str>) -> Result<Subscription, WireError> {
        let subscribed = match queue {
            None => self.client.subscribe(subject).await,
            Some(queue) => self.client.queue_subscribe(subject, queue.to_owned()).await,
        };
        subscribed.map(|subscriber| Subscription::new(Received(subscriber))).map_err(refused)
    }

    async fn flush(&self) -> Result<(), WireError> {
        self.client.flush().await.map_err(refused)
    }

    fn new_inbox(&self) -> String {
        self.client.new_inbox()
    }

    fn connects(&self) -> u64 {
        self.statistics.connects.load(Ordering::Relaxed)
    }
}

fn refused(error: impl std::fmt::Display) -> WireError {
    WireError(error.to_string())
}

struct Received(Subscriber);

impl Stream for Received {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        Pin::new(&mut self.0).poll_next(context)
    }
}

#[async_trait]
impl Messages for Received {
    async fn drain(&mut self) -> Result<(), WireError> {
        self.0.drain().await.map_err(refused)
    }
}
