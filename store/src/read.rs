//! Reads one record from the leader, or many messages at once by a batched direct get.
//!
//! Invariant: a read is a hint. Any replica may answer a batched read; it counts as complete only if it contains a
//! message that the caller knows to exist.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind, Stream};
use async_nats::{Client, HeaderMap, RequestErrorKind};
use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, timeout};

use crate::StoreError;

pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for a leader's answer before asking again.
const COPY_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The same for a replica, which may have to search many blocks of the stream.
const NEXT_TIMEOUT: Duration = Duration::from_millis(2_500);
/// How many messages a batch has at most; the server allows 1,024 subjects in one `multi_last`.
pub(crate) const BATCH: usize = 500;

/// A message as the server returns it.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    /// When it was stored, by the clock of the server.
    pub(crate) time: Timestamp,
}

impl Raw {
    pub(crate) fn write_id(&self) -> Option<String> {
        self.headers.get_last(async_nats::header::NATS_MESSAGE_ID).map(|id| id.to_string())
    }

    /// Whether a KV client deleted or purged the key, or the server let it expire.
    pub(crate) fn is_marker(&self) -> bool {
        self.payload.is_empty()
    }
}

/// The last message of a subject, from the stream's leader. A request that was lost with its leader is soon sent again.
pub(crate) async fn last(stream: &Stream<()>, subject: &str) -> Result<Option<Raw>, StoreError> {
    let deadline = Instant::now() + READ_TIMEOUT;
    loop {
        match timeout(COPY_TIMEOUT, ask_last(stream, subject)).await {
            Ok(answer) => return answer,
            Err(_) if Instant::now() < deadline => {}
            Err(_) => return Err(StoreError::Unavailable("the record was not read in time".to_owned())),
        }
    }
}

async fn ask_last(stream: &Stream<()>, subject: &str) -> Result<Option<Raw>, StoreError> {
    of_leader(stream.get_last_raw_message_by_subject(subject).await)
}

fn of_leader(answer: Result<StreamMessage, LastRawMessageError>) -> Result<Option<Raw>, StoreError> {
    match answer {
        Ok(message) => Ok(Some(Raw {
            subject: message.subject.to_string(),
            sequence: message.sequence,
            headers: message.headers,
            payload: message.payload,
            time: timestamp(message.time.unix_timestamp_nanos()),
        })),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(StoreError::Unavailable(format!("the record could not be read: {error}"))),
    }
}

/// The message at a sequence, from the stream's leader; `None` if it was removed.
pub(crate) async fn at(stream: &Stream<()>, sequence: u64) -> Result<Option<Raw>, StoreError> {
    of_leader(stream.get_raw_message(sequence).await)
}

/// The first message of a subject at or after a sequence, from the stream's leader.
pub(crate) async fn next_of_leader(
    stream: &Stream<()>,
    subject: &str,
    sequence: u64,
) -> Result<Option<Raw>, StoreError> {
    of_leader(stream.get_first_raw_message_by_subject(subject, sequence).await)
}

/// The first message of a subject at or after a sequence, from any replica; `None` if that replica has none.
pub(crate) async fn next(
    client: &Client,
    stream: &str,
    subject: &str,
    sequence: u64,
) -> Result<Option<Raw>, StoreError> {
    let fault = |why: String| StoreError::Unavailable(format!("the stream could not be read: {why}"));
    let body = serde_json::to_vec(&Query::Next { seq: sequence, next_by_subj: subject });
    let body: Bytes = body.map_err(|error| fault(error.to_string()))?.into();
    let deadline = Instant::now() + READ_TIMEOUT;
    loop {
        let request = async_nats::Request::new().payload(body.clone()).timeout(Some(NEXT_TIMEOUT));
        match client.send_request(format!("$JS.API.DIRECT.GET.{stream}"), request).await {
            Ok(reply) => match reply.status.map(|status| status.as_u16()) {
                Some(404) => return Ok(None),
                Some(status) => {
                    return Err(fault(format!("status {status} {}", reply.description.unwrap_or_default())));
                }
                None => return raw(reply).map(Some).ok_or_else(|| fault("a message without its sequence".to_owned())),
            },
            // The replica died before it answered.
            Err(error) if error.kind() == RequestErrorKind::TimedOut && Instant::now() < deadline => {}
            Err(error) => return Err(fault(error.to_string())),
        }
    }
}

