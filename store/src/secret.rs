//! The stored secret of tokens: one key of the bucket of secrets, which only coordinators may read.
//!
//! Invariant: the value is replaced by compare-and-set, so that of two rotations at once each is made once.

use async_nats::{HeaderMap, header};
use bytes::Bytes;
use holdfast_protocol::Revision;

use crate::jetstream::Jetstream;
use crate::write::{self, Outcome, Write};
use crate::{StoreError, chance, read};

fn subject(store: &Jetstream) -> String {
    format!("$KV.{}.token_key", store.root.secrets_bucket())
}

/// The value and its revision, from the leader.
///
/// nats-server does not check reply subjects against the permissions of whoever asks. So a worker can have the server
/// store a message of its choice here, as the answer to a direct get. Such an answer always names the stream that it is
/// from, and no other answer has the form of a secret.
pub(crate) async fn read(store: &Jetstream) -> Result<(Revision, Option<Bytes>), StoreError> {
    let stream = store
        .context
        .get_stream_no_info(format!("KV_{}", store.root.secrets_bucket()))
        .await
        .map_err(|error| StoreError::Refused(error.to_string()))?;
    let found = read::last(&stream, &subject(store)).await?;
    if found.as_ref().is_some_and(|raw| raw.headers.get(header::NATS_STREAM).is_some()) {
        return Err(StoreError::Refused(format!(
            "{} was not stored by a coordinator, but by somebody who asked nats-server to answer there; somebody misuses \
             the credentials of a worker (see docs/security.md)",
            subject(store)
        )));
    }
    Ok(found.map_or((Revision(0), None), |raw| (Revision(raw.sequence), (!raw.is_marker()).then_some(raw.payload))))
}

/// Replaces the value.
pub(crate) async fn write(store: &Jetstream, expected: Revision, payload: Bytes) -> Result<Revision, StoreError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_MESSAGE_ID, chance::id().to_string().as_str());
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string().as_str());
    let write = Write { subject: subject(store), headers, payload, expected };
    match write::publish(&store.client, &write).await? {
        Outcome::Stored(sequence) => Ok(Revision(sequence)),
        Outcome::Mismatch => Err(write.moved()),
        Outcome::MismatchAfterUnknown => Err(StoreError::Unknown("an earlier copy may have landed".to_owned())),
    }
}
