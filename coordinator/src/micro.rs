//! The micro service `holdfast`: what `nats micro ls`, `info`, `stats` and `ping` show. Source: ADR-32.
//!
//! This does not use the service of async-nats, for three reasons. Its error replies have an empty body, and the
//! contract wants one. It counts no other errors. Its endpoints unsubscribe at once when they stop, which loses
//! requests that the server has already sent; a coordinator that leaves must answer them.
//!
//! Deliberately absent: the requests themselves (`endpoint`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{SelectAll, StreamExt, select_all};
use holdfast_protocol::subject::{Root, Verb};
use holdfast_store::Wire;
use holdfast_store::wire::{Outgoing, Subscription};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::StartError;
use crate::operation::now;

/// The service's name.
const SERVICE: &str = "holdfast";
const DESCRIPTION: &str = "document sessions with one owner, locks and signals";
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
        if let Some(fault) = fault {
            endpoint.errors.fetch_add(1, Ordering::Relaxed);
            *endpoint.last_error.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        }
    }

    /// Subscribes to the service's ping, info and stats requests.
    ///
    /// # Errors
    /// [`StartError`] when the connection takes no subscriptions.
    pub(crate) async fn listen(&self, wire: &dyn Wire) -> Result<SelectAll<Subscription>, StartError> {
        let mut subscribers = Vec::new();
        for question in ["PING", "INFO", "STATS"] {
            for tail in [String::new(), format!(".{SERVICE}"), format!(".{SERVICE}.{}", self.id)] {
                let subject = format!("$SRV.{question}{tail}");
                let subscriber = wire.subscribe(subject.clone().into(), None).await;
                subscribers.push(subscriber.map_err(|source| StartError::Subscribe { subject, source })?);
            }
        }
        Ok(select_all(subscribers))
    }

    /// Answers those requests, until the subscriptions end.
    pub(crate) async fn answer(&self, wire: &dyn Wire, mut questions: SelectAll<Subscription>) {
        while let Some(question) = questions.next().await {
            let Some(reply) = question.reply.filter(|reply| self.root.may_answer(reply)) else { continue };
            let body = match question.subject.split('.').nth(1) {
                Some("INFO") => self.info(),
                Some("STATS") => self.stats(),
                _ => self.head("ping"),
            };
            if let Err(error) = wire.publish(Outgoing::to(reply, body.to_string())).await {
                tracing::debug!(%error, "a request about the micro service was not answered");
            }
        }
    }

    fn head(&self, kind: &str) -> Value {
        json!({
            "type": format!("io.nats.micro.v1.{kind}_response"),
            "name": SERVICE,
            "id": self.id,
            "version": self.version,
            "metadata": {
                "coordinator": self.name,
                "root": self.root.as_str(),
                "leaving": self.leaving.is_cancelled().to_string(),
            },
        })
    }

    fn info(&self) -> Value {
        let mut info = self.head("info");
        info["description"] = json!(DESCRIPTION);
        info["endpoints"] = json!(self.endpoints.iter().map(Endpoint::info).collect::<Vec<_>>());
        info
    }

    fn stats(&self) -> Value {
        let mut stats = self.head("stats");
        stats["started"] = json!(self.started);
        stats["endpoints"] = json!(self.endpoints.iter().map(Endpoint::stats).collect::<Vec<_>>());
        stats
    }
}

impl Endpoint {
    fn new(root: &Root, verb: Verb) -> Self {
        Self {
            name: verb.as_str().replace('.', "-"),
            subject: root.endpoint(verb),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    fn info(&self) -> EndpointInfo<'_> {
        EndpointInfo { name: &self.name, subject: &self.subject, queue_group: QUEUE, metadata: Map::new() }
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
        micro.count(Verb::LockAcquire, Duration::from_micros(50), Some("409:held".to_owned()));
        let stats = micro.stats();
        assert_eq!(stats["type"], "io.nats.micro.v1.stats_response");
        let endpoints = stats["endpoints"].as_array().unwrap();
        assert_eq!(endpoints.len(), Verb::ALL.len());
        let acquire = endpoints.iter().find(|endpoint| endpoint["name"] == "lock-acquire").unwrap();
        assert_eq!(acquire["subject"], "hf.*.lock.acquire.*");
        assert_eq!((&acquire["num_requests"], &acquire["num_errors"]), (&json!(2), &json!(1)));
        assert_eq!(acquire["last_error"], "409:held");
        assert_eq!(acquire["average_processing_time"], 40_000);
        let release = endpoints.iter().find(|endpoint| endpoint["name"] == "lock-release").unwrap();
        assert_eq!((&release["num_requests"], &release["last_error"]), (&json!(0), &json!("")));
    }

    /// What async-nats' own service would say parses what this one says.
    #[test]
    fn answers_have_the_shape_of_the_client_librarys() {
        let micro = Micro::new(&Config::default(), "i1", CancellationToken::new());
        let info: async_nats::service::Info = serde_json::from_value(micro.info()).unwrap();
        assert_eq!(info.endpoints.len(), Verb::ALL.len());
        let stats: async_nats::service::Stats = serde_json::from_value(micro.stats()).unwrap();
        assert_eq!(stats.name, SERVICE);
        let ping: async_nats::service::PingResponse = serde_json::from_value(micro.head("ping")).unwrap();
        assert_eq!(ping.id, micro.id);
    }
}
