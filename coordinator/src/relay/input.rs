//! One message of the stream, whichever way it was read.

use bytes::Bytes;
use holdfast_protocol::SessionKey;
use holdfast_protocol::subject::Root;
use holdfast_store::feed::Posted;

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
    Record(SessionKey, Origin),
    /// A frame of this session's log.
    Frame(SessionKey),
    /// Neither, like a key that is no session's.
    Other,
}

/// Who wrote a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A coordinator or a worker: writes carry an id.
    Holdfast,
    /// Somebody with a KV client.
    Hand,
}

impl Input {
    /// A message as it stands in the stream.
    pub(super) fn of(root: &Root, posted: Posted) -> Self {
        let what = what(root, &posted);
        let Posted { sequence, time, payload, .. } = posted;
        Self { sequence, time: time.to_string(), value: payload, what }
    }

    /// The session that it is of.
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
    // A reserved namespace has no sessions. What is in such a log is a request that was meant for nobody, like
    // `<root>.log.session.open`, and the stream took it because it looks like a log.
    let log = root.parse_log(&posted.subject).filter(|key| !key.namespace.is_reserved());
    log.map_or(What::Other, What::Frame)
}
