//! Signals: CloudEvents 1.0 about commits and conflicts.
//!
//! Invariant: a signal contains only what the stream contains. One commit may be several events. The first has the
//! contract's id `<stream>:<sequence>`, later ones `<stream>:<sequence>:<n>`, so the same id is always the same event.
//! Source of the envelope: CloudEvents 1.0.2, and its extensions `sequence` and `correlationid`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::frame::OpEvent;
use crate::id::{RequestId, Revision, SessionKey};
use crate::record::{Event, EventType, HandOver, SessionRecord, State};

/// How many bytes `data` has at most.
pub const DATA_BYTES: usize = 16 * 1024;

/// How the `reason` of a hand edit's events begins.
pub const EDITED_BY_HAND: &str = "edited by hand";
/// The `reason` of the event when a record was deleted by a KV client.
pub const RECORD_DELETED: &str = "record deleted";
/// The header of a `lock.released` whose write also granted the lock to the next waiter.
pub const HANDED_OVER: &str = "Hf-Handed-Over";
/// The event of a refused acquire.
pub const LOCK_CONFLICT: &str = "lock.conflict";
/// The event of a file operation that failed.
pub const DOC_FAILED: &str = "doc.failed";

/// An event without its position in the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// `group.event`.
    pub name: String,
    /// The request that caused it.
    pub request_id: Option<RequestId>,
    /// The contract's data for its group.
    pub data: Map<String, Value>,
}

impl Happening {
    /// The same with who asked as nats-server tells it. The member is left out when that is not known.
    #[must_use]
    pub fn proven(mut self, actor_proven: Option<&str>) -> Self {
        self.data.extend(actor_proven.map(|proven| ("actor_proven".to_owned(), json!(proven))));
        self
    }
}

/// Where and when an event was committed.
#[derive(Clone, Copy, Debug)]
pub struct StreamPosition<'a> {
    /// Stream.
    pub stream: &'a str,
    /// Sequence in it.
    pub sequence: u64,
    /// Index among the events of the same message.
    pub index: u32,
    /// When, RFC 3339.
    pub time: &'a str,
}

/// A signal as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Signal {
    /// `1.0`
    pub specversion: String,
    /// The same id is the same event.
    pub id: String,
    /// `/holdfast/<ns>/<id>`
    pub source: String,
    /// `holdfast.<group>.<event>.v1`
    #[serde(rename = "type")]
    pub kind: String,
    /// The session's id.
    pub subject: String,
    /// When, RFC 3339.
    pub time: String,
    /// `application/json`
    pub datacontenttype: String,
    /// Stream sequence, 20 digits, so that text order is commit order.
    pub sequence: String,
    /// The request that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<RequestId>,
    /// What happened.
    #[serde(deserialize_with = "crate::json::map")]
    pub data: Map<String, Value>,
}

impl Signal {
    /// The signal of a committed event.
    pub fn committed(key: &SessionKey, at: StreamPosition<'_>, happening: Happening) -> Self {
        let id = match at.index {
            0 => format!("{}:{}", at.stream, at.sequence),
            index => format!("{}:{}:{index}", at.stream, at.sequence),
        };
        Self::build(key, id, at.sequence, at.time, happening)
    }

    /// The signal of something that was not committed; `id` must be unique, `seen` is the revision it was decided on.
    pub fn uncommitted(key: &SessionKey, id: String, seen: Revision, time: &str, happening: Happening) -> Self {
        Self::build(key, id, seen.0, time, happening)
    }

    fn build(key: &SessionKey, id: String, sequence: u64, time: &str, happening: Happening) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id,
            source: format!("/holdfast/{}/{}", key.namespace, key.id),
            kind: format!("holdfast.{}.v1", happening.name),
            subject: key.id.to_string(),
            time: time.to_owned(),
            datacontenttype: "application/json".to_owned(),
            sequence: format!("{sequence:020}"),
            correlationid: happening.request_id,
            data: truncated(happening.data),
        }
    }

    /// The body of the message.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a signal is strings and JSON values")
    }
}

