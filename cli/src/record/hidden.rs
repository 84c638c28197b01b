//! A record without its secrets, for people's eyes and for files in an editor.
//!
//! Hidden are the hash of the token, the nonce that it is derived from, and the ids of requests: whoever knows the id
//! of the request that got a lock, and its owner's name, can ask for that grant again. The record knows them by their
//! places, so an edited record gets them back where they were left as they were shown.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_client::protocol::SessionRecord;
use serde_json::{Map, Value, json};

/// What is shown in place of a secret.
const SHOWN: &str = "(hidden)";
/// How the value of a member that is not there is shown.
const NOTHING: &str = "nothing";
/// The members that are secret: the object that they are in, and their name.
const SECRETS: [(&str, &str); 4] =
    [("lock", "token_hash"), ("lock", "nonce"), ("lock", "request_id"), ("event", "request_id")];

/// A record whose secrets are hidden.
pub(super) struct Hidden {
    shown: Value,
    secrets: Vec<(&'static str, &'static str, Value)>,
}

impl Hidden {
    /// Hides the secrets of `record`.
    pub(super) fn of(record: &SessionRecord) -> Self {
        // Not by `Value` from bytes: the record is a struct, so no key of it has another meaning.
        let mut shown = serde_json::to_value(record).expect("a record is JSON");
        let mut secrets = Vec::new();
        for (place, member) in SECRETS {
            let found = shown.get_mut(place).and_then(|place| place.get_mut(member));
            if let Some(secret) = found.filter(|secret| !secret.is_null() && **secret != json!("")) {
                secrets.push((place, member, std::mem::replace(secret, json!(SHOWN))));
            }
        }
        Self { shown, secrets }
    }

    /// As JSON.
    pub(super) fn json(&self) -> &Value {
        &self.shown
    }

    /// As text of several lines.
    pub(super) fn text(&self) -> String {
        format!("{:#}\n", self.shown)
    }

    /// As text for an editor: without the event, which the edit replaces.
    pub(super) fn text_to_edit(&self) -> String {
        let mut shown = self.shown.clone();
        if let Some(members) = shown.as_object_mut() {
            members.remove("event");
        }
        format!("{shown:#}\n")
    }

    /// `edited` with the secrets that were left as they were shown.
    ///
    /// # Errors
    /// What is wrong, when a hidden member is where there was no secret.
    pub(super) fn restore(&self, mut edited: Map<String, Value>) -> Result<Map<String, Value>, String> {
        for (place, member) in SECRETS {
            let Some(value) = edited.get_mut(place).and_then(|place| place.get_mut(member)) else { continue };
            if *value != json!(SHOWN) {
                continue;
            }
            let secret = self.secrets.iter().find(|(at, name, _)| (*at, *name) == (place, member));
            let Some((_, _, secret)) = secret else {
                return Err(format!("{place}.{member} is {SHOWN:?}, and there was no such value: remove the member"));
            };
            *value = secret.clone();
        }
        Ok(edited)
    }
}

/// What differs between two records, a member a line. The event is left out.
pub(crate) fn changes(before: &SessionRecord, after: &SessionRecord) -> Vec<String> {
    let lock = |record: &SessionRecord| record.lock.as_ref().map(|lock| format!("held by {}", lock.owner));
    let owner = |record: &SessionRecord| record.owner.as_ref().map(|owner| format!("worker {}", owner.worker));
    let mut changes = Vec::new();
    // One that comes or goes is one change, and not one of each member.
    let mut whole = Vec::new();
    for (name, before, after) in [("lock", lock(before), lock(after)), ("owner", owner(before), owner(after))] {
        if before.is_some() != after.is_some() {
            let shown = |value: Option<String>| value.unwrap_or_else(|| NOTHING.to_owned());
            changes.push(format!("{name}: {} -> {}", shown(before), shown(after)));
            whole.push(name);
        }
    }
    let (before, after) = (members(before), members(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let is_in_whole = |name: &str| name.split_once('.').is_some_and(|(place, _)| whole.contains(&place));
    for name in names.into_iter().filter(|name| before.get(*name) != after.get(*name) && !is_in_whole(name)) {
        let shown = |value: Option<&Value>| value.map_or(NOTHING.to_owned(), Value::to_string);
        changes.push(match is_secret(name) {
            true => format!("{name}: changed"),
            false => format!("{name}: {} -> {}", shown(before.get(name)), shown(after.get(name))),
        });
    }
    changes
}

fn is_secret(name: &str) -> bool {
    SECRETS.iter().any(|(place, member)| name.split_once('.') == Some((place, member)))
}

/// The members of a record by their path, without those that are null.
fn members(record: &SessionRecord) -> BTreeMap<String, Value> {
    fn add(path: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
        match value {
            Value::Null => {}
            Value::Object(members) => members.iter().for_each(|(name, value)| {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                add(&path, value, into);
            }),
            value => {
                into.insert(path.to_owned(), value.clone());
            }
        }
    }
    let mut into = BTreeMap::new();
    let without_event = SessionRecord { event: None, ..record.clone() };
    add("", &serde_json::to_value(without_event).expect("a record is JSON"), &mut into);
    into
}
