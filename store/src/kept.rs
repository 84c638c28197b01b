//! Reads what a stream keeps of a subject, for people: the history of a session, and kept signals.
//!
//! Invariant: it needs no consumer, only direct gets, which an operator in another account may send. Any replica
//! answers, so what was stored a moment ago may be missing.

use async_nats::HeaderMap;
use bytes::Bytes;
use jiff::Timestamp;

use crate::StoreError;
use crate::jetstream::Jetstream;
use crate::read::{self, Query};

/// The place at which a reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At this sequence of the stream.
    Sequence(u64),
    /// At what was stored from this time on, by the clock of the server.
    Time(Timestamp),
}

/// A message that a stream keeps.
#[derive(Clone, Debug)]
pub struct KeptMessage {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When it was stored, by the clock of the server.
    pub time: Timestamp,
    /// Its body.
    pub payload: Bytes,
}

/// Messages that a stream keeps.
#[derive(Clone, Debug, Default)]
pub struct KeptPage {
    /// Oldest first.
    pub messages: Vec<KeptMessage>,
    /// How many more follow the last one.
    pub pending: u64,
}

impl Jetstream {
    /// At most `most` messages of `subject`, which may have wildcards, in `stream`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no replica answers.
    pub async fn kept(&self, stream: &str, subject: &str, begin: Begin, most: usize) -> Result<KeptPage, StoreError> {
        let query = match begin {
            Begin::Sequence(seq) => Query::From { seq: seq.max(1), next_by_subj: subject, batch: most },
            Begin::Time(time) => Query::Since { start_time: time.to_string(), next_by_subj: subject, batch: most },
        };
        let (messages, end) = read::batch_to_end(&self.client, stream, &query).await?;
        let messages = messages.into_iter().map(|raw| KeptMessage {
            sequence: raw.sequence,
            time: raw.time,
            payload: raw.payload,
        });
        Ok(KeptPage { messages: messages.collect(), pending: end.as_ref().and_then(pending).unwrap_or(0) })
    }
}

/// How many messages follow a batch, as its end says (ADR-31).
fn pending(end: &HeaderMap) -> Option<u64> {
    end.get_last("Nats-Num-Pending")?.as_str().parse().ok()
}
