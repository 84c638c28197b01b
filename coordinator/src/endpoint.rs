//! Where requests come in: one subscription per group of verbs, a bounded number of tasks, one answer each.
//!
//! The subscriptions are those of `Root::catch_all`, which take in every verb's subject and whatever is malformed below
//! them. Every message then arrives once; an endpoint of its own per verb, beside a catch-all in another queue group, would
//! have each delivered twice, with its body.
//!
//! Invariant: every request with a reply subject is answered, even when its handler panics; one without has no effect,
//! and so has one whose reply subject is not the asker's to publish to. What is over a bound is refused before it is
//! read. No body is ever logged.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::{Message, Subject};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use holdfast_protocol::subject::{RequestSubject, Root, Verb};
use holdfast_protocol::{Error, Reason, RequestId, SessionKey};
use holdfast_store::chance;
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::wire::{Outgoing, PublishError, Subscription};
use tokio::time::Instant;

use crate::admission::{Admission, Admitted, Pacing};
use crate::answer::Answer;
use crate::call::Incoming;
use crate::error::{self, StartError};
use crate::hub::Hub;
use crate::micro::{Micro, QUEUE};
use crate::verb::{self, Acquiring};

/// The largest `lock.acquire` that is read before its task is spawned, so that those behind it need not wait. Larger
/// ones are mostly white space, and take their place in line when they are read.
const ACQUIRE_BYTES: usize = 16 * 1024;
/// How much of a body is looked at for its `request_id` where the request is refused unread.
const PEEK_BYTES: usize = 16 * 1024;
/// How long a subscription may take to end once it is drained; then the connection is gone anyway.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The way in.
pub(crate) struct Endpoints {
    hub: Arc<Hub>,
    micro: Arc<Micro>,
    admission: Arc<Admission>,
}

/// A request that was taken in.
enum Work {
    /// One that is answered as soon as it can be.
    Request { subject: RequestSubject, incoming: Incoming, _admitted: Admitted },
    /// One for a lock. While it waits in line it has no body any more, and counts among those who wait.
    Acquire { key: SessionKey, acquiring: Acquiring, made: RequestId, arrived: Instant, _admitted: Option<Admitted> },
}

/// What is refused before any work is done, with the body to look for its `request_id`.
struct Refusal {
    error: Box<Error>,
    payload: Bytes,
    /// How long the answer waits.
    put_off: Duration,
}

impl Endpoints {
    pub(crate) fn new(hub: Arc<Hub>, micro: Arc<Micro>) -> Arc<Self> {
        let admission = Admission::new(&hub.config);
        Arc::new(Self { hub, micro, admission })
    }

    /// Subscribes to all requests.
    ///
    /// # Errors
    /// [`StartError`] when the connection takes no subscriptions.
    pub(crate) async fn subscribe(&self) -> Result<Vec<Subscription>, StartError> {
        let mut subscribers = Vec::new();
        for subject in self.hub.config.root.catch_all() {
            let subscriber = self.hub.wire.subscribe(subject.clone().into(), Some(QUEUE)).await;
            subscribers.push(subscriber.map_err(|source| StartError::Subscribe { subject, source })?);
        }
        Ok(subscribers)
    }

