//! Workers' leases: one key per worker in the bucket `workers`, which expires unless it is written again. In the same
//! bucket, below `answered`, are the answers to requests to workers as a whole, so that a late copy has no second
//! effect.
//!
//! A lease tells which workers seem alive; no safety rests on it. It is still written and removed by compare-and-set,
//! so that of two processes with one name, one finds out that it does not own the name.

use std::time::Duration;

use async_nats::{HeaderMap, header};
use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Revision, WorkerName};

use crate::StoreError;
use crate::jetstream::Jetstream;
use crate::read::{self, Query, Raw};
use crate::write::{self, Outcome, Write};

/// The interval at which a worker renews its lease.
pub const LEASE_RENEW: Duration = Duration::from_secs(2);
/// How long a lease lives without renewal.
pub const LEASE_TTL: Duration = Duration::from_secs(10);
// A worker that misses two renewals keeps its lease.
const _: () = assert!(LEASE_RENEW.as_millis() * 3 < LEASE_TTL.as_millis());

/// How many workers an installation has at most: as many as the server returns for one request of last messages.
const WORKERS: usize = 1_000;

/// For how long the answer to a drain or a reclaim is kept.
pub const ANSWER_TTL: Duration = Duration::from_secs(24 * 3600);

const TTL: &str = "Nats-TTL";
const KV_OPERATION: &str = "KV-Operation";

fn subject(store: &Jetstream, worker: &str) -> String {
    format!("$KV.{}.{worker}", store.root.workers_bucket())
}

/// What is stored under a worker's key: the key's revision, and the lease unless it expired or was removed.
#[derive(Clone, Debug, Default)]
pub struct LeaseSlot {
    /// The revision that the next write must expect, even if there is no lease.
    pub revision: Revision,
    /// The lease.
    pub lease: Option<WorkerLease>,
}

fn write(store: &Jetstream, worker: &WorkerName, expected: Revision, payload: Bytes) -> Write {
    expiring(subject(store, worker.as_str()), expected, payload, LEASE_TTL)
}

fn expiring(subject: String, expected: Revision, payload: Bytes, ttl: Duration) -> Write {
    let mut headers = HeaderMap::new();
    headers.insert(TTL, format!("{}s", ttl.as_secs()));
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string().as_str());
    Write { subject, headers, payload, expected }
}

async fn publish(store: &Jetstream, write: Write) -> Result<Revision, StoreError> {
    match write::publish(&store.client, &write).await? {
        Outcome::Stored(sequence) => Ok(Revision(sequence)),
        Outcome::Mismatch => Err(write.moved()),
        Outcome::MismatchAfterUnknown => {
            Err(StoreError::Unknown("an earlier copy of the lease may have landed".to_owned()))
        }
    }
}

pub(crate) async fn put(store: &Jetstream, lease: &WorkerLease, expected: Revision) -> Result<Revision, StoreError> {
    let payload = serde_json::to_vec(lease).map_err(|error| StoreError::Refused(error.to_string()))?.into();
    publish(store, write(store, &lease.worker, expected, payload)).await
}

pub(crate) async fn drop(store: &Jetstream, worker: &WorkerName, expected: Revision) -> Result<(), StoreError> {
    let mut write = write(store, worker, expected, Bytes::new());
    write.headers.insert(KV_OPERATION, "DEL");
    publish(store, write).await.map(|_| ())
}

/// Reads a worker's key from the leader.
pub(crate) async fn one(store: &Jetstream, worker: &WorkerName) -> Result<LeaseSlot, StoreError> {
    let Some(raw) = last(store, &subject(store, worker.as_str())).await? else {
        return Ok(LeaseSlot::default());
    };
    Ok(LeaseSlot { revision: Revision(raw.sequence), lease: lease_of(&raw) })
}

async fn last(store: &Jetstream, subject: &str) -> Result<Option<Raw>, StoreError> {
    let stream = store.context.get_stream_no_info(format!("KV_{}", store.root.workers_bucket())).await;
    let stream = stream.map_err(|error| StoreError::Refused(error.to_string()))?;
    read::last(&stream, subject).await
}

fn answer_subject(store: &Jetstream, request: &str) -> String {
    subject(store, &format!("answered.{request}"))
}

/// Reads a kept answer from the leader.
pub(crate) async fn answered(store: &Jetstream, request: &str) -> Result<Option<Bytes>, StoreError> {
    let raw = last(store, &answer_subject(store, request)).await?;
    Ok(raw.filter(|raw| !raw.is_marker()).map(|raw| raw.payload))
}

pub(crate) async fn remember_answer(store: &Jetstream, request: &str, answer: Bytes) -> Result<(), StoreError> {
    let subject = answer_subject(store, request);
    // After an earlier answer expired, its delete marker stays for a moment.
    let marker = last(store, &subject).await?.filter(Raw::is_marker).map_or(Revision(0), |raw| Revision(raw.sequence));
    match publish(store, expiring(subject, marker, answer, ANSWER_TTL)).await {
        // Another copy of the request has stored its answer.
        Ok(_) | Err(StoreError::Moved { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn lease_of(raw: &Raw) -> Option<WorkerLease> {
    if raw.is_marker() {
        return None;
    }
    match serde_json::from_slice(&raw.payload) {
        Ok(lease) => Some(lease),
        Err(error) => {
            tracing::warn!(subject = raw.subject, %error, "a worker's lease does not parse");
            None
        }
    }
}

pub(crate) async fn all(store: &Jetstream) -> Result<Vec<(Revision, WorkerLease)>, StoreError> {
    let stream = format!("KV_{}", store.root.workers_bucket());
    let subjects = [subject(store, "*")];
    let messages =
        read::batch(&store.client, &stream, &Query::LastOf { multi_last: &subjects, batch: WORKERS }).await?;
    let leases = messages.iter().filter_map(|raw| Some((Revision(raw.sequence), lease_of(raw)?)));
    let mut leases: Vec<(Revision, WorkerLease)> = leases.collect();
    leases.sort_by(|(_, left), (_, right)| left.worker.cmp(&right.worker));
    Ok(leases)
}
