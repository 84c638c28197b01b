//! Receives requests: one subscription per group of verbs, a bounded number of tasks, one answer to each request.
//!
//! The subscriptions are those of `Root::catch_all`. They match every verb's subject and every malformed subject below
//! it, so each message arrives once. A subscription per verb, beside a catch-all in another queue group, would receive
//! each message twice.
//!
//! Invariant: every request with a reply subject is answered, even when its handler panics. A request has no effect if
//! it has no reply subject, or one to which its sender may not publish. A request above a bound is refused before it is
//! parsed. No body is ever logged.

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
use holdfast_store::trace::{self, Traces};
use holdfast_store::wire::{Outgoing, PublishError, Subscription};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::admission::{Admission, Admitted, Pacing};
use crate::asker::{Asker, passed_on};
use crate::audit::Audit;
use crate::context::Context;
use crate::error::{self, StartError};
use crate::micro::{Micro, QUEUE};
use crate::operation::Incoming;
use crate::response::Response;
use crate::verb::{self, Acquiring};

/// The largest `lock.acquire` that is parsed before its task is spawned, so that it does not delay the requests behind
/// it. Larger ones are mostly white space; they join the queue after they are parsed.
const ACQUIRE_BYTES: usize = 16 * 1024;
/// How much of a body is searched for its `request_id` when the request is refused without parsing.
const PEEK_BYTES: usize = 16 * 1024;
/// How long a drained subscription may take to end. After that the connection is lost anyway.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Receives requests and spawns their tasks.
pub(crate) struct Endpoints {
    context: Arc<Context>,
    micro: Arc<Micro>,
    admission: Arc<Admission>,
}

/// A request that was accepted.
enum Work {
    /// A request that is answered without waiting for a lock.
    Request { subject: RequestSubject, incoming: Box<Incoming>, audit: Option<Audit>, _admitted: Admitted },
    /// A request for a lock. While it waits it holds no body, and it counts as a waiter and not as in flight.
    Acquire { key: SessionKey, acquiring: Acquiring, made: RequestId, arrived: Instant, _admitted: Option<Admitted> },
}

/// A request that is refused before any work, with the part of the body that may have its `request_id`.
struct Refusal {
    error: Error,
    payload: Bytes,
    audit: Option<Audit>,
    /// How long the answer is delayed.
    put_off: Duration,
}

impl Endpoints {
    pub(crate) fn new(context: Arc<Context>, micro: Arc<Micro>) -> Arc<Self> {
        let admission = Admission::new(&context.config);
        Arc::new(Self { context, micro, admission })
    }

    /// Subscribes to all requests.
    ///
    /// # Errors
    /// [`StartError`] when the connection takes no subscriptions.
    pub(crate) async fn subscribe(&self) -> Result<Vec<Subscription>, StartError> {
        let mut subscribers = Vec::new();
        let root = &self.context.config.root;
        for subject in root.catch_all().into_iter().chain([root.waiters()]) {
            let subscriber = self.context.wire.subscribe(subject.clone().into(), Some(QUEUE)).await;
            subscribers.push(subscriber.map_err(|source| StartError::Subscribe { subject, source })?);
        }
        Ok(subscribers)
    }

