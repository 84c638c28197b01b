//! The wire, byte for byte: every request, reply, error, record, frame, signal and act has a file under `golden/`, and
//! each is what its type reads and writes. A change of the wire shows up here first, and belongs into `PROTOCOL.md`
//! too.
//!
//! Deliberately absent: how signals follow from records and ops (`golden_signals.rs`), how acts
//! follow from requests (`golden_acts.rs`), and the laws (`properties.rs`).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fmt::Debug;

use holdfast_protocol::act::Act;
use holdfast_protocol::error::ErrorReply;
use holdfast_protocol::frame::Frame;
use holdfast_protocol::path::CanonicalPath;
use holdfast_protocol::reply::{
    Closed, Document, Drained, Edited, Grant, Opened, Preview, Reclaimed, Released, Renewed, Saved, SecretRotated,
    Session, SessionPage, TakenOver, Touched, Unlocked, Validated, WorkerList,
};
use holdfast_protocol::request::{
    Acquire, Close, DocGet, Drain, Edit, Empty, List, Load, Move, Open, Reclaim, Request, RotateSecret, Save,
    ShowToken, Takeover, Undo, Unlock, parse,
};
use holdfast_protocol::signal::Signal;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::token::{Secret, hash_token};
use holdfast_protocol::{Error, Limits, Namespace, Reason, SessionId, SessionKey, SessionRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[path = "fixture/golden.rs"]
mod golden;

/// What is checked of one file, whose name without its folder is given.
type Check = fn(&str, Value);

/// Every file, and the type that it belongs to.
const FILES: &[(&str, &[&str], Check)] = &[
    ("request", &["session.open", "session.open.path", "session.open.kind"], request::<Open>),
    ("request", &["session.get", "session.touch", "admin.preview", "worker.list"], request::<Empty>),
    ("request", &["session.list"], request::<List>),
    ("request", &["session.close"], request::<Close>),
    ("request", &["lock.acquire"], request::<Acquire>),
    ("request", &["lock.validate", "lock.renew", "lock.release"], request::<ShowToken>),
    ("request", &["doc.get"], request::<DocGet>),
    ("request", &["doc.edit", "doc.edit.body"], request::<Edit>),
    ("request", &["doc.load"], request::<Load>),
    ("request", &["doc.save"], request::<Save>),
    ("request", &["doc.undo", "doc.redo"], request::<Undo>),
    ("request", &["admin.takeover"], request::<Takeover>),
    ("request", &["admin.unlock"], request::<Unlock>),
    ("request", &["admin.move"], request::<Move>),
    ("request", &["admin.reclaim"], request::<Reclaim>),
    ("request", &["admin.rotate_secret"], request::<RotateSecret>),
    ("request", &["worker.drain", "worker.undrain"], request::<Drain>),
    ("reply", &["session.open"], reply::<Opened>),
    ("reply", &["session.get", "session.get.passive", "admin.move"], reply::<Session>),
    ("reply", &["session.list", "session.list.last", "session.list.idle"], reply::<SessionPage>),
    ("reply", &["session.touch"], reply::<Touched>),
    ("reply", &["session.close"], reply::<Closed>),
    ("reply", &["lock.acquire", "lock.acquire.no_ttl"], reply::<Grant>),
    ("reply", &["lock.validate"], reply::<Validated>),
    ("reply", &["lock.renew", "lock.renew.no_ttl"], reply::<Renewed>),
    ("reply", &["lock.release"], reply::<Released>),
    ("reply", &["doc.get", "doc.get.diverged", "doc.load"], reply::<Document>),
    ("reply", &["doc.edit", "doc.undo", "doc.redo"], reply::<Edited>),
    ("reply", &["doc.save", "doc.save.links_cut"], reply::<Saved>),
    ("reply", &["admin.takeover", "admin.takeover.free"], reply::<TakenOver>),
    ("reply", &["admin.unlock"], reply::<Unlocked>),
    ("reply", &["admin.preview", "admin.preview.passive"], reply::<Preview>),
    ("reply", &["admin.reclaim"], reply::<Reclaimed>),
    ("reply", &["admin.rotate_secret"], reply::<SecretRotated>),
    ("reply", &["worker.list", "worker.list.kinds"], reply::<WorkerList>),
    ("reply", &["worker.drain", "worker.undrain"], reply::<Drained>),
    (
        "record",
        &[
            "opened",
            "opened_again",
            "locked",
            "locked.fenced",
            "file_passive",
            "closed",
            "taken_over.proven",
            "rotated",
        ],
        record,
    ),
    ("record", &["by_hand"], record_by_hand),
    ("error", &["stale_token.held", "stale_token.free", "io.protected", "no_file.no_path"], error_of_a_situation),
    ("frame", &["barrier", "diverged", "ops", "ops.proven", "snapshot", "snapshot.carried"], frame),
];

/// The contract's table of requests: members that must be there, and members that may.
const MEMBERS: &[(&str, &[&str], &[&str])] = &[
    ("session.open", &[], &["id", "path", "workspace", "kind", "mode", "config", "content"]),
    ("session.get", &[], &[]),
    ("session.list", &[], &["limit", "after", "state", "worker", "locked", "lock_owner", "idle_ms"]),
    ("session.touch", &[], &[]),
    ("session.close", &[], &["token", "discard"]),
    ("lock.acquire", &["owner"], &["expected_token", "rotate", "ttl_ms", "wait_ms"]),
    ("lock.validate", &["token"], &[]),
    ("lock.renew", &["token"], &[]),
    ("lock.release", &["token"], &[]),
    ("doc.get", &[], &["consistency"]),
    ("doc.edit", &[], &["token", "expected_revision", "body", "splices", "fields"]),
    ("doc.load", &[], &["token", "discard"]),
    ("doc.save", &[], &["token", "overwrite"]),
    ("doc.undo", &[], &["token", "expected_revision"]),
    ("doc.redo", &[], &["token", "expected_revision"]),
    ("admin.takeover", &["owner", "reason"], &["ttl_ms", "expected_lock_revision"]),
    ("admin.unlock", &["reason"], &["expected_lock_revision"]),
    ("admin.preview", &[], &[]),
    ("admin.move", &["reason"], &["worker"]),
    ("admin.reclaim", &["max_idle_ms"], &[]),
    ("admin.rotate_secret", &["reason"], &["revoke"]),
    ("worker.list", &[], &[]),
    ("worker.drain", &["reason"], &[]),
    ("worker.undrain", &["reason"], &[]),
];

/// The contract's table of errors, row by row, with what we promise for each reason.
const REASONS: &[(&str, u16, bool, &str, &[&str])] = &[
    ("invalid_params", 400, false, "bad_json", &[]),
    ("invalid_params", 400, false, "unknown_field", &[]),
    ("invalid_params", 400, false, "missing_field", &[]),
    ("invalid_params", 400, false, "bad_value", &[]),
    ("invalid_params", 400, false, "invalid_session_id", &[]),
    ("invalid_params", 400, false, "invalid_path", &[]),
    ("invalid_params", 400, false, "path_escape", &[]),
    ("forbidden", 403, false, "workspace_denied", &[]),
    ("forbidden", 403, false, "permission_denied", &[]),
    ("not_found", 404, false, "no_session", &["open"]),
    ("not_found", 404, false, "no_file", &["save"]),
    ("not_found", 404, false, "no_workspace", &["start_worker"]),
    ("not_found", 404, false, "no_worker", &[]),
    ("conflict", 409, true, "lock_held", &["wait", "takeover"]),
    ("conflict", 409, false, "stale_token", &["acquire", "takeover"]),
    ("conflict", 409, false, "not_locked", &["acquire"]),
    ("conflict", 409, false, "lock_required", &["acquire"]),
    ("conflict", 409, false, "lock_moved", &["read", "retry"]),
    ("conflict", 409, false, "revision_mismatch", &["read", "retry"]),
    ("conflict", 409, false, "already_exists", &["attach"]),
    ("conflict", 409, false, "disk_diverged", &["load_discard", "save_overwrite", "read"]),
    ("conflict", 409, false, "unsaved_changes", &["save", "discard"]),
    ("conflict", 409, false, "nothing_to_undo", &[]),
    ("conflict", 409, false, "record_invalid", &["repair_record"]),
    ("too_large", 413, false, "body_too_large", &[]),
    ("too_large", 413, false, "fields_too_large", &[]),
    ("too_large", 413, false, "request_too_large", &[]),
    ("busy", 429, true, "mailbox_full", &["retry"]),
    ("busy", 429, true, "snapshot_pending", &["retry"]),
    ("busy", 429, true, "draining", &["retry"]),
    ("unavailable", 503, true, "no_live_worker", &["start_worker"]),
    ("unavailable", 503, true, "storage_unavailable", &["retry"]),
    ("unavailable", 503, true, "lease_lost", &["retry"]),
    ("unknown_outcome", 504, true, "ack_timeout", &["retry_same_request_id"]),
    ("filesystem", 422, false, "io", &[]),
    ("filesystem", 422, false, "not_utf8", &[]),
    ("filesystem", 422, false, "bad_frontmatter", &[]),
    ("internal", 500, false, "bug", &[]),
];

fn from<T: DeserializeOwned>(name: &str, value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Places in a document where an object of the contract stands (and not free JSON of a user).
fn objects(value: &Value) -> Vec<String> {
    let known = ["", "/config", "/content", "/splices/0", "/owner", "/lock", "/event", "/mark", "/error"];
    let items = [
        "/sessions/0",
        "/sessions/0/owner",
        "/sessions/0/lock",
        "/sessions/0/config",
        "/workers/0",
        "/session",
        "/agent",
        "/waiters/0",
    ];
    let places = known.iter().chain(&items).map(|place| (*place).to_owned());
    places.filter(|place| value.pointer(place).is_some_and(Value::is_object)).collect()
}

fn with_unknown_member(value: &Value, place: &str) -> Value {
    let mut value = value.clone();
    value.pointer_mut(place).unwrap()["surprise"] = json!(1);
    value
}

fn parsed<R: Request>(value: &Value) -> Result<R, Error> {
    parse::<R>(&serde_json::to_vec(value).unwrap(), &Limits::default())
}

/// Whatever of its members is set, a request is written as the parser reads it, and what is not set is left out.
fn is_written_as_read<R: Request + Debug + PartialEq>(name: &str, value: &Value) {
    let members: Vec<&String> = value.as_object().unwrap().keys().collect();
    for left_out in 0u32..1 << members.len() {
        let mut less = value.clone();
        for (_, member) in members.iter().enumerate().filter(|(at, _)| left_out & (1 << at) != 0) {
            less.as_object_mut().unwrap().remove(*member);
        }
        if let Ok(request) = parsed::<R>(&less) {
            assert_eq!(serde_json::to_value(&request).unwrap(), less, "{name}");
        }
    }
}

fn request<R: Request + Debug + PartialEq>(name: &str, value: Value) {
    is_written_as_read::<R>(name, &value);
    let request: R = parsed(&value).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!((request.request_id(), request.actor()), (Some("r-1"), Some("client-a")), "{name}");
    assert!(!format!("{request:?}").contains("hft_"), "a token in a log line");
    for place in objects(&value) {
        let error = parsed::<R>(&with_unknown_member(&value, &place)).unwrap_err();
        assert_eq!(error.reason, Reason::UnknownField, "{name}{place}");
        assert_eq!((&error.details["field"], &*error.request_id), (&json!("surprise"), "r-1"), "{name}{place}");
    }
    let (_, required, optional) = MEMBERS.iter().find(|(verb, ..)| name.starts_with(verb)).unwrap();
    for member in value.as_object().unwrap().keys() {
        let mut less = value.clone();
        less.as_object_mut().unwrap().remove(member);
        if required.contains(&member.as_str()) {
            let error = parsed::<R>(&less).unwrap_err();
            assert_eq!((error.reason, &error.details["field"]), (Reason::MissingField, &json!(member)), "{name}");
        } else {
            assert!(["request_id", "actor"].iter().chain(*optional).any(|known| known == member), "{name}.{member}");
        }
    }
}

fn reply<T: Serialize + DeserializeOwned>(name: &str, value: Value) {
    assert_eq!(serde_json::to_value(from::<T>(name, &value)).unwrap(), value, "{name}");
    for place in objects(&value) {
        let newer: T = from(&format!("{name}{place}"), &with_unknown_member(&value, &place));
        assert_eq!(serde_json::to_value(newer).unwrap(), value, "{name}{place}");
    }
}

fn key_of(value: &Value) -> SessionKey {
    let text = |name: &str| value[name].as_str().unwrap();
    SessionKey::new(Namespace::parse(text("namespace")).unwrap(), SessionId::parse(text("id")).unwrap())
}

fn record(name: &str, value: Value) {
    let record = SessionRecord::from_json(&serde_json::to_vec(&value).unwrap(), &key_of(&value)).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&record.to_json()).unwrap(), value, "{name}");
    for place in objects(&value) {
        let newer = serde_json::to_vec(&with_unknown_member(&value, &place)).unwrap();
        assert_eq!(SessionRecord::from_json(&newer, &key_of(&value)).unwrap_err().reason, Reason::RecordInvalid);
    }
}

