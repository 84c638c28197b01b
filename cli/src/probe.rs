//! What operators' commands read from NATS by themselves, so that they work while no coordinator runs: the state of
//! streams and of the relay, coordinators, workers' leases, and records.
//!
//! Invariant: the rights of the user `ops` are enough: requests and direct gets, no consumers and no watches. Nothing
//! is written. Every question has a time limit, and silence is told apart from a refusal.
//!
//! Times are compared only if the same nats-server has told both.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::Info as ConsumerInfo;
use async_nats::jetstream::stream::{ClusterInfo, Config, State};
use async_nats::{Client, Message};
use futures_util::StreamExt;
use holdfast_client::protocol::reply::WorkerView;
use holdfast_client::protocol::subject::Root;
use holdfast_client::protocol::{Revision, SessionKey, SessionRecord};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

/// The name of the micro service.
const SERVICE: &str = "holdfast";
/// After this long without another answer, everybody has answered.
const QUIET: Duration = Duration::from_millis(250);
/// How many workers' keys are read.
const WORKERS: usize = 1_000;
/// How many messages one stretch of a survey reads.
const STRETCH: usize = 1_000;

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It does not exist.
    Missing,
    /// The server refused, for this reason.
    Refused(String),
    /// No answer in time. The stream may have no leader, or this user may not ask.
    Silent,
}

/// A question or its answer.
pub(crate) type Told<T> = Result<T, Unread>;

/// A stream as its leader describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct StreamSeen {
    pub(crate) config: Config,
    pub(crate) state: State,
    pub(crate) cluster: Option<ClusterInfo>,
    /// When the leader said so, by its own clock.
    pub(crate) ts: Option<String>,
}

/// A running coordinator.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct CoordinatorSeen {
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) metadata: CoordinatorMetadata,
    #[serde(default, skip_serializing)]
    endpoints: Vec<EndpointSeen>,
}

/// What a coordinator says about itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct CoordinatorMetadata {
    pub(crate) coordinator: String,
    pub(crate) root: String,
    pub(crate) leaving: String,
}

#[derive(Clone, Debug, Deserialize)]
struct EndpointSeen {
    #[serde(default)]
    num_requests: u64,
}

impl CoordinatorSeen {
    /// How many requests it has answered since it started.
    pub(crate) fn requests(&self) -> u64 {
        self.endpoints.iter().map(|endpoint| endpoint.num_requests).sum()
    }
}

/// A worker's lease, and when it was written, by the clock of the stream's leader.
#[derive(Clone, Debug)]
pub(crate) struct LeaseSeen {
    pub(crate) worker: WorkerView,
    pub(crate) written: Option<Timestamp>,
}

/// Records of sessions; those that do not parse with the reason.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) records: BTreeMap<SessionKey, (Revision, Result<SessionRecord, String>)>,
    /// Whether all records were read, and not only as many as there was time for.
    pub(crate) is_whole: bool,
}

/// The reader.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) nats: Client,
    pub(crate) root: Root,
    /// How long one question may take.
    pub(crate) patience: Duration,
}

impl Probe {
    /// A stream.
    pub(crate) async fn stream(&self, name: &str) -> Told<StreamSeen> {
        self.api(&format!("STREAM.INFO.{name}")).await
    }

    /// The consumer of the relay.
    pub(crate) async fn relay(&self) -> Told<ConsumerInfo> {
        self.api(&format!("CONSUMER.INFO.{}.relay", self.root.sessions_stream())).await
    }

    async fn api<T: DeserializeOwned>(&self, what: &str) -> Told<T> {
        let request = async_nats::Request::new().payload("".into()).timeout(Some(self.patience));
        let Ok(reply) = self.nats.send_request(format!("$JS.API.{what}"), request).await else {
            return Err(Unread::Silent);
        };
        #[derive(Deserialize)]
        struct Refusal {
            error: Option<Reason>,
        }
        #[derive(Deserialize)]
        struct Reason {
            code: u16,
            #[serde(default)]
            description: String,
        }
        match serde_json::from_slice::<Refusal>(&reply.payload) {
            Ok(Refusal { error: Some(Reason { code: 404, .. }) }) => Err(Unread::Missing),
            Ok(Refusal { error: Some(reason) }) => Err(Unread::Refused(reason.description)),
            _ => serde_json::from_slice(&reply.payload).map_err(|error| Unread::Refused(error.to_string())),
        }
    }

    /// The coordinators of this installation that answer, ordered by id.
    pub(crate) async fn coordinators(&self) -> Vec<CoordinatorSeen> {
        let answers = self.gather(&format!("$SRV.STATS.{SERVICE}"), "").await;
        let read = |answer: &Message| serde_json::from_slice::<CoordinatorSeen>(&answer.payload).ok();
        let mut all: Vec<CoordinatorSeen> = answers.iter().filter_map(read).collect();
        all.retain(|coordinator| coordinator.metadata.root == self.root.as_str());
        all.sort_by(|left, right| left.id.cmp(&right.id));
        all
    }