    /// Accepts requests until the coordinator leaves, and then those that the server had already sent.
    pub(crate) async fn run(self: Arc<Self>, mut requests: Subscription) {
        let leaving = self.context.leaving.clone();
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
            tracing::warn!(
                "the server did not confirm the end of a subscription; requests that it had sent may be lost"
            );
        }
    }

    async fn take(self: &Arc<Self>, message: Message) {
        let arrived = Instant::now();
        let Some(message) = self.received(message).await else { return };
        let made = RequestId::made(chance::id());
        let verb = verb_of(&message.subject);
        let asker = self.asker(&message);
        let audit = Audit::of(verb, &message.subject, &message.payload, &asker, &made);
        let Some(reply) = message.reply.clone().filter(|reply| self.context.config.root.may_answer(reply)) else {
            tracing::debug!(subject = %message.subject, "a request was dropped: its reply subject is not allowed");
            return;
        };
        if is_log_frame(&self.context.config.root, &message.subject) {
            return;
        }
        let span = span_of(verb);
        let trace = trace::begin(&span, trace::of(message.headers.as_ref()));
        match span.in_scope(|| self.begin(message, asker, audit, &made, arrived)) {
            Ok(work) => {
                let endpoints = self.clone();
                let work = async move { endpoints.work(work, &reply).await }.instrument(span);
                self.spawn(trace::within(Traces::one(trace), work));
            }
            Err(refusal) => {
                let Refusal { error, payload, audit, put_off } = *refusal;
                refused(audit, &error);
                let response = Response::error(error, &payload, &made);
                if put_off.is_zero() || self.is_full_of_refusals() {
                    return self.answer(&reply, response, verb, arrived).await;
                }
                let endpoints = self.clone();
                self.spawn(async move {
                    tokio::time::sleep(put_off).await;
                    endpoints.answer(&reply, response, verb, arrived).await;
                });
            }
        }
    }

    /// The request as its client sent it. One that another coordinator passed on is confirmed to that coordinator.
    async fn received(&self, message: Message) -> Option<Message> {
        let root = &self.context.config.root;
        if root.parse_waiter(&message.subject).is_none() {
            return Some(message);
        }
        let passed = passed_on(root, &message)?;
        let confirmed = self.context.wire.publish(Outgoing::to(message.reply?, "{}")).await;
        confirmed.inspect_err(|error| tracing::debug!(%error, "a request was not taken over")).ok()?;
        Some(passed)
    }

    fn asker(&self, message: &Message) -> Asker {
        let reply = message.reply.clone().unwrap_or_else(|| Subject::from_static(""));
        match self.context.config.trust_request_info {
            true => Asker::told(message, reply),
            false => Asker::of(reply),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.context.tasks.spawn(self.context.abort.clone().run_until_cancelled_owned(task));
    }

    /// Whether so many refusals are delayed that the next one is sent at once.
    fn is_full_of_refusals(&self) -> bool {
        self.context.tasks.len() > self.context.config.max_waiters + self.context.config.max_in_flight
    }

    /// Decides whether a request is accepted. A request that waits for a lock joins the queue here. This awaits
    /// nothing, so the queue has the order of arrival.
    fn begin(
        &self,
        message: Message,
        asker: Asker,
        mut audit: Option<Audit>,
        made: &RequestId,
        arrived: Instant,
    ) -> Result<Work, Box<Refusal>> {
        let Message { subject, payload, .. } = message;
        let limits = &self.context.config.limits;
        let pacing = self.admission.pace(&asker, payload.len());
        let put_off = if let Pacing::TooMuch { put_off } = pacing { put_off } else { Duration::ZERO };
        let whole = |error: Error| (Box::new(error), payload.clone());
        // Copied, so that the whole body is not kept in memory until the answer.
        let unread =
            |error: Error| (Box::new(error), Bytes::copy_from_slice(&payload[..payload.len().min(PEEK_BYTES)]));
        let mut begun = || {
            if payload.len() > limits.request_bytes {
                return Err(unread(error::over_limit(payload.len(), limits)));
            }
            let subject = self.context.config.root.parse_request(&subject).map_err(whole)?;
            name_in_span(&subject);
            if pacing != Pacing::Fine {
                let why = "this client sends more large requests than are taken in";
                return Err(unread(error::busy(Reason::MailboxFull, why)));
            }
            let admitted = self.admission.admit(&asker, payload.len()).map_err(unread)?;
            let incoming = Incoming {
                asker: asker.clone(),
                payload: payload.clone(),
                made: made.clone(),
                arrived,
                timeout: self.context.config.request_timeout,
                peeked: OnceLock::new(),
            };
            let is_short = payload.len() <= ACQUIRE_BYTES && !mutant::is(Mutant::PlaceAfterAwait);
            let key = match subject {
                RequestSubject::Session(Verb::LockAcquire, key) if is_short => key,
                subject => {
                    let incoming = Box::new(incoming);
                    return Ok(Work::Request { subject, incoming, audit: audit.take(), _admitted: admitted });
                }
            };
            let acquiring = verb::begin_acquire(&self.context, &key, &incoming).map_err(whole)?;
            let admitted = (!acquiring.waits()).then_some(admitted);
            Ok(Work::Acquire { key, acquiring, made: made.clone(), arrived, _admitted: admitted })
        };
        let begun = begun();
        begun.map_err(|(error, payload)| Box::new(Refusal { error: *error, payload, audit, put_off }))
    }

    async fn work(&self, work: Work, reply: &Subject) {
        match work {
            Work::Request { subject: RequestSubject::Session(Verb::LockAcquire, key), incoming, _admitted, .. } => {
                let acquire = async {
                    if mutant::is(Mutant::PlaceAfterAwait) {
                        tokio::time::sleep(chance::pause(Duration::ZERO..Duration::from_millis(5))).await;
                    }
                    let acquiring = verb::begin_acquire(&self.context, &key, &incoming)?;
                    verb::acquire(&self.context, &key, acquiring).await
                };
                let outcome = caught(Verb::LockAcquire, acquire).await;
                let refused = |error| Some(Response::error(error, &incoming.payload, &incoming.made));
                if let Some(answer) = outcome.unwrap_or_else(refused) {
                    self.answer(reply, answer, Some(Verb::LockAcquire), incoming.arrived).await;
                }
            }
            Work::Request { subject, incoming, audit, _admitted } => {
                let verb = subject.verb();
                // An agent parses the body; a small one is looked into for the id that the log lines name.
                if !Span::current().is_disabled() && verb.is_relayed() && incoming.payload.len() <= PEEK_BYTES {
                    incoming.peeked();
                }
                let outcome = caught(verb, verb::answer(&self.context, subject, &incoming)).await;
                match &outcome {
                    Ok(answer) => done(audit, answer.unkept.as_deref()),
                    Err(error) => refused(audit, error),
                }
                let answer = outcome.unwrap_or_else(|error| Response::error(error, &incoming.payload, &incoming.made));
                self.answer(reply, answer, Some(verb), incoming.arrived).await;
            }
            Work::Acquire { key, acquiring, made, arrived, _admitted } => {
                let verb = Verb::LockAcquire;
                let request_id = acquiring.request_id().clone();
                let outcome = caught(verb, verb::acquire(&self.context, &key, acquiring)).await;
                let named =
                    |error: Error| if error.request_id.is_empty() { error.for_request(&request_id) } else { error };
                let answer = outcome.unwrap_or_else(|error| Some(Response::error(named(error), b"{}", &made)));
                if let Some(answer) = answer {
                    self.answer(reply, answer, Some(verb), arrived).await;
                }
            }
        }
    }

    async fn answer(&self, reply: &Subject, answer: Response, verb: Option<Verb>, arrived: Instant) {
        let Response { headers, body, mut fault, mut refused, granted, .. } = answer;
        let unheard = granted.map(|granted| self.context.grants.expect(granted));
        let answer = Outgoing { subject: reply.clone(), reply: unheard, headers, payload: body };
        if let Err(unsent) = self.context.wire.publish(answer).await {
            tracing::warn!(error = %unsent, "a reply was not sent");
            if matches!(unsent, PublishError::TooLarge(_)) {
                fault = self.answer_too_large(reply).await;
                refused = Some(Reason::RequestTooLarge);
            }
        }
        let took = arrived.elapsed();
        self.context.config.meters.answered(verb, refused, took);
        if let Some(verb) = verb {
            self.micro.count(verb, took, fault);
        }
    }

    async fn answer_too_large(&self, reply: &Subject) -> Option<String> {
        let error = Error::new(Reason::RequestTooLarge, "the reply is over the server's max_payload");
        let answer = Response::error(error, b"{}", &RequestId::made(chance::id()));
        let Response { headers, body, fault, .. } = answer;
        let answer = Outgoing { subject: reply.clone(), reply: None, headers, payload: body };
        if let Err(error) = self.context.wire.publish(answer).await {
            tracing::warn!(%error, "a reply was not sent");
        }
        fault
    }
}