/// Cuts the largest members until `data` fits, and names them in `truncated`.
fn truncated(mut data: Map<String, Value>) -> Map<String, Value> {
    let size = |value: &Value| serde_json::to_vec(value).map_or(0, |json| json.len());
    let mut cut: Vec<String> = Vec::new();
    while size(&Value::Object(data.clone())) > DATA_BYTES {
        let left = data.iter().filter(|(name, value)| *name != "truncated" && !value.is_null());
        // The contract has few members with short names, so with all of them cut the rest fits.
        let Some((name, _)) = left.max_by_key(|(_, value)| size(value)) else { break };
        let name = name.clone();
        data.insert(name.clone(), Value::Null);
        cut.push(name);
        data.insert("truncated".to_owned(), json!(cut));
    }
    data
}

fn map<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The events of a revision of the record, from its own `event`.
pub fn of_event(record: &SessionRecord, revision: Revision) -> Vec<Happening> {
    let Some(event) = &record.event else { return Vec::new() };
    let request_id = event.request_id.clone();
    let happening = |kind: EventType, data| {
        let happening = Happening { name: kind.as_str().to_owned(), request_id: request_id.clone(), data };
        happening.proven(event.actor_proven.as_deref())
    };
    let session = || {
        let previous_worker = event.previous_worker.as_ref().map(ToString::to_string);
        let mut data = session_data(record, revision, previous_worker, event.reason.clone());
        // Left out if the request named no actor.
        data.extend(event.actor.iter().map(|actor| ("actor".to_owned(), json!(actor))));
        data
    };
    match event.kind {
        EventType::SessionOpened if record.owner.is_some() => {
            vec![happening(EventType::SessionOpened, session()), happening(EventType::SessionActivated, session())]
        }
        kind if kind.as_str().starts_with("session.") => vec![happening(kind, session())],
        kind => {
            let mut data = lock_data(record, revision, event.previous_owner.clone(), event.reason.clone());
            data.insert("actor".to_owned(), json!(event.actor));
            let released = event.hand_over.as_ref().map(|hand_over| of_hand_over(hand_over, record, revision));
            released.into_iter().chain([happening(kind, data)]).collect()
        }
    }
}

/// The release in a revision that also grants the lock to the next waiter. It says what a release alone would say.
fn of_hand_over(hand_over: &HandOver, record: &SessionRecord, revision: Revision) -> Happening {
    let mut data = lock_data(record, revision, hand_over.previous_owner.clone(), None);
    data.insert("owner".to_owned(), Value::Null);
    data.insert("actor".to_owned(), json!(hand_over.actor));
    data.insert("lock_revision".to_owned(), json!(record.lock_revision.saturating_sub(1)));
    let name = EventType::LockReleased.as_str().to_owned();
    Happening { name, request_id: hand_over.request_id.clone(), data }.proven(hand_over.actor_proven.as_deref())
}

/// The events of a hand edit, found by comparing the record with the revision before it. Who made it and why is in the
/// record's event if that is `lock.changed`; any other event was left there by the writer before.
pub fn of_hand_edit(record: &SessionRecord, revision: Revision, before: Option<&SessionRecord>) -> Vec<Happening> {
    let happening = |kind: EventType, data| Happening { name: kind.as_str().to_owned(), request_id: None, data };
    let previous_owner = before.and_then(|before| before.lock.as_ref()).map(|lock| lock.owner.clone());
    let is_new = |event: &&Event| before.and_then(|before| before.event.as_ref()) != Some(*event);
    let own = record.event.as_ref().filter(|event| event.kind == EventType::LockChanged).filter(is_new);
    let reason = own.and_then(|event| event.reason.as_ref());
    let reason = Some(reason.map_or(EDITED_BY_HAND.to_owned(), |reason| format!("{EDITED_BY_HAND}: {reason}")));
    let mut changed = lock_data(record, revision, previous_owner, reason.clone());
    changed.insert("actor".to_owned(), json!(own.and_then(|event| event.actor.as_ref())));
    let mut happenings = vec![happening(EventType::LockChanged, changed)];
    let worker = |record: &SessionRecord| record.owner.as_ref().map(|owner| owner.worker.to_string());
    let previous_worker = before.and_then(worker);
    let kind = match (before.map(|before| before.state), record.state) {
        (Some(State::Closed) | None, State::Active | State::Passive) => Some(EventType::SessionOpened),
        (Some(State::Closed), State::Closed) => None,
        (_, State::Closed) => Some(EventType::SessionClosed),
        (Some(State::Active), State::Passive) => Some(EventType::SessionPassivated),
        (Some(State::Passive), State::Active) => Some(EventType::SessionActivated),
        _ if worker(record) != previous_worker => Some(EventType::SessionMoved),
        _ => None,
    };
    happenings.extend(kind.map(|kind| happening(kind, session_data(record, revision, previous_worker, reason))));
    happenings
}

