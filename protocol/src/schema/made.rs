//! Makes the schemas from the types.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{ACT_GROUPS, SIGNAL_GROUPS};
use crate::act::{Act, Done};
use crate::error::ErrorReply;
use crate::limits::Limits;
use crate::record::{EventType, SessionRecord};
use crate::reply::{
    Closed, Document, Drained, Edited, Grant, Opened, Preview, Reclaimed, Released, Renewed, Saved, SecretRotated,
    Session, SessionPage, TakenOver, Touched, Unlocked, Validated, WorkerList,
};
use crate::request::{
    Acquire, Close, DocGet, Drain, Edit, Empty, List, Load, Move, Open, Reclaim, RotateSecret, Save, ShowToken,
    Takeover, Undo, Unlock,
};
use crate::signal::{LOCK_CONFLICT, Signal};
use crate::subject::Verb;

/// The events of the group `doc`.
const DOC_EVENTS: [&str; 8] = ["loaded", "edited", "saved", "undone", "redone", "failed", "diverged", "converged"];

/// Whether a member that the type does not know is refused or ignored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Refused,
    Ignored,
}

/// All schemas, as the file `schema.json` has them.
pub fn document() -> Value {
    let mut schemas = Map::new();
    for verb in Verb::ALL {
        put(&mut schemas, format!("request.{verb}"), request(*verb));
        put(&mut schemas, format!("reply.{verb}"), reply(*verb));
    }
    put(&mut schemas, "error".to_owned(), written::<ErrorReply>());
    // An operator may write one by hand, so members that have a default may be missing.
    put(&mut schemas, "record".to_owned(), read::<SessionRecord>());
    for group in SIGNAL_GROUPS {
        put(&mut schemas, format!("signal.{group}"), signal(group));
    }
    for group in ACT_GROUPS {
        put(&mut schemas, format!("act.{group}"), act(group));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Holdfast, the wire contract, v1",
        "description": "Bounds are the default limits. What members mean together is said in PROTOCOL.md.",
        "$defs": schemas,
    })
}

fn put(schemas: &mut Map<String, Value>, name: String, mut schema: Value) {
    schema["title"] = json!(name);
    schemas.insert(name, schema);
}

fn request(verb: Verb) -> Value {
    let mut schema = match verb {
        Verb::SessionOpen => read::<Open>(),
        Verb::SessionGet | Verb::SessionTouch | Verb::AdminPreview | Verb::WorkerList => read::<Empty>(),
        Verb::SessionList => read::<List>(),
        Verb::SessionClose => read::<Close>(),
        Verb::LockAcquire => read::<Acquire>(),
        Verb::LockValidate | Verb::LockRenew | Verb::LockRelease => read::<ShowToken>(),
        Verb::DocGet => read::<DocGet>(),
        Verb::DocEdit => read::<Edit>(),
        Verb::DocLoad => read::<Load>(),
        Verb::DocSave => read::<Save>(),
        Verb::DocUndo | Verb::DocRedo => read::<Undo>(),
        Verb::AdminTakeover => read::<Takeover>(),
        Verb::AdminUnlock => read::<Unlock>(),
        Verb::AdminMove => read::<Move>(),
        Verb::AdminReclaim => read::<Reclaim>(),
        Verb::AdminRotateSecret => read::<RotateSecret>(),
        Verb::WorkerDrain | Verb::WorkerUndrain => read::<Drain>(),
    };
    bound(&mut schema);
    schema
}

fn reply(verb: Verb) -> Value {
    match verb {
        Verb::SessionOpen => written::<Opened>(),
        Verb::SessionGet | Verb::AdminMove => written::<Session>(),
        Verb::SessionList => written::<SessionPage>(),
        Verb::SessionTouch => written::<Touched>(),
        Verb::SessionClose => written::<Closed>(),
        Verb::LockAcquire => written::<Grant>(),
        Verb::LockValidate => written::<Validated>(),
        Verb::LockRenew => written::<Renewed>(),
        Verb::LockRelease => written::<Released>(),
        Verb::DocGet | Verb::DocLoad => written::<Document>(),
        Verb::DocEdit | Verb::DocUndo | Verb::DocRedo => written::<Edited>(),
        Verb::DocSave => written::<Saved>(),
        Verb::AdminTakeover => written::<TakenOver>(),
        Verb::AdminUnlock => written::<Unlocked>(),
        Verb::AdminReclaim => written::<Reclaimed>(),
        Verb::AdminPreview => written::<Preview>(),
        Verb::AdminRotateSecret => written::<SecretRotated>(),
        Verb::WorkerList => written::<WorkerList>(),
        Verb::WorkerDrain | Verb::WorkerUndrain => written::<Drained>(),
    }
}