/// Writes the audit line of a request that took effect, if it has one.
fn done(audit: Option<Audit>, unkept: Option<&str>) {
    if let Some(audit) = audit {
        audit.done(unkept);
    }
}

/// Writes the audit line of a request that was refused, if it has one.
fn refused(audit: Option<Audit>, error: &Error) {
    if let Some(audit) = audit {
        audit.refused(error);
    }
}

/// The outcome of a handler; a panic becomes an `internal` error. Shared state stays valid: see where each lock is
/// taken.
async fn caught<T>(verb: Verb, handling: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    AssertUnwindSafe(handling).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(%verb, "a handler panicked");
        Err(error::bug("the request met a bug in the coordinator"))
    })
}

/// The span of a request. Its fields are known once subject and body are read.
fn span_of(verb: Option<Verb>) -> Span {
    let verb = verb.map_or("unknown", Verb::as_str);
    tracing::info_span!("request", verb, namespace = Empty, session = Empty, worker = Empty, request_id = Empty)
}

fn name_in_span(subject: &RequestSubject) {
    let span = Span::current();
    match subject {
        RequestSubject::Session(_, key) => {
            span.record("namespace", key.namespace.as_str()).record("session", key.id.as_str());
        }
        RequestSubject::Namespace(_, namespace) => {
            span.record("namespace", namespace.as_str());
        }
        RequestSubject::Worker(_, worker) => {
            span.record("worker", worker.as_str());
        }
        RequestSubject::Fleet(_) => {}
    }
}

/// Whether `subject` is the subject of a log, like `<root>.log.session.open`. The stream stores such a message and
/// acknowledges it, because its configuration cannot tell it from a frame; so the sender must not get a second answer.
/// The stored message has no effect: the namespace `session` is reserved, so nobody reads or announces that log. A
/// session that was created before the namespace was reserved may still write there.
fn is_log_frame(root: &Root, subject: &str) -> bool {
    root.parse_log(subject).is_some()
}

/// The verb that a malformed subject was probably meant for, for the statistics.
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