fn record_by_hand(name: &str, value: Value) {
    let json = serde_json::to_vec(&value).unwrap();
    let record = SessionRecord::from_json(&json, &key_of(&value)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(SessionRecord::from_json(&record.to_json(), &key_of(&value)), Ok(record.clone()));
    let lock = record.lock.unwrap();
    assert_eq!((lock.owner.as_str(), lock.ttl_ms), ("ops", None));
    assert!(["", "ops", "hft_"].iter().all(|token| !lock.is_proven_by(token)));
}

/// An error whose actions fit the situation that it is about.
fn error_of_a_situation(name: &str, value: Value) {
    let error = from::<ErrorReply>(name, &value).error;
    assert_eq!(serde_json::from_slice::<Value>(&error.to_json()).unwrap(), value, "{name}");
    assert_ne!(error.actions, error.reason.actions().to_strings(), "{name}: what is said without a situation");
    for action in &error.actions {
        assert!(error.reason.possible_actions().contains(&action.as_str()), "{name}: {action}");
    }
}

fn frame(name: &str, value: Value) {
    let key = SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse("s1").unwrap());
    let frame = Frame::from_json(&serde_json::to_vec(&value).unwrap(), &key).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&frame.to_json()).unwrap(), value, "{name}");
}

#[test]
fn every_file_is_what_its_type_reads_and_writes() {
    for (folder, names, check) in FILES {
        for name in *names {
            check(name, golden::value(&format!("{folder}/{name}")));
        }
    }
    for name in golden::names().iter().filter(|name| name.starts_with("signal/")) {
        reply::<Signal>(name, golden::value(name));
    }
    for name in golden::names().iter().filter(|name| name.starts_with("act/")) {
        reply::<Act>(name, golden::value(name));
    }
}

