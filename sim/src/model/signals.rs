//! Every commit is announced, in commit order, as what it was; and `HF_SIGNALS` keeps what is about sessions and locks.

use std::collections::{BTreeMap, HashSet};

use holdfast_protocol::SessionKey;
use holdfast_protocol::signal::{Happening, of_broken_record, of_deletion, of_event, of_hand_edit};
use serde_json::Value;

use super::facts::Facts;
use crate::run::Revised;

/// A place in the stream: sequence, and place among the events of that message.
type Place = (u64, u32);

/// What a revision of a record is announced as.
fn of_revision(key: &SessionKey, before: Option<&Revised>, revised: &Revised) -> Vec<Happening> {
    let before = before.and_then(|before| before.record.as_ref());
    match (&revised.json, &revised.record) {
        (None, _) if revised.by_hand => of_deletion(revised.revision),
        (None, _) => Vec::new(),
        (Some(json), None) => {
            let error = holdfast_protocol::SessionRecord::from_json(json, key).err();
            let problem = error.as_ref().and_then(|error| error.details.get("problem")?.as_str()).unwrap_or_default();
            of_broken_record(problem, revised.revision)
        }
        (Some(_), Some(record)) if revised.by_hand => of_hand_edit(record, revised.revision, before),
        (Some(_), Some(record)) => of_event(record, revised.revision),
    }
}

/// All that is to be announced of a session.
fn expected(facts: &Facts<'_>, key: &SessionKey) -> BTreeMap<Place, Happening> {
    let mut expected = BTreeMap::new();
    let mut before = None;
    for revised in facts.records.get(key).into_iter().flatten() {
        let happenings = of_revision(key, before, revised);
        expected.extend((0..).zip(happenings).map(|(index, what)| ((revised.revision.0, index), what)));
        before = Some(*revised);
    }
    let events = facts.folds.get(key).into_iter().flat_map(|fold| &fold.events);
    expected.extend(events.map(|(sequence, index, what)| ((*sequence, *index), what.clone())));
    expected
}

/// The place that a signal's id names; `None`: it is about no commit.
fn place_of(signal: &Value) -> Option<Place> {
    let mut parts = signal["id"].as_str()?.split(':');
    if parts.next() != Some("KV_sessions") {
        return None;
    }
    let sequence = parts.next()?.parse().ok()?;
    Some((sequence, parts.next().map_or(Some(0), |index| index.parse().ok())?))
}

pub(super) fn announced_in_order(facts: &Facts<'_>) -> Result<(), String> {
    for key in facts.records.keys() {
        let expected = expected(facts, key);
        let prefix = format!("hf.default.signal.{}.", key.id);
        let mut announced: HashSet<Place> = HashSet::new();
        let mut last = (0, 0);
        for message in &facts.run.published {
            let Some(name) = message.subject.strip_prefix(prefix.as_str()) else { continue };
            let signal: Value = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
            let Some(place) = place_of(&signal) else { continue };
            let Some(what) = expected.get(&place) else {
                return Err(format!("{key}: {name} is announced as {}, where nothing happened", signal["id"]));
            };
            if what.name != name || signal["data"] != Value::Object(what.data.clone()) {
                return Err(format!("{key}: {name} {signal} is announced, and it was {what:?}"));
            }
            if announced.insert(place) {
                if place < last {
                    return Err(format!("{key}: {place:?} is announced after {last:?}"));
                }
                last = place;
            }
        }
        if let Some((place, what)) = expected.iter().find(|(place, _)| !announced.contains(place)) {
            return Err(format!("{key}: {} at {place:?} is never announced", what.name));
        }
    }
    Ok(())
}

pub(super) fn kept(facts: &Facts<'_>) -> Result<(), String> {
    let signals = facts.run.kept.iter().map(|kept| {
        let signal: Value = serde_json::from_slice(&kept.payload).unwrap_or(Value::Null);
        (kept.subject.to_string(), place_of(&signal))
    });
    let kept: HashSet<(String, Option<Place>)> = signals.collect();
    for key in facts.records.keys() {
        for (place, what) in expected(facts, key) {
            let subject = format!("hf.default.signal.{}.{}", key.id, what.name);
            if !what.name.starts_with("doc.") && !kept.contains(&(subject, Some(place))) {
                return Err(format!("{key}: {} at {place:?} is not kept", what.name));
            }
        }
    }
    Ok(())
}
