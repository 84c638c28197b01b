//! The micro service `holdfast`: what `nats micro ls`, `info`, `stats` and `ping` show. Source: ADR-32.
//!
//! This does not use the service of async-nats, for three reasons. Its error replies have an empty body, and the
//! contract wants one. It counts no other errors. Its endpoints unsubscribe at once when they stop, which loses
//! requests that the server has already sent; a coordinator that leaves must answer them.
//!
//! Deliberately absent: the requests themselves (`endpoint`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use holdfast_protocol::schema::Schemas;
use holdfast_protocol::subject::{Root, Verb};
use holdfast_store::Wire;
use holdfast_store::service::{self, Question, Questions};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::StartError;
use crate::operation::now;

/// The service's name.
const SERVICE: &str = "holdfast";
const DESCRIPTION: &str = "document sessions with one owner, locks and signals";
/// The members of an endpoint's metadata that have the JSON Schemas of its requests and of its replies.
const REQUEST_SCHEMA: &str = "request_schema";
const RESPONSE_SCHEMA: &str = "response_schema";
/// The queue group of all coordinators; ADR-32's default.
pub(crate) const QUEUE: &str = "q";

/// The ping subject that every instance of the service answers.
pub(crate) const PING: &str = "$SRV.PING.holdfast";

/// Header of an error reply: its message.
pub(crate) const ERROR_HEADER: &str = async_nats::service::NATS_SERVICE_ERROR;
/// Header of an error reply: its number.
pub(crate) const NUMBER_HEADER: &str = async_nats::service::NATS_SERVICE_ERROR_CODE;

/// What this instance of the service reports about itself.
pub(crate) struct Micro {
    root: Root,
    leaving: CancellationToken,
    id: String,
    name: String,
    version: String,
    started: String,
    endpoints: Vec<Endpoint>,
}

struct Endpoint {
    verb: Verb,
    name: String,
    subject: String,
    requests: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    last_error: Mutex<String>,
}

#[derive(Serialize)]
struct EndpointInfo<'a> {
    name: &'a str,
    subject: &'a str,
    queue_group: &'static str,
    metadata: Map<String, Value>,
}

#[derive(Serialize)]
struct EndpointStats<'a> {
    name: &'a str,
    subject: &'a str,
    queue_group: &'static str,
    num_requests: u64,
    num_errors: u64,
    last_error: String,
    processing_time: u64,
    average_processing_time: u64,
}

impl Micro {
    pub(crate) fn new(config: &Config, instance: &str, leaving: CancellationToken) -> Self {
        Self {
            root: config.root.clone(),
            leaving,
            id: instance.to_owned(),
            name: config.name.clone(),
            version: config.version.clone(),
            started: now(),
            endpoints: Verb::ALL.iter().map(|verb| Endpoint::new(&config.root, *verb)).collect(),
        }
    }

    /// Counts a request that was answered.
    pub(crate) fn count(&self, verb: Verb, took: Duration, fault: Option<String>) {
        // `Verb::ALL` lists the variants in the order in which they are declared; a test pins it.
        let Some(endpoint) = self.endpoints.get(verb as usize) else { return };
        endpoint.requests.fetch_add(1, Ordering::Relaxed);
        endpoint.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(fault) = fault.filter(|fault| is_of_the_service(fault)) {
            endpoint.errors.fetch_add(1, Ordering::Relaxed);
            *endpoint.last_error.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        }
    }

    /// Subscribes to the service's ping, info and stats requests.
    ///
    /// # Errors
    /// [`StartError`] when the connection takes no subscriptions.
    pub(crate) async fn listen(&self, wire: &dyn Wire) -> Result<Questions, StartError> {
        let listening = service::listen(wire, SERVICE, &self.id).await;
        listening.map_err(|(subject, source)| StartError::Subscribe { subject, source })
    }

    /// Answers those requests, until the subscriptions end.
    pub(crate) async fn answer(&self, wire: &dyn Wire, questions: Questions) {
        let answer = |question| match question {
            Question::Ping => self.head(question),
            Question::Info => self.info(),
            Question::Stats => self.stats(),
        };
        service::answer(wire, &self.root, questions, answer).await;
    }

    fn head(&self, question: Question) -> Value {
        let metadata = json!({
            "coordinator": self.name,
            "root": self.root.as_str(),
            "leaving": self.leaving.is_cancelled().to_string(),
        });
        question.answer(SERVICE, &self.id, &self.version, &metadata)
    }

    fn info(&self) -> Value {
        let mut info = self.head(Question::Info);
        info["description"] = json!(DESCRIPTION);
        info["endpoints"] = json!(self.endpoints.iter().map(Endpoint::info).collect::<Vec<_>>());
        info
    }

    fn stats(&self) -> Value {
        let mut stats = self.head(Question::Stats);
        stats["started"] = json!(self.started);
        stats["endpoints"] = json!(self.endpoints.iter().map(Endpoint::stats).collect::<Vec<_>>());
        stats
    }
}