/// The schema of a signal, with the `data` of its group.
fn signal(group: &str) -> Value {
    let text = || json!({ "type": ["string", "null"] });
    let number = || json!({ "type": ["integer", "null"], "minimum": 0 });
    let (events, members): (Vec<String>, Vec<(&str, Value)>) = match group {
        "doc" => (
            DOC_EVENTS.iter().map(|event| format!("doc.{event}")).collect(),
            vec![
                ("revision", number()),
                ("previous_revision", number()),
                ("changed", json!({ "type": ["array", "null"], "items": { "type": "string" } })),
                ("actor", text()),
                ("path", text()),
                ("error", json!({ "type": ["object", "null"] })),
            ],
        ),
        "lock" => (
            of_records(group).chain([LOCK_CONFLICT.to_owned()]).collect(),
            vec![
                ("owner", text()),
                ("previous_owner", text()),
                ("requested_owner", text()),
                ("reason", text()),
                ("actor", text()),
                ("lock_revision", number()),
                ("revision", number()),
            ],
        ),
        _ => (
            of_records(group).collect(),
            vec![
                ("state", json!({ "enum": ["active", "passive", "closed", null] })),
                ("worker", text()),
                ("previous_worker", text()),
                ("reason", text()),
                ("revision", number()),
            ],
        ),
    };
    let required: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let mut properties: Map<String, Value> =
        members.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    for name in ["actor", "actor_proven"] {
        properties.entry(name).or_insert_with(text);
    }
    properties.insert(
        "truncated".to_owned(),
        json!({
            "description": "Members that are null because `data` would have been over 16 KiB.",
            "type": "array",
            "items": { "type": "string" },
        }),
    );
    let mut schema = written::<Signal>();
    schema["description"] = json!(format!("A signal of the group `{group}`: CloudEvents 1.0 as JSON."));
    let types: Vec<String> = events.iter().map(|event| format!("holdfast.{event}.v1")).collect();
    schema["properties"]["type"] = json!({ "description": "What happened.", "enum": types });
    schema["properties"]["data"] = json!({ "type": "object", "properties": properties, "required": required });
    schema
}

/// The schema of an act, with the `data` of its group.
fn act(group: &str) -> Value {
    let text = || json!({ "type": "string" });
    let number = || json!({ "type": "integer", "minimum": 0 });
    let mut members = match group {
        "worker" => vec![("worker", text()), ("boot", text()), ("sessions_left", number())],
        _ => vec![
            ("generation", number()),
            ("revoke", json!({ "type": "boolean" })),
            ("released", json!({ "type": ["integer", "null"], "minimum": 0 })),
        ],
    };
    members.extend([("reason", text()), ("actor", json!({ "type": ["string", "null"] }))]);
    let required: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    members.push(("actor_proven", text()));
    let properties: Map<String, Value> =
        members.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    let prefix = format!("{group}.");
    let events = Done::EVENTS.iter().filter(|event| event.starts_with(&prefix));
    let types: Vec<String> = events.map(|event| format!("holdfast.{event}.v1")).collect();
    let mut schema = written::<Act>();
    schema["description"] = json!(format!("An act of the group `{group}`: CloudEvents 1.0 as JSON."));
    schema["properties"]["type"] = json!({ "description": "What was done.", "enum": types });
    schema["properties"]["data"] = json!({ "type": "object", "properties": properties, "required": required });
    schema
}

fn of_records(group: &str) -> impl Iterator<Item = String> {
    let prefix = format!("{group}.");
    EventType::ALL.iter().map(|event| event.as_str().to_owned()).filter(move |event| event.starts_with(&prefix))
}

/// The schema of what this type reads: a member that is `null` counts as left out.
fn read<T: JsonSchema>() -> Value {
    made::<T>(SchemaSettings::draft2020_12().for_deserialize(), Unknown::Refused)
}

/// The schema of what this type writes.
fn written<T: JsonSchema>() -> Value {
    made::<T>(SchemaSettings::draft2020_12().for_serialize(), Unknown::Ignored)
}

fn made<T: JsonSchema>(settings: SchemaSettings, unknown: Unknown) -> Value {
    let settings = settings.with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    tidy(&mut schema, unknown);
    schema
}

/// Removes what says nothing to a reader: defaults that are `null`, and the width of integers.
fn tidy(schema: &mut Value, unknown: Unknown) {
    match schema {
        Value::Object(members) => {
            members.retain(|name, value| match name.as_str() {
                "default" => !value.is_null(),
                "format" => !value.as_str().is_some_and(|format| format.contains("int")),
                "additionalProperties" => unknown == Unknown::Refused || *value != json!(false),
                _ => true,
            });
            members.values_mut().for_each(|value| tidy(value, unknown));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| tidy(item, unknown)),
        _ => {}
    }
}

/// Adds the default limits to the members of a request, wherever they are in it.
fn bound(schema: &mut Value) {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties.iter_mut() {
            if let (Some(bounds), Some(property)) = (bounds_of(name).as_object(), property.as_object_mut()) {
                property.extend(bounds.clone());
            }
        }
    }
    match schema {
        Value::Object(members) => members.values_mut().for_each(bound),
        Value::Array(items) => items.iter_mut().for_each(bound),
        _ => {}
    }
}

fn bounds_of(member: &str) -> Value {
    let limits = Limits::default();
    let length = |most: usize| json!({ "minLength": 1, "maxLength": most });
    let within = |(low, high): (u64, u64)| json!({ "minimum": low, "maximum": high });
    match member {
        "owner" | "actor" | "reason" => length(limits.text_chars),
        "request_id" => length(64),
        "token" | "expected_token" => length(256),
        "path" => length(limits.path_chars),
        "id" | "workspace" => json!({ "pattern": "^[A-Za-z0-9_-]+$", "minLength": 1, "maxLength": 64 }),
        "ttl_ms" => within(limits.ttl_ms),
        "wait_ms" => within((0, limits.wait_ms)),
        "idle_timeout_ms" => within(limits.idle_timeout_ms),
        "limit" => within((1, 1000)),
        _ => Value::Null,
    }
}