    /// Takes requests until the hub is leaving, and then those that are still on their way.
    pub(crate) async fn run(self: Arc<Self>, mut requests: Subscription) {
        let leaving = self.hub.leaving.clone();
        loop {
            tokio::select! {
                biased;
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
        let Some(reply) = message.reply.clone().filter(|reply| self.hub.config.root.may_answer(reply)) else {
            tracing::debug!(subject = %message.subject, "a request that nobody may be answered was dropped");
            return;
        };
        if is_log_frame(&self.hub.config.root, &message.subject) {
            return;
        }
        let made = RequestId::made(chance::id());
        let verb = verb_of(&message.subject);
        match self.begin(message, &reply, &made, arrived) {
            Ok(work) => {
                let endpoints = self.clone();
                self.spawn(async move { endpoints.work(work, &reply).await });
            }
            Err(Refusal { error, payload, put_off }) if put_off.is_zero() || self.is_full_of_refusals() => {
                self.answer(&reply, Answer::error(*error, &payload, &made), verb, arrived).await;
            }
            Err(Refusal { error, payload, put_off }) => {
                let endpoints = self.clone();
                self.spawn(async move {
                    tokio::time::sleep(put_off).await;
                    endpoints.answer(&reply, Answer::error(*error, &payload, &made), verb, arrived).await;
                });
            }
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.hub.tasks.spawn(self.hub.abort.clone().run_until_cancelled_owned(task));
    }

    /// Whether so much is under way that no refusal is put off.
    fn is_full_of_refusals(&self) -> bool {
        self.hub.tasks.len() > self.hub.config.max_waiters + self.hub.config.max_in_flight
    }

    /// Looks whether a request can be taken in, and has one that waits take its place in line. Awaits nothing, so that
    /// requests are in the order in which they came.
    fn begin(&self, message: Message, reply: &Subject, made: &RequestId, arrived: Instant) -> Result<Work, Refusal> {
        let Message { subject, payload, .. } = message;
        let limits = &self.hub.config.limits;
        let pacing = self.admission.pace(reply, payload.len());
        let put_off = if let Pacing::TooMuch { put_off } = pacing { put_off } else { Duration::ZERO };
        let refuse = |error| Refusal { error: Box::new(error), payload: payload.clone(), put_off };
        let refuse_unread = |error| {
            // A copy, so that the rest need not be kept until the answer.
            let begin = Bytes::copy_from_slice(&payload[..payload.len().min(PEEK_BYTES)]);
            Refusal { error: Box::new(error), payload: begin, put_off }
        };
        if payload.len() > limits.request_bytes {
            return Err(refuse_unread(error::over_limit(payload.len(), limits)));
        }
        let subject = self.hub.config.root.parse_request(&subject).map_err(refuse)?;
        if pacing != Pacing::Fine {
            let why = "this client sends more large requests than are taken in";
            return Err(refuse_unread(error::busy(Reason::MailboxFull, why)));
        }
        let admitted = self.admission.admit(reply, payload.len()).map_err(refuse_unread)?;
        let incoming = Incoming {
            reply: reply.clone(),
            payload: payload.clone(),
            made: made.clone(),
            arrived,
            timeout: self.hub.config.request_timeout,
            peeked: OnceLock::new(),
        };
        let is_short = payload.len() <= ACQUIRE_BYTES && !mutant::is(Mutant::PlaceAfterAwait);
        let key = match subject {
            RequestSubject::Session(Verb::LockAcquire, key) if is_short => key,
            subject => return Ok(Work::Request { subject, incoming, _admitted: admitted }),
        };
        let acquiring = verb::begin_acquire(&self.hub, &key, &incoming).map_err(refuse)?;
        let admitted = (!acquiring.waits()).then_some(admitted);
        Ok(Work::Acquire { key, acquiring, made: made.clone(), arrived, _admitted: admitted })
    }

    async fn work(&self, work: Work, reply: &Subject) {
        match work {
            Work::Request { subject: RequestSubject::Session(Verb::LockAcquire, key), incoming, _admitted } => {
                let acquire = async {
                    if mutant::is(Mutant::PlaceAfterAwait) {
                        tokio::time::sleep(chance::pause(Duration::ZERO..Duration::from_millis(5))).await;
                    }
                    let acquiring = verb::begin_acquire(&self.hub, &key, &incoming)?;
                    verb::acquire(&self.hub, &key, acquiring).await
                };
                let outcome = caught(Verb::LockAcquire, acquire).await;
                let refused = |error| Some(Answer::error(error, &incoming.payload, &incoming.made));
                if let Some(answer) = outcome.unwrap_or_else(refused) {
                    self.answer(reply, answer, Some(Verb::LockAcquire), incoming.arrived).await;
                }
            }
            Work::Request { subject, incoming, _admitted } => {
                let verb = subject.verb();
                let outcome = caught(verb, verb::answer(&self.hub, subject, &incoming)).await;
                let answer = outcome.unwrap_or_else(|error| Answer::error(error, &incoming.payload, &incoming.made));
                self.answer(reply, answer, Some(verb), incoming.arrived).await;
            }
            Work::Acquire { key, acquiring, made, arrived, _admitted } => {
                let verb = Verb::LockAcquire;
                let request_id = acquiring.request_id().clone();
                let outcome = caught(verb, verb::acquire(&self.hub, &key, acquiring)).await;
                let named =
                    |error: Error| if error.request_id.is_empty() { error.for_request(&request_id) } else { error };
                let answer = outcome.unwrap_or_else(|error| Some(Answer::error(named(error), b"{}", &made)));
                if let Some(answer) = answer {
                    self.answer(reply, answer, Some(verb), arrived).await;
                }
            }
        }
    }

    async fn answer(&self, reply: &Subject, answer: Answer, verb: Option<Verb>, arrived: Instant) {
        let Answer { headers, body, mut fault, granted } = answer;
        let unheard = granted.map(|granted| self.hub.grants.expect(granted));
        let answer = Outgoing { subject: reply.clone(), reply: unheard, headers, payload: body };
        if let Err(unsent) = self.hub.wire.publish(answer).await {
            tracing::warn!(error = %unsent, "a reply was not sent");
            if matches!(unsent, PublishError::TooLarge(_)) {
                fault = self.answer_too_large(reply).await;
            }
        }
        if let Some(verb) = verb {
            self.micro.count(verb, arrived.elapsed(), fault);
        }
    }

    async fn answer_too_large(&self, reply: &Subject) -> Option<String> {
        let error = Error::new(Reason::RequestTooLarge, "the reply is over the server's max_payload");
        let answer = Answer::error(error, b"{}", &RequestId::made(chance::id()));
        let Answer { headers, body, fault, .. } = answer;
        let answer = Outgoing { subject: reply.clone(), reply: None, headers, payload: body };
        if let Err(error) = self.hub.wire.publish(answer).await {
            tracing::warn!(%error, "a reply was not sent");
        }
        fault
    }
}

/// The outcome of a handler. A panic is a bug in one handler; what it shared it left whole, see the locks of each.
async fn caught<T>(verb: Verb, handling: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    AssertUnwindSafe(handling).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(%verb, "a handler panicked");
        Err(error::bug("the request met a bug in the coordinator"))
    })
}

/// Whether `subject` is that of a log, like `<root>.log.session.open`. The stream takes such a message and acknowledges
/// it, and no configuration of the stream can tell it from a frame; its sender must not get a second answer. Nothing
/// comes of it: the namespace `session` is reserved, so nobody reads or announces that log. A session that was made
/// before it was reserved may still write there.
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
