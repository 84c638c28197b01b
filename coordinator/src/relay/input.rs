//! One message of the stream, whichever way it was read.

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::jetstream;
use async_nats::jetstream::message::StreamMessage;
use bytes::Bytes;
use holdfast_protocol::SessionKey;
use holdfast_protocol::subject::Root;

/// A message of the stream.
#[derive(Clone, Debug)]
pub(super) struct Input {
    /// Stream sequence.
    pub(super) sequence: u64,
    /// When it was stored, RFC 3339.
    pub(super) time: String,
    /// The body.
    pub(super) value: Bytes,
    /// What it is of.
    pub(super) what: What,
}

/// What a message is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A revision of this session's record, written by Holdfast or by hand.
    Record(SessionKey, Writer),
    /// A frame of this session's log.
    Frame(SessionKey),
    /// Neither, like a key that is no session's.
    Other,
}

/// Who wrote a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// A coordinator or a worker: writes carry an id.
    Holdfast,
    /// Somebody with a KV client.
    Hand,
}

impl Input {
    /// A message as the consumer delivers it, with its place among the deliveries.
    pub(super) fn delivered(root: &Root, message: jetstream::Message) -> Option<(u64, Self)> {
        let (sequence, delivery, nanos) = {
            let info = message.info().ok()?;
            (info.stream_sequence, info.consumer_sequence, info.published.unix_timestamp_nanos())
        };
        let message = message.message;
        let what = what(root, &message.subject, message.headers.as_ref());
        Some((delivery, Self { sequence, time: rfc3339(nanos), value: message.payload, what }))
    }

    /// A message as it stands in the stream.
    pub(super) fn stored(root: &Root, message: StreamMessage) -> Self {
        Self {
            sequence: message.sequence,
            time: rfc3339(message.time.unix_timestamp_nanos()),
            what: what(root, &message.subject, Some(&message.headers)),
            value: message.payload,
        }
    }

    /// The session that it is of.
    pub(super) fn key(&self) -> Option<&SessionKey> {
        match &self.what {
            What::Record(key, _) | What::Frame(key) => Some(key),
            What::Other => None,
        }
    }
}

fn what(root: &Root, subject: &str, headers: Option<&HeaderMap>) -> What {
    if let Some(key) = root.parse_record(subject) {
        let has_id = headers.is_some_and(|headers| headers.get(NATS_MESSAGE_ID).is_some());
        return What::Record(key, if has_id { Writer::Holdfast } else { Writer::Hand });
    }
    // A reserved namespace has no sessions. What is in such a log is a request that was meant for nobody, like
    // `<root>.log.session.open`, and the stream took it because it looks like a log.
    let log = root.parse_log(subject).filter(|key| !key.namespace.is_reserved());
    log.map_or(What::Other, What::Frame)
}

fn rfc3339(nanos: i128) -> String {
    jiff::Timestamp::from_nanosecond(nanos).unwrap_or_default().to_string()
}