#[test]
fn every_file_is_covered_and_every_type_has_one() {
    let mut covered: BTreeSet<String> =
        FILES.iter().flat_map(|(folder, names, _)| names.iter().map(move |name| format!("{folder}/{name}"))).collect();
    covered.extend(REASONS.iter().map(|(.., reason, _)| format!("error/{reason}")));
    let is_elsewhere = |name: &String| name.starts_with("signal/") || name.starts_with("act/");
    let (elsewhere, others): (BTreeSet<_>, _) = golden::names().into_iter().partition(is_elsewhere);
    assert_eq!(covered, others, "left: what the tests name, right: what is in the folder");
    assert!(!elsewhere.is_empty(), "golden_signals.rs and golden_acts.rs look at them");
    for verb in Verb::ALL {
        assert!(covered.contains(&format!("request/{verb}")) && covered.contains(&format!("reply/{verb}")), "{verb}");
    }
}

#[test]
fn the_files_of_a_request_show_every_member_of_the_contract() {
    let verbs: BTreeSet<&str> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
    assert_eq!(verbs, MEMBERS.iter().map(|(verb, ..)| *verb).collect());
    for (verb, required, optional) in MEMBERS {
        let files = golden::names().into_iter().filter(|name| name.starts_with(&format!("request/{verb}")));
        let shown: BTreeSet<String> = files
            .flat_map(|name| golden::value(&name).as_object().unwrap().keys().cloned().collect::<Vec<_>>())
            .collect();
        let contract = ["request_id", "actor"].iter().chain(*required).chain(*optional);
        assert_eq!(shown, contract.map(|member| (*member).to_owned()).collect(), "{verb}");
    }
}

