//! Where requests come in: one subscription per group of verbs, a bounded number of tasks, one answer each.
//!
//! The subscriptions are those of `Root::catch_all`, which take in every verb's subject and whatever is malformed below
//! them. Every message then arrives once; an endpoint of its own per verb, beside a catch-all in another queue group, would
//! have each delivered twice, with its body.
//!
//! Invariant: every request with a reply subject is answered, even when its handler panics; one without has no effect. No
//! body is ever logged.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Message, PublishErrorKind, Subject, Subscriber};
use futures_util::{FutureExt, StreamExt};
use holdfast_protocol::subject::{RequestSubject, Root, Verb};
use holdfast_protocol::{Error, Reason, RequestId};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

use crate::answer::Answer;
use crate::call::Incoming;
use crate::error::{self, StartError};
use crate::handle;
use crate::hub::Hub;
use crate::micro::{Micro, QUEUE};

/// How long a subscription may take to end once it is drained; then the connection is gone anyway.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The way in.
pub(crate) struct Endpoints {
    hub: Arc<Hub>,
    micro: Arc<Micro>,
    in_flight: Arc<Semaphore>,
}

impl Endpoints {
    pub(crate) fn new(hub: Arc<Hub>, micro: Arc<Micro>) -> Arc<Self> {
        let in_flight = Arc::new(Semaphore::new(hub.config.max_in_flight));
        Arc::new(Self { hub, micro, in_flight })
    }

    /// Subscribes to all requests.
    ///
    /// # Errors
    /// [`StartError`] when the connection takes no subscriptions.
    pub(crate) async fn subscribe(&self) -> Result<Vec<Subscriber>, StartError> {
        let mut subscribers = Vec::new();
        for subject in self.hub.config.root.catch_all() {
            let subscriber = self.hub.client.queue_subscribe(subject.clone(), QUEUE.to_owned()).await;
            subscribers.push(subscriber.map_err(|source| StartError::Subscribe { subject, source })?);
        }
        Ok(subscribers)
    }

    /// Takes requests until the hub is leaving, and then those that are still on their way.
    pub(crate) async fn run(self: Arc<Self>, mut requests: Subscriber) {
        let leaving = self.hub.leaving.clone();
        loop {
            tokio::select! {
                () = leaving.cancelled() => break,
                request = requests.next() => match request {
                    Some(request) => self.take(request).await,
                    None => return,
                },
            }
        }
        if let Err(error) = requests.drain().await {
            tracing::debug!(%error, "the connection is closed");
            return;
        }
        let rest = async {
            while let Some(request) = requests.next().await {
                self.take(request).await;
            }
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, rest).await.is_err() {
            tracing::warn!("requests on their way may be lost: the server does not confirm the end of a subscription");
        }
    }

    async fn take(self: &Arc<Self>, message: Message) {
        let arrived = Instant::now();
        let made = RequestId::made(Uuid::now_v7());
        let Some(reply) = message.reply else {
            tracing::debug!(subject = %message.subject, "request without a reply subject dropped");
            return;
        };
        let root = &self.hub.config.root;
        if is_log_frame(root, &message.subject) {
            return;
        }
        let subject = match root.parse_request(&message.subject) {
            Ok(subject) => subject,
            Err(error) => {
                self.answer(&reply, Answer::error(error, &message.payload, &made), verb_of(&message.subject), arrived)
                    .await;
                return;
            }
        };
        let Ok(permit) = self.in_flight.clone().try_acquire_owned() else {
            let error = error::busy(Reason::MailboxFull, "this coordinator has too many requests under way");
            self.answer(&reply, Answer::error(error, &message.payload, &made), Some(subject.verb()), arrived).await;
            return;
        };
        let incoming = Incoming {
            payload: message.payload,
            made,
            arrived,
            timeout: self.hub.config.request_timeout,
            permit: Mutex::new(Some(permit)),
        };
        let endpoints = self.clone();
        let abort = self.hub.abort.clone();
        let work = async move { endpoints.work(subject, incoming, &reply).await };
        self.hub.tasks.spawn(abort.run_until_cancelled_owned(work));
    }

    async fn work(&self, subject: RequestSubject, incoming: Incoming, reply: &Subject) {
        let verb = subject.verb();
        // A panic is a bug in one handler; what it shared it left whole, see the locks of each.
        let outcome = AssertUnwindSafe(handle::answer(&self.hub, subject, &incoming)).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| {
            tracing::error!(%verb, "a handler panicked");
            Err(error::bug("the request met a bug in the coordinator"))
        });
        let answer = outcome.unwrap_or_else(|error| Answer::error(error, &incoming.payload, &incoming.made));
        self.answer(reply, answer, Some(verb), incoming.arrived).await;
    }

    async fn answer(&self, reply: &Subject, answer: Answer, verb: Option<Verb>, arrived: Instant) {
        let Answer { headers, body, mut fault } = answer;
        let sent = match headers {
            Some(headers) => self.hub.client.publish_with_headers(reply.clone(), headers, body).await,
            None => self.hub.client.publish(reply.clone(), body).await,
        };
        if let Err(unsent) = sent {
            tracing::warn!(error = %unsent, "a reply was not sent");
            if unsent.kind() == PublishErrorKind::MaxPayloadExceeded {
                fault = self.answer_too_large(reply).await;
            }
        }
        if let Some(verb) = verb {
            self.micro.count(verb, arrived.elapsed(), fault);
        }
    }

    async fn answer_too_large(&self, reply: &Subject) -> Option<String> {
        let error = Error::new(Reason::RequestTooLarge, "the reply is over the server's max_payload");
        let answer = Answer::error(error, b"{}", &RequestId::made(Uuid::now_v7()));
        let headers = answer.headers.unwrap_or_default();
        if let Err(error) = self.hub.client.publish_with_headers(reply.clone(), headers, answer.body).await {
            tracing::warn!(%error, "a reply was not sent");
        }
        answer.fault
    }
}

/// Whether `subject` is that of a log, like `<root>.log.session.open`. The stream takes such a message and acknowledges it,
/// and no configuration of the stream can tell it from a frame; its sender must not get a second answer. Nothing comes of
/// it: the namespace `session` is reserved, so nobody reads or announces that log. A session that was made before it was
/// reserved may still write there.
fn is_log_frame(root: &Root, subject: &str) -> bool {
    root.parse_log(subject).is_some()
}

/// The verb that a malformed request meant, for the statistics.
fn verb_of(subject: &str) -> Option<Verb> {
    let mut tokens = subject.splitn(5, '.').skip(2);
    Verb::from_name(&format!("{}.{}", tokens.next()?, tokens.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_of_logs_are_no_requests() {
        let root = Root::default();
        assert!(is_log_frame(&root, "hf.log.session.open"));
        assert!(is_log_frame(&root, "hf.log.lock.s1"));
        assert!(!is_log_frame(&root, "hf.log.session.get.s1"));
        assert!(!is_log_frame(&root, "hf.default.session.open"));
    }

    #[test]
    fn malformed_requests_are_counted_where_they_were_meant_to_go() {
        assert_eq!(verb_of("hf.Default.session.get.x"), Some(Verb::SessionGet));
        assert_eq!(verb_of("hf.default.session.get"), Some(Verb::SessionGet));
        assert_eq!(verb_of("hf.default.session.frobnicate.x"), None);
        assert_eq!(verb_of("hf.default.session"), None);
    }
}