/// The events of a record's deletion by a KV client.
pub fn of_deletion(revision: Revision) -> Vec<Happening> {
    let data = map([
        ("state", json!(State::Closed)),
        ("worker", Value::Null),
        ("previous_worker", Value::Null),
        ("reason", json!(RECORD_DELETED)),
        ("revision", json!(revision)),
    ]);
    vec![Happening { name: EventType::SessionClosed.as_str().to_owned(), request_id: None, data }]
}

/// The events of a record that does not parse.
pub fn of_broken_record(problem: &str, revision: Revision) -> Vec<Happening> {
    let data = map([
        ("owner", Value::Null),
        ("previous_owner", Value::Null),
        ("requested_owner", Value::Null),
        ("reason", json!(format!("record does not parse: {problem}"))),
        ("actor", Value::Null),
        ("lock_revision", Value::Null),
        ("revision", json!(revision)),
    ]);
    vec![Happening { name: EventType::LockChanged.as_str().to_owned(), request_id: None, data }]
}

/// The event of a committed op.
pub fn of_op(event: &OpEvent, request_id: &RequestId) -> Happening {
    let data = map([
        ("revision", json!(event.revision)),
        ("previous_revision", json!(event.previous_revision)),
        ("changed", json!(event.changed)),
        ("actor", json!(event.actor)),
        ("path", json!(event.path)),
        ("error", json!(event.error)),
    ]);
    let request_id = (!event.is_noticed()).then(|| request_id.clone());
    Happening { name: format!("doc.{}", event.kind), request_id, data }.proven(event.actor_proven.as_deref())
}

/// The event of a failed load or save.
pub fn of_failure(error: &crate::Error, path: Option<&str>, actor: Option<&str>, request_id: &RequestId) -> Happening {
    let detail = |name: &str| error.details.get(name).cloned().unwrap_or(Value::Null);
    let data = map([
        ("revision", detail("revision")),
        ("previous_revision", Value::Null),
        ("changed", json!([])),
        ("actor", json!(actor)),
        ("path", json!(path)),
        ("error", json!({"code": error.code, "reason": error.reason, "message": error.message})),
    ]);
    Happening { name: DOC_FAILED.to_owned(), request_id: Some(request_id.clone()), data }
}

/// The event of a refused acquire or change.
pub fn of_conflict(error: &crate::Error, actor: Option<&str>, request_id: &RequestId) -> Happening {
    let detail = |name: &str| error.details.get(name).cloned().unwrap_or(Value::Null);
    let data = map([
        ("owner", detail("owner")),
        ("previous_owner", Value::Null),
        ("requested_owner", detail("requested_owner")),
        ("reason", json!(error.reason)),
        ("actor", json!(actor)),
        ("lock_revision", detail("lock_revision")),
        ("revision", detail("revision")),
    ]);
    Happening { name: LOCK_CONFLICT.to_owned(), request_id: Some(request_id.clone()), data }
}

fn session_data(
    record: &SessionRecord,
    revision: Revision,
    previous_worker: Option<String>,
    reason: Option<String>,
) -> Map<String, Value> {
    map([
        ("state", json!(record.state)),
        ("worker", json!(record.owner.as_ref().map(|owner| &owner.worker))),
        ("previous_worker", json!(previous_worker)),
        ("reason", json!(reason)),
        ("revision", json!(revision)),
    ])
}

fn lock_data(
    record: &SessionRecord,
    revision: Revision,
    previous_owner: Option<String>,
    reason: Option<String>,
) -> Map<String, Value> {
    map([
        ("owner", json!(record.lock.as_ref().map(|lock| &lock.owner))),
        ("previous_owner", json!(previous_owner)),
        ("requested_owner", Value::Null),
        ("reason", json!(reason)),
        ("actor", Value::Null),
        ("lock_revision", json!(record.lock_revision)),
        ("revision", json!(revision)),
    ])
}
