//! Workers' leases: one key per worker in the bucket `workers`, which expires unless it is written again.
//!
//! A lease says who seems alive. No safety rests on it.

use std::time::Duration;

use async_nats::{HeaderMap, header};
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Revision, WorkerName};

use crate::StoreError;
use crate::jetstream::Jetstream;
use crate::read::{self, BATCH, Query};
use crate::write::{self, Outcome, Write};

/// How often a worker writes its lease again.
pub const LEASE_RENEW: Duration = Duration::from_secs(2);
/// How long a lease lives without that.
pub const LEASE_TTL: Duration = Duration::from_secs(10);
// A worker that misses two renewals has not lost its lease yet.
const _: () = assert!(LEASE_RENEW.as_millis() * 3 < LEASE_TTL.as_millis());

const TTL: &str = "Nats-TTL";
const KV_OPERATION: &str = "KV-Operation";

fn subject(store: &Jetstream, worker: &str) -> String {
    format!("$KV.{}.{worker}", store.root.workers_bucket())
}

pub(crate) async fn put(
    store: &Jetstream,
    lease: &WorkerLease,
    expected: Option<Revision>,
) -> Result<Revision, StoreError> {
    let mut headers = HeaderMap::new();
    headers.insert(TTL, format!("{}s", LEASE_TTL.as_secs()));
    if let Some(expected) = expected {
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string().as_str());
    }
    let payload = serde_json::to_vec(lease).map_err(|error| StoreError::Refused(error.to_string()))?.into();
    let subject = subject(store, lease.worker.as_str());
    let write = Write { subject, headers, payload, expected: expected.unwrap_or_default() };
    match write::publish(&store.client, &write).await? {
        Outcome::Stored(sequence) => Ok(Revision(sequence)),
        Outcome::Mismatch | Outcome::MismatchAfterUnknown => Err(write.moved()),
    }
}

pub(crate) async fn drop(store: &Jetstream, worker: &WorkerName) -> Result<(), StoreError> {
    let mut headers = HeaderMap::new();
    headers.insert(KV_OPERATION, "DEL");
    headers.insert(TTL, format!("{}s", LEASE_TTL.as_secs()));
    let subject = subject(store, worker.as_str());
    let write = Write { subject, headers, payload: bytes::Bytes::new(), expected: Revision(0) };
    write::publish(&store.client, &write).await.map(|_| ())
}

pub(crate) async fn all(store: &Jetstream) -> Result<Vec<(Revision, WorkerLease)>, StoreError> {
    let stream = format!("KV_{}", store.root.workers_bucket());
    let subjects = [subject(store, ">")];
    let messages = read::batch(&store.client, &stream, &Query::LastOf { multi_last: &subjects, batch: BATCH }).await?;
    let mut leases = Vec::with_capacity(messages.len());
    for raw in messages.into_iter().filter(|raw| !raw.is_marker()) {
        match serde_json::from_slice::<WorkerLease>(&raw.payload) {
            Ok(lease) => leases.push((Revision(raw.sequence), lease)),
            Err(error) => tracing::warn!(subject = raw.subject, %error, "a worker's lease does not parse"),
        }
    }
    leases.sort_by(|(_, left), (_, right)| left.worker.cmp(&right.worker));
    Ok(leases)
}
