//! The streams that keep signals and acts of operators, as their publisher sees them.

use std::collections::BTreeMap;

use async_nats::Subject;
use bytes::Bytes;
use holdfast_protocol::subject::Root;

use super::interest::matches;
use crate::wire::{BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, Outgoing};

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
    root: Root,
    stream: String,
    subjects: Vec<String>,
    by_id: BTreeMap<String, u64>,
    kept: Vec<Kept>,
    /// Atomic batches that were not committed yet.
    batches: BTreeMap<String, Vec<Outgoing>>,
}

impl Keeper {
    pub(super) fn of_signals(root: &Root) -> Self {
        Self::of(root, root.signals_stream(), root.signals_stream_subjects())
    }

    pub(super) fn of_acts(root: &Root) -> Self {
        Self::of(root, root.audit_stream(), root.audit_stream_subjects())
    }

    fn of(root: &Root, stream: String, subjects: Vec<String>) -> Self {
        let (root, by_id, kept, batches) = (root.clone(), BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { root, stream, subjects, by_id, kept, batches }
    }

    pub(super) fn keeps(&self, subject: &str) -> bool {
        self.subjects.iter().any(|pattern| matches(pattern, subject))
    }

    pub(super) fn all(&self) -> &[Kept] {
        &self.kept
    }

    /// Takes a message, alone or as the next one of an atomic batch. Returns the acknowledgement.
    pub(super) fn keep(&mut self, message: &Outgoing) -> Bytes {
        let Some(batch) = header(message, BATCH_ID) else { return self.store(message) };
        let staged = self.batches.entry(batch.clone()).or_default();
        staged.push(message.clone());
        if header(message, BATCH_COMMIT).is_none() {
            return Bytes::new();
        }
        let staged = self.batches.remove(&batch).unwrap_or_default();
        let numbers = staged.iter().map(|message| header(message, BATCH_SEQUENCE));
        let is_whole = numbers.zip(1..).all(|(number, expected)| number == Some(expected.to_string()));
        let is_new = staged.iter().all(|message| self.known(message).is_none());
        if !is_whole || !is_new {
            return format!(r#"{{"stream":"{}","error":{{"code":400,"err_code":10201}}}}"#, self.stream).into();
        }
        staged.iter().map(|message| self.store(message)).last().unwrap_or_default()
    }

    fn known(&self, message: &Outgoing) -> Option<u64> {
        header(message, ID).and_then(|id| self.by_id.get(&id)).copied()
    }

    /// Stores a message, unless one with its id is stored. Returns the acknowledgement.
    fn store(&mut self, message: &Outgoing) -> Bytes {
        let stream = &self.stream;
        if let Some(sequence) = self.known(message) {
            return format!(r#"{{"stream":"{stream}","seq":{sequence},"duplicate":true}}"#).into();
        }
        let sequence = self.kept.len() as u64 + 1;
        let id = header(message, ID);
        self.by_id.extend(id.clone().map(|id| (id, sequence)));
        let subject = self.root.stored_signal(&message.subject).map_or(message.subject.clone(), Subject::from);
        self.kept.push(Kept { sequence, subject, id, payload: message.payload.clone() });
        format!(r#"{{"stream":"{stream}","seq":{sequence}}}"#).into()
    }
}

const ID: &str = "Nats-Msg-Id";

fn header(message: &Outgoing, name: &str) -> Option<String> {
    message.headers.as_ref()?.get_last(name).map(|value| value.as_str().to_owned())
}
