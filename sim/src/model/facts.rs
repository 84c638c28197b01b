//! What several rules need of a run, worked out once.

use std::collections::{BTreeMap, HashMap, HashSet};

use holdfast_protocol::{SessionKey, SessionRecord};

use super::fold::Fold;
use crate::history::{Attempt, Request};
use crate::run::{Revised, Run, Written};
use crate::world::key;

/// A run, and what follows from it.
pub(super) struct Facts<'a> {
    pub(super) run: &'a Run,
    pub(super) requests: HashMap<&'a str, &'a Request>,
    pub(super) folds: BTreeMap<&'a SessionKey, Fold>,
    /// The revisions of each record.
    pub(super) records: BTreeMap<&'a SessionKey, Vec<&'a Revised>>,
    /// Requests of which the net delivered a copy by itself, be it to a coordinator or to an agent.
    pub(super) copied: HashSet<String>,
    /// Where answers came from, by reply subject, and when they were sent.
    answers: HashMap<&'a str, (&'a str, std::time::Duration)>,
}

impl<'a> Facts<'a> {
    /// # Errors
    /// When a log cannot be folded.
    pub(super) fn of(run: &'a Run) -> Result<Self, String> {
        let requests: HashMap<&str, &Request> =
            run.seen.requests.iter().map(|request| (request.id.as_str(), request)).collect();
        let mut folds = BTreeMap::new();
        let mut records = BTreeMap::new();
        for (key, written) in &run.sessions {
            folds.insert(key, Fold::of(written, &requests).map_err(|how| format!("{key}: {how}"))?);
            let revised = written.iter().filter_map(|written| match written {
                Written::Record(revised) => Some(&**revised),
                Written::Frame(_) => None,
            });
            records.insert(key, revised.collect());
        }
        let copied = run.published.iter().filter(|message| message.is_copy).filter_map(|message| {
            let body: serde_json::Value = serde_json::from_slice(&message.payload).ok()?;
            body["request_id"].as_str().map(str::to_owned)
        });
        let mut answers = HashMap::new();
        for message in &run.published {
            answers.entry(message.subject.as_str()).or_insert((message.from.as_str(), message.at));
        }
        Ok(Self { run, requests, folds, records, copied: copied.collect(), answers })
    }

    /// The revisions of the record that `request` is about.
    pub(super) fn records_of(&self, request: &Request) -> &[&'a Revised] {
        self.records.get(&key(&request.session)).map_or(&[], Vec::as_slice)
    }

    /// The log of the session that `request` is about.
    pub(super) fn fold_of(&self, request: &Request) -> Option<&Fold> {
        self.folds.get(&key(&request.session))
    }

    /// Which coordinator answered, and when.
    pub(super) fn answered_by(&self, attempt: &Attempt) -> Option<(&'a str, std::time::Duration)> {
        self.answers.get(attempt.inbox.as_str()).copied()
    }
}

/// A revision that Holdfast wrote, and the one before it.
pub(super) struct Change<'a> {
    pub(super) before: Option<&'a Revised>,
    pub(super) after: &'a Revised,
    pub(super) record: &'a SessionRecord,
}

impl<'a> Change<'a> {
    /// The record before, if this is of the same life.
    pub(super) fn same_life(&self) -> Option<&'a SessionRecord> {
        let before = self.before?.record.as_ref()?;
        (before.log_after == self.record.log_after).then_some(before)
    }
}

/// Each revision that Holdfast wrote.
pub(super) fn changes<'a>(revised: &[&'a Revised]) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    let mut before = None;
    for after in revised {
        if let Some(record) = after.record.as_ref().filter(|_| !after.by_hand) {
            changes.push(Change { before, after, record });
        }
        before = Some(*after);
    }
    changes
}