/// A batched direct get (ADR-31).
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Query<'a> {
    /// The first message of a subject at or after a sequence.
    Next { seq: u64, next_by_subj: &'a str },
    /// The messages of a subject from a sequence on.
    From { seq: u64, next_by_subj: &'a str, batch: usize },
    /// The messages of a subject from a time on, RFC 3339.
    Since { start_time: String, next_by_subj: &'a str, batch: usize },
    /// The last messages of subjects.
    LastOf { multi_last: &'a [String], batch: usize },
}

/// Sends `query` to any replica. An empty answer is an empty list.
pub(crate) async fn batch(client: &Client, stream: &str, query: &Query<'_>) -> Result<Vec<Raw>, StoreError> {
    batch_up_to(client, stream, query).await.map(|(messages, _)| messages)
}

/// As [`batch`], with the last sequence that the answering replica has, if it reports one.
pub(crate) async fn batch_up_to(
    client: &Client,
    stream: &str,
    query: &Query<'_>,
) -> Result<(Vec<Raw>, Option<u64>), StoreError> {
    batch_to_end(client, stream, query).await.map(|(messages, end)| (messages, end.as_ref().and_then(up_to)))
}

/// As [`batch`], with the headers of the message that ends the answer.
pub(crate) async fn batch_to_end(
    client: &Client,
    stream: &str,
    query: &Query<'_>,
) -> Result<(Vec<Raw>, Option<HeaderMap>), StoreError> {
    let fault = |why: String| StoreError::Unavailable(format!("the stream could not be read: {why}"));
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.map_err(|error| fault(error.to_string()))?;
    let body = serde_json::to_vec(query).map_err(|error| fault(error.to_string()))?;
    client
        .publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), inbox, body.into())
        .await
        .map_err(|error| fault(error.to_string()))?;
    let mut messages = Vec::new();
    loop {
        let reply = timeout(READ_TIMEOUT, replies.next())
            .await
            .map_err(|_| fault("no answer in time".to_owned()))?
            .ok_or_else(|| fault("the connection closed".to_owned()))?;
        match reply.status.map(|status| status.as_u16()) {
            // 204: end of the batch. 404: nothing matches.
            Some(204 | 404) => return Ok((messages, reply.headers)),
            Some(status) => return Err(fault(format!("status {status} {}", reply.description.unwrap_or_default()))),
            None => messages.push(raw(reply).ok_or_else(|| fault("a message without its sequence".to_owned()))?),
        }
    }
}

fn up_to(headers: &HeaderMap) -> Option<u64> {
    headers.get_last("Nats-UpTo-Sequence")?.as_str().parse().ok()
}

fn raw(message: async_nats::Message) -> Option<Raw> {
    let headers = message.headers?;
    let subject = headers.get_last(async_nats::header::NATS_SUBJECT)?.to_string();
    let sequence = headers.get_last(async_nats::header::NATS_SEQUENCE)?.as_str().parse().ok()?;
    let time = headers.get_last(async_nats::header::NATS_TIME_STAMP)?.as_str().parse().ok()?;
    Some(Raw { subject, sequence, headers, payload: message.payload, time })
}

/// Converts a time of async-nats.
pub(crate) fn timestamp(nanos: i128) -> Timestamp {
    Timestamp::from_nanosecond(nanos).unwrap_or_default()
}

/// All messages of `subject` after `after`, up to and including the one at `until`, which the caller knows to exist.
pub(crate) async fn range(
    client: &Client,
    stream: &str,
    subject: &str,
    after: u64,
    until: u64,
) -> Result<Vec<Raw>, StoreError> {
    let mut messages = from(client, stream, subject, after, until).await?;
    messages.retain(|message| message.sequence <= until);
    Ok(messages)
}

/// All messages of `subject` up to the one at `until`, or up to a later one: then the one at `until` may be removed.
pub(crate) async fn all_until(
    client: &Client,
    stream: &str,
    subject: &str,
    until: u64,
) -> Result<Vec<Raw>, StoreError> {
    from(client, stream, subject, 0, until).await
}

async fn from(client: &Client, stream: &str, subject: &str, after: u64, until: u64) -> Result<Vec<Raw>, StoreError> {
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut messages: Vec<Raw> = Vec::new();
    while messages.last().is_none_or(|last| last.sequence < until) {
        if tokio::time::Instant::now() > deadline {
            return Err(StoreError::Unavailable(format!("no replica has sequence {until} yet")));
        }
        let seq = messages.last().map_or(after, |last| last.sequence) + 1;
        let found = batch(client, stream, &Query::From { seq, next_by_subj: subject, batch: 64 }).await?;
        if found.is_empty() {
            // The replica is behind. Another one has the message, or this one will have it soon.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        messages.extend(found);
    }
    Ok(messages)
}