    /// All answers to a message, until nobody has answered for a moment.
    pub(crate) async fn gather(&self, subject: &str, body: &str) -> Vec<Message> {
        let until = Instant::now() + self.patience;
        let mut all = Vec::new();
        let inbox = self.nats.new_inbox();
        let Ok(mut answers) = self.nats.subscribe(inbox.clone()).await else { return all };
        let asked = self.nats.publish_with_reply(subject.to_owned(), inbox, body.to_owned().into()).await;
        if asked.is_err() {
            return all;
        }
        loop {
            let quiet = if all.is_empty() { until } else { until.min(Instant::now() + QUIET) };
            match timeout_at(quiet, answers.next()).await {
                Ok(Some(answer)) if answer.status.is_none() => all.push(answer),
                // Nobody listens, or nobody answers any more.
                _ => return all,
            }
        }
    }

    /// All workers' leases, ordered by name.
    pub(crate) async fn leases(&self) -> Told<Vec<LeaseSeen>> {
        let bucket = self.root.workers_bucket();
        let query = json!({"multi_last": [format!("$KV.{bucket}.*")], "batch": WORKERS});
        let answers = self.batch(&format!("KV_{bucket}"), &query).await?;
        let mut leases: Vec<LeaseSeen> = answers.iter().filter_map(lease_of).collect();
        leases.sort_by(|left, right| left.worker.worker.cmp(&right.worker.worker));
        Ok(leases)
    }

    /// A batched direct get (ADR-31), answered by any copy of the stream.
    async fn batch(&self, stream: &str, query: &Value) -> Told<Vec<Message>> {
        let until = Instant::now() + self.patience;
        let inbox = self.nats.new_inbox();
        let mut answers = self.nats.subscribe(inbox.clone()).await.map_err(|_| Unread::Silent)?;
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let asked = self.nats.publish_with_reply(subject, inbox, query.to_string().into()).await;
        asked.map_err(|_| Unread::Silent)?;
        let mut all = Vec::new();
        loop {
            let answer = timeout_at(until, answers.next()).await.ok().flatten().ok_or(Unread::Silent)?;
            match answer.status.map(|status| status.as_u16()) {
                None => all.push(answer),
                // The end of the batch, or nothing matches.
                Some(204 | 404) => return Ok(all),
                // Nobody listens: the stream has no copy that answers.
                Some(503) => return Err(Unread::Silent),
                Some(status) => return Err(Unread::Refused(format!("status {status}"))),
            }
        }
    }

    /// Reads the records up to the stream's sequence `last`, as many as there is time for. If it did not come to the
    /// end, records may be there in an earlier revision: asking for the last ones of 500 keys takes the server most of
    /// a second. A record that changes 64 times while this reads may be missed.
    pub(crate) async fn survey(&self, last: u64, time: Duration) -> Told<Survey> {
        let mut survey = Survey::default();
        let mut after = 0;
        let reading = async {
            while after < last {
                after = self.stretch(after, last, &mut survey).await?;
            }
            Ok(())
        };
        match timeout(time, reading).await {
            Ok(read) => read?,
            Err(_) if survey.records.is_empty() => return Err(Unread::Silent),
            Err(_) => {}
        }
        survey.is_whole = after >= last;
        Ok(survey)
    }

    /// Reads the records after sequence `after`, and returns up to where.
    async fn stretch(&self, after: u64, last: u64, survey: &mut Survey) -> Told<u64> {
        let stream = self.root.sessions_stream();
        let query = json!({"seq": after + 1, "next_by_subj": self.root.records(None), "batch": STRETCH});
        let met = self.batch(&stream, &query).await?;
        // In the order of the stream, so that the last revision of a record stays.
        met.iter().for_each(|message| survey.take(&self.root, message));
        let until = met.last().and_then(sequence_of).unwrap_or(last);
        Ok(until)
    }
}

impl Survey {
    fn take(&mut self, root: &Root, message: &Message) {
        let (Some(subject), Some(revision)) = (subject_of(message), sequence_of(message)) else { return };
        let Some(key) = root.parse_record(&subject) else { return };
        // A marker of a deleted record is empty.
        if message.payload.is_empty() {
            self.records.remove(&key);
            return;
        }
        let record = SessionRecord::from_json(&message.payload, &key).map_err(|error| error.message);
        self.records.insert(key, (Revision(revision), record));
    }
}

fn subject_of(message: &Message) -> Option<String> {
    Some(message.headers.as_ref()?.get_last(async_nats::header::NATS_SUBJECT)?.to_string())
}

fn sequence_of(message: &Message) -> Option<u64> {
    message.headers.as_ref()?.get_last(async_nats::header::NATS_SEQUENCE)?.as_str().parse().ok()
}

fn lease_of(message: &Message) -> Option<LeaseSeen> {
    let worker = serde_json::from_slice(&message.payload).ok()?;
    let headers = message.headers.as_ref()?;
    let written = headers.get_last(async_nats::header::NATS_TIME_STAMP).and_then(|time| time.as_str().parse().ok());
    Some(LeaseSeen { worker, written })
}

/// How long before `now` something happened; both times are by one clock.
pub(crate) fn age(written: Option<Timestamp>, now: Option<&str>) -> Option<Duration> {
    let now: Timestamp = now?.parse().ok()?;
    Some(Duration::try_from(now.duration_since(written?)).unwrap_or_default())
}

/// What a server answers about itself in its system account.
pub(crate) fn data_of(message: &Message) -> Option<(Value, Value)> {
    let mut told: Value = serde_json::from_slice(&message.payload).ok()?;
    Some((told["server"].take(), told["data"].take()))
}