#[test]
fn every_reason_has_its_code_number_retryability_and_actions() {
    let listed: Vec<&str> = REASONS.iter().map(|(.., reason, _)| *reason).collect();
    assert_eq!(listed, Reason::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>());
    for (reason, (code, number, retryable, word, actions)) in Reason::ALL.iter().zip(REASONS) {
        let file = golden::value(&format!("error/{word}"));
        reply::<ErrorReply>(word, file.clone());
        let error = from::<ErrorReply>(word, &file).error;
        assert_eq!((error.reason, error.code.as_str(), error.code.number()), (*reason, *code, *number), "{word}");
        assert_eq!((error.retryable, &error.actions[..]), (*retryable, &actions.to_strings()[..]), "{word}");
        assert_eq!(serde_json::from_slice::<Value>(&error.to_json()).unwrap(), file, "{word}");
        let made = Error { request_id: error.request_id.clone(), ..Error::new(*reason, error.message.clone()) };
        let made = Error { details: error.details.clone(), ..made }.retry_after_ms(error.retry_after_ms);
        assert_eq!(made, error, "{word}");
        assert_eq!(error.retry_after_ms.is_some(), file["error"].get("retry_after_ms").is_some(), "{word}");
    }
}

/// Words as the error has them.
trait Words {
    fn to_strings(&self) -> Vec<String>;
}

impl Words for &[&str] {
    fn to_strings(&self) -> Vec<String> {
        self.iter().map(|word| (*word).to_owned()).collect()
    }
}

/// A token of an older release must still prove a lock of a newer one, and a file must keep its session.
#[test]
fn tokens_hashes_and_ids_are_derived_as_before() {
    let file = golden::value("record/locked");
    let record: SessionRecord = from("record/locked", &file);
    let lock = record.lock.clone().unwrap();
    let token = Secret::new([7; 32]).token(&record.key(), lock.revision, lock.nonce);
    assert_eq!(
        (json!(token), hash_token(&token)),
        (golden::value("reply/lock.acquire")["lock_token"].clone(), lock.token_hash)
    );
    let file: SessionRecord = from("record/file_passive", &golden::value("record/file_passive"));
    let path = CanonicalPath::parse("./notes//x/../plan.md", 1024).unwrap();
    assert_eq!((file.path.as_ref(), file.id), (Some(&path), path.session_id(&file.workspace.unwrap())));
}
