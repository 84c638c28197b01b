//! The streams that keep signals and acts of operators, as their publisher sees them.

use std::collections::BTreeMap;

use async_nats::Subject;
use async_nats::header::NATS_MESSAGE_ID;
use bytes::Bytes;
use holdfast_protocol::subject::Root;

use super::interest::matches;
use crate::wire::Outgoing;

/// A kept signal or act.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its sequence in its stream.
    pub sequence: u64,
    /// Its subject.
    pub subject: Subject,
    /// Its `Nats-Msg-Id`.
    pub id: Option<String>,
    /// Its body.
    pub payload: Bytes,
}

pub(super) struct Keeper {
    stream: String,
    subjects: Vec<String>,
    by_id: BTreeMap<String, u64>,
    kept: Vec<Kept>,
}

impl Keeper {
    pub(super) fn of_signals(root: &Root) -> Self {
        Self::of(root.signals_stream(), root.signals_stream_subjects())
    }

    pub(super) fn of_acts(root: &Root) -> Self {
        Self::of(root.audit_stream(), root.audit_stream_subjects())
    }

    fn of(stream: String, subjects: Vec<String>) -> Self {
        Self { stream, subjects, by_id: BTreeMap::new(), kept: Vec::new() }
    }

    pub(super) fn keeps(&self, subject: &str) -> bool {
        self.subjects.iter().any(|pattern| matches(pattern, subject))
    }

    pub(super) fn all(&self) -> &[Kept] {
        &self.kept
    }

    /// Stores a message, unless one with its id is stored. Returns the acknowledgement.
    pub(super) fn keep(&mut self, message: &Outgoing) -> Bytes {
        let id = message.headers.as_ref().and_then(|headers| headers.get_last(NATS_MESSAGE_ID));
        let id = id.map(|id| id.as_str().to_owned());
        if let Some(sequence) = id.as_ref().and_then(|id| self.by_id.get(id)) {
            return format!(r#"{{"stream":"{}","seq":{sequence},"duplicate":true}}"#, self.stream).into();
        }
        let sequence = self.kept.len() as u64 + 1;
        self.by_id.extend(id.clone().map(|id| (id, sequence)));
        let (subject, payload) = (message.subject.clone(), message.payload.clone());
        self.kept.push(Kept { sequence, subject, id, payload });
        format!(r#"{{"stream":"{}","seq":{sequence}}}"#, self.stream).into()
    }
}