/// Whether an error, as `number:message`, is one of the service: `internal`, `unavailable` or `unknown_outcome`. The
/// other ones are answers, like a conflict: the service did what it is for.
fn is_of_the_service(fault: &str) -> bool {
    let number = fault.split(':').next().and_then(|number| number.parse::<u16>().ok());
    number.is_none_or(|number| number >= 500)
}

/// The JSON Schemas of one verb, as texts: a service's metadata has nothing else.
fn schemas_of(verb: Verb) -> Map<String, Value> {
    static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::read);
    let text = |schema: &Value| Value::String(schema.to_string());
    Map::from_iter([
        (REQUEST_SCHEMA.to_owned(), text(SCHEMAS.request(verb))),
        (RESPONSE_SCHEMA.to_owned(), text(SCHEMAS.reply(verb))),
    ])
}

impl Endpoint {
    fn new(root: &Root, verb: Verb) -> Self {
        Self {
            verb,
            name: verb.as_str().replace('.', "-"),
            subject: root.endpoint(verb),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    fn info(&self) -> EndpointInfo<'_> {
        let metadata = schemas_of(self.verb);
        EndpointInfo { name: &self.name, subject: &self.subject, queue_group: QUEUE, metadata }
    }

    fn stats(&self) -> EndpointStats<'_> {
        let num_requests = self.requests.load(Ordering::Relaxed);
        let processing_time = self.nanos.load(Ordering::Relaxed);
        EndpointStats {
            name: &self.name,
            subject: &self.subject,
            queue_group: QUEUE,
            num_requests,
            num_errors: self.errors.load(Ordering::Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            processing_time,
            average_processing_time: processing_time.checked_div(num_requests).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_listed_in_the_order_of_their_declaration() {
        for (n, verb) in Verb::ALL.iter().enumerate() {
            assert_eq!(*verb as usize, n, "{verb}");
        }
    }

    #[test]
    fn statistics_count_requests_and_errors_per_endpoint() {
        let micro = Micro::new(&Config::default(), "i1", CancellationToken::new());
        micro.count(Verb::LockAcquire, Duration::from_micros(30), None);
        micro.count(Verb::LockAcquire, Duration::from_micros(50), Some("503:nobody".to_owned()));
        let stats = micro.stats();
        assert_eq!(stats["type"], "io.nats.micro.v1.stats_response");
        let endpoints = stats["endpoints"].as_array().unwrap();
        assert_eq!(endpoints.len(), Verb::ALL.len());
        let acquire = endpoints.iter().find(|endpoint| endpoint["name"] == "lock-acquire").unwrap();
        assert_eq!(acquire["subject"], "hf.*.lock.acquire.*");
        assert_eq!((&acquire["num_requests"], &acquire["num_errors"]), (&json!(2), &json!(1)));
        assert_eq!(acquire["last_error"], "503:nobody");
        assert_eq!(acquire["average_processing_time"], 40_000);
        let release = endpoints.iter().find(|endpoint| endpoint["name"] == "lock-release").unwrap();
        assert_eq!((&release["num_requests"], &release["last_error"]), (&json!(0), &json!("")));
    }

    #[test]
    fn a_conflict_is_an_answer_and_no_error_of_the_service() {
        let micro = Micro::new(&Config::default(), "i1", CancellationToken::new());
        for number in [400, 403, 404, 409, 413, 422, 429] {
            micro.count(Verb::LockAcquire, Duration::ZERO, Some(format!("{number}:refused")));
        }
        let errors = || micro.stats()["endpoints"][Verb::LockAcquire as usize]["num_errors"].clone();
        assert_eq!(errors(), 0);
        for number in [500, 503, 504] {
            micro.count(Verb::LockAcquire, Duration::ZERO, Some(format!("{number}:failed")));
        }
        assert_eq!(errors(), 3);
    }

    #[test]
    fn each_endpoint_has_the_schemas_of_its_requests_and_replies_as_texts() {
        let info = Micro::new(&Config::default(), "i1", CancellationToken::new()).info();
        for endpoint in info["endpoints"].as_array().unwrap() {
            for name in [REQUEST_SCHEMA, RESPONSE_SCHEMA] {
                let schema: Value = serde_json::from_str(endpoint["metadata"][name].as_str().unwrap()).unwrap();
                assert_eq!(schema["type"], "object", "{endpoint}");
            }
        }
        // The default `max_payload` of nats-server is 1 MiB.
        assert!(info.to_string().len() < 128 * 1024, "{}", info.to_string().len());
    }

    /// What async-nats' own service would say parses what this one says.
    #[test]
    fn answers_have_the_shape_of_the_client_librarys() {
        let micro = Micro::new(&Config::default(), "i1", CancellationToken::new());
        let info: async_nats::service::Info = serde_json::from_value(micro.info()).unwrap();
        assert_eq!(info.endpoints.len(), Verb::ALL.len());
        let stats: async_nats::service::Stats = serde_json::from_value(micro.stats()).unwrap();
        assert_eq!(stats.name, SERVICE);
        let ping: async_nats::service::PingResponse = serde_json::from_value(micro.head(Question::Ping)).unwrap();
        assert_eq!(ping.id, micro.id);
    }
}
