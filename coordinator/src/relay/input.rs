//! One message of the stream, as the relay reads it: from the consumer or from the stream itself.

use bytes::Bytes;
use holdfast_protocol::SessionKey;
use holdfast_protocol::subject::Root;
use holdfast_store::feed::Posted;
use holdfast_store::trace::Traces;

/// A message of the stream.
#[derive(Clone, Debug)]
pub(super) struct Input {
    /// Stream sequence.
    pub(super) sequence: u64,
    /// When it was stored, RFC 3339.
    pub(super) time: String,
    /// The traces of the requests that caused it.
    pub(super) traces: Traces,
    /// The body.
    pub(super) value: Bytes,
    /// What it belongs to.
    pub(super) what: What,
}

/// What a message belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A revision of this session's record, written by Holdfast or by hand.
    Record(SessionKey, Origin),
    /// A frame of this session's log.
    Frame(SessionKey),
    /// Neither, like a key that is not a session's.
    Other,
}

/// Who wrote a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A coordinator or a worker. Their writes have a message id.
    Holdfast,
    /// An operator with a KV client.
    Hand,
}

impl Input {
    /// Classifies a message of the stream.
    pub(super) fn of(root: &Root, posted: Posted) -> Self {
        let what = what(root, &posted);
        let Posted { sequence, time, payload, traces, .. } = posted;
        Self { sequence, time: time.to_string(), traces, value: payload, what }
    }

    /// The session that it belongs to.
    pub(super) fn key(&self) -> Option<&SessionKey> {
        match &self.what {
            What::Record(key, _) | What::Frame(key) => Some(key),
            What::Other => None,
        }
    }
}

fn what(root: &Root, posted: &Posted) -> What {
    if let Some(key) = root.parse_record(&posted.subject) {
        return What::Record(key, if posted.has_write_id { Origin::Holdfast } else { Origin::Hand });
    }
    // A reserved namespace has no sessions. A message in such a log is a malformed request, like
    // `<root>.log.session.open`, that the stream stored because its subject looks like a log's.
    let log = root.parse_log(&posted.subject).filter(|key| !key.namespace.is_reserved());
    log.map_or(What::Other, What::Frame)
}
