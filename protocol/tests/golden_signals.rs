//! Signals follow from what is stored: each golden signal is built here from a golden record or op, as the relay does
//! it.
//!
//! Deliberately absent: that signals read and write as their files say (`golden.rs`), and the bound on `data`
//! (`properties.rs`).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use holdfast_protocol::document::merge_patch;
use holdfast_protocol::error::ErrorReply;
use holdfast_protocol::frame::{Frame, OpEvent};
use holdfast_protocol::record::EventType;
use holdfast_protocol::signal::{
    DOC_FAILED, Happening, LOCK_CONFLICT, Signal, StreamPosition, of_broken_record, of_conflict, of_deletion, of_event,
    of_failure, of_hand_edit, of_op,
};
use holdfast_protocol::subject::Root;
use holdfast_protocol::{Error, Namespace, Reason, RequestId, Revision, SessionId, SessionKey, SessionRecord};
use serde_json::{Value, json};

#[path = "fixture/golden.rs"]
mod golden;

/// The contract's table of signals.
const SIGNALS: &[(&str, &[&str], &[&str])] = &[
    (
        "session",
        &["opened", "activated", "moved", "passivated", "reclaimed", "closed"],
        &["state", "worker", "previous_worker", "reason", "revision"],
    ),
    (
        "lock",
        &["acquired", "rotated", "released", "expired", "taken_over", "changed", "conflict"],
        &["owner", "previous_owner", "requested_owner", "reason", "actor", "lock_revision", "revision"],
    ),
    (
        "doc",
        &["loaded", "edited", "saved", "undone", "redone", "failed", "diverged", "converged"],
        &["revision", "previous_revision", "changed", "actor", "path", "error"],
    ),
];

const PLACE: StreamPosition<'_> =
    StreamPosition { stream: "KV_sessions", sequence: 42, index: 0, time: "2026-11-22T12:00:12Z" };
const SEEN: Revision = Revision(42);

fn key() -> SessionKey {
    SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse("s1").unwrap())
}

fn names() -> BTreeSet<String> {
    golden::names().iter().filter_map(|name| name.strip_prefix("signal/")).map(str::to_owned).collect()
}

/// `golden/record/locked.json` after a merge patch, which keeps the rows below short.
fn record(patch: Value) -> SessionRecord {
    let (Value::Object(mut record), Value::Object(patch)) = (golden::value("record/locked"), patch) else {
        panic!("a record and its patch are objects")
    };
    merge_patch(&mut record, &patch);
    SessionRecord::from_json(&serde_json::to_vec(&record).unwrap(), &key()).unwrap()
}

fn committed(happenings: Vec<Happening>, index: u32) -> Value {
    let happening = happenings.into_iter().nth(index as usize).expect("so many events");
    let signal = Signal::committed(&key(), StreamPosition { index, ..PLACE }, happening);
    serde_json::from_slice(&signal.to_json()).unwrap()
}

/// One revision of the record for each kind of event. Adding a kind breaks this `match`, and so asks for its signal.
fn revision_of(kind: EventType) -> SessionRecord {
    let gone = json!(null);
    let passive = |event: Value| record(json!({"state": "passive", "owner": gone, "event": event}));
    match kind {
        EventType::SessionOpened | EventType::SessionActivated => {
            record(json!({"event": {"type": kind, "actor": gone}}))
        }
        EventType::SessionMoved => record(json!({"owner": {"worker": "w2"}, "event": {
            "type": kind, "previous_worker": "w1", "reason": "w1 is hot", "actor": "oncall"}})),
        EventType::SessionPassivated => {
            passive(json!({"type": kind, "previous_worker": "w1", "reason": "idle", "request_id": gone, "actor": gone}))
        }
        EventType::SessionReclaimed => {
            passive(json!({"type": kind, "previous_worker": "w1", "reason": "idle for 600000 ms", "actor": "oncall"}))
        }
        EventType::SessionClosed => record(json!({"state": "closed", "owner": gone, "lock": gone, "event": {
            "type": kind, "previous_worker": "w1", "actor": gone}})),
        EventType::LockAcquired => record(json!({})),
        EventType::LockRotated => record(json!({"lock_revision": 2, "event": {
            "type": kind, "previous_owner": "client-a"}})),
        EventType::LockReleased => record(json!({"lock": gone, "lock_revision": 2, "event": {
            "type": kind, "previous_owner": "client-a"}})),
        EventType::LockExpired => record(json!({"lock": gone, "lock_revision": 2, "event": {
            "type": kind, "previous_owner": "client-a", "actor": gone, "request_id": gone,
            "reason": "not renewed for 30000 ms"}})),
        EventType::LockTakenOver => record(json!({"lock": {"owner": "ops"}, "lock_revision": 2, "event": {
            "type": kind, "previous_owner": "client-a", "actor": "oncall", "reason": "client-a is stuck"}})),
        EventType::LockChanged => record(json!({"lock": {"owner": "ops"}, "lock_revision": 2, "event": {
            "type": kind, "previous_owner": "client-a", "actor": gone, "request_id": gone,
            "reason": "edited by hand"}})),
    }
}

#[test]
fn every_event_of_the_contract_has_its_signal_and_its_data() {
    let mut seen = BTreeSet::new();
    for (group, events, data) in SIGNALS {
        for event in *events {
            for file in names().iter().filter(|name| name.starts_with(&format!("{group}.{event}"))) {
                let signal = golden::value(&format!("signal/{file}"));
                assert_eq!(signal["type"], format!("holdfast.{group}.{event}.v1"), "{file}");
                let mut members: BTreeSet<&str> =
                    signal["data"].as_object().unwrap().keys().map(String::as_str).collect();
                // Only there where nats-server told who asked.
                assert_eq!(members.remove("actor_proven"), file.ends_with(".proven"), "{file}");
                if *group == "session" {
                    // Only there where somebody asked and said who.
                    members.remove("actor");
                }
                assert_eq!(members, data.iter().copied().collect(), "{file}");
                seen.insert(file.clone());
            }
            assert!(seen.contains(&format!("{group}.{event}")), "{group}.{event} has a file");
        }
    }
    seen.insert("truncated".to_owned());
    assert_eq!(seen, names());
}

#[test]
fn every_event_of_a_record_becomes_its_signal() {
    use EventType::*;
    let kinds = [
        SessionOpened,
        SessionActivated,
        SessionMoved,
        SessionPassivated,
        SessionReclaimed,
        SessionClosed,
        LockAcquired,
        LockRotated,
        LockReleased,
        LockExpired,
        LockTakenOver,
        LockChanged,
    ];
    for kind in kinds.into_iter().filter(|kind| *kind != SessionActivated) {
        let signal = committed(of_event(&revision_of(kind), SEEN), 0);
        assert_eq!(signal, golden::value(&format!("signal/{}", kind.as_str())));
    }
    for kind in kinds {
        assert_eq!(json!(kind), kind.as_str(), "the record has the word of the signal");
    }
    let alone = of_event(&revision_of(SessionActivated), SEEN);
    assert_eq!(alone.iter().map(|happening| happening.name.as_str()).collect::<Vec<_>>(), ["session.activated"]);
}

#[test]
fn opening_with_an_owner_is_announced_as_activation_too() {
    let opened = of_event(&revision_of(EventType::SessionOpened), SEEN);
    assert_eq!(opened.len(), 2);
    assert_eq!(committed(opened, 1), golden::value("signal/session.activated"));
    let passive = record(json!({"state": "passive", "owner": null, "event": {"type": "session.opened"}}));
    assert_eq!(of_event(&passive, SEEN).len(), 1);
}

#[test]
fn a_hand_over_is_announced_as_a_release_and_a_grant() {
    let alone = revision_of(EventType::LockReleased).event.unwrap();
    let handed_over = record(json!({"lock": {"owner": "client-b", "revision": 3}, "lock_revision": 3, "event": {
        "request_id": "req-b", "actor": "b", "hand_over": {
            "actor": alone.actor, "previous_owner": alone.previous_owner, "request_id": alone.request_id}}}));
    let both = of_event(&handed_over, SEEN);
    assert_eq!(both.len(), 2);
    assert_eq!(committed(both.clone(), 0), golden::value("signal/lock.released"), "what a release alone says");
    let granted = committed(both, 1);
    assert_eq!(granted["type"], "holdfast.lock.acquired.v1");
    let data = &granted["data"];
    let told = (&data["owner"], &data["previous_owner"], &data["lock_revision"], &data["actor"]);
    assert_eq!(told, (&json!("client-b"), &json!(null), &json!(3), &json!("b")));
    assert_eq!(granted["correlationid"], "req-b");
}

#[test]
fn who_asked_as_the_server_tells_it_is_told() {
    let proven = json!({"event": {"actor_proven": "OPS/ops"}});
    for (kind, name) in [(EventType::LockTakenOver, "lock.taken_over"), (EventType::SessionMoved, "session.moved")] {
        let (Value::Object(mut told), Value::Object(patch)) =
            (serde_json::to_value(revision_of(kind)).unwrap(), proven.clone())
        else {
            panic!("a record and its patch are objects")
        };
        merge_patch(&mut told, &patch);
        let told = SessionRecord::from_json(&serde_json::to_vec(&told).unwrap(), &key()).unwrap();
        let signal = committed(of_event(&told, SEEN), 0);
        assert_eq!(signal, golden::value(&format!("signal/{name}.proven")));
    }
    let taken = SessionRecord::from_json(&golden::bytes("record/taken_over.proven"), &key()).unwrap();
    assert_eq!(committed(of_event(&taken, SEEN), 0), golden::value("signal/lock.taken_over.proven"));
    let frame = Frame::from_json(&golden::bytes("frame/ops.proven"), &key()).unwrap();
    let edited = of_op(frame.ops[0].event.as_ref().unwrap(), &RequestId::parse("r-1").unwrap());
    assert_eq!(committed(vec![edited], 0), golden::value("signal/doc.edited.proven"));
}

#[test]
fn hand_edits_deletions_and_broken_records_are_announced() {
    let before = record(json!({}));
    let edited = record(json!({"lock": {"owner": "ops", "revision": 2}, "lock_revision": 2}));
    let happenings = of_hand_edit(&edited, SEEN, Some(&before));
    assert_eq!(happenings.len(), 1, "the session stayed where it was");
    assert_eq!(committed(happenings, 0), golden::value("signal/lock.changed"));
    assert_eq!(committed(of_deletion(SEEN), 0), golden::value("signal/session.closed.deleted"));
    let broken = of_broken_record("missing field `v`", SEEN);
    assert_eq!(committed(broken, 0), golden::value("signal/lock.changed.broken"));
}

#[test]
fn a_hand_edit_that_says_who_made_it_and_why_is_announced_with_both() {
    let before = record(json!({}));
    let edit = |event: Value| {
        record(json!({"lock": null, "lock_revision": 2, "state": "passive", "owner": null, "event": event}))
    };
    let own = json!({"type": "lock.changed", "actor": "oncall", "reason": "client-a hangs", "request_id": null});
    let happenings = of_hand_edit(&edit(own.clone()), SEEN, Some(&before));
    assert_eq!(happenings[0].data["actor"], "oncall");
    assert_eq!(happenings[0].data["reason"], "edited by hand: client-a hangs");
    assert_eq!(happenings[1].data["reason"], "edited by hand: client-a hangs");
    // What the writer before left there says nothing about this edit.
    let is_anonymous = |happenings: Vec<Happening>| {
        assert_eq!(
            (&happenings[0].data["actor"], &happenings[0].data["reason"]),
            (&json!(null), &json!("edited by hand"))
        );
    };
    is_anonymous(of_hand_edit(&edit(own.clone()), SEEN, Some(&edit(own))));
    is_anonymous(of_hand_edit(
        &edit(json!({"type": "lock.taken_over", "actor": "a", "reason": "r"})),
        SEEN,
        Some(&before),
    ));
}

#[test]
fn a_hand_edit_of_the_session_is_announced_by_what_it_did() {
    let (active, closed) = (record(json!({})), record(json!({"state": "closed", "owner": null})));
    let passive = record(json!({"state": "passive", "owner": null}));
    let moved = record(json!({"owner": {"worker": "w2"}}));
    let rows = [
        (None, &active, Some("session.opened")),
        (Some(&closed), &passive, Some("session.opened")),
        (Some(&active), &closed, Some("session.closed")),
        (Some(&passive), &closed, Some("session.closed")),
        (Some(&active), &passive, Some("session.passivated")),
        (Some(&passive), &active, Some("session.activated")),
        (Some(&active), &moved, Some("session.moved")),
        (Some(&active), &active, None),
        (Some(&passive), &passive, None),
        (Some(&closed), &closed, None),
    ];
    for (before, after, expected) in rows {
        let happenings = of_hand_edit(after, SEEN, before);
        assert_eq!(happenings[0].name, "lock.changed");
        assert_eq!(happenings.get(1).map(|happening| happening.name.as_str()), expected, "{before:?} {after:?}");
    }
}

#[test]
fn every_event_of_a_log_becomes_its_signal() {
    let request_id = RequestId::parse("r-1").unwrap();
    let frame = Frame::from_json(&golden::bytes("frame/ops"), &key()).unwrap();
    let edited = frame.ops[0].event.clone().unwrap();
    let body = OpEvent { changed: vec!["body".to_owned()], ..edited.clone() };
    let path = Some("notes/plan.md".to_owned());
    let saved = OpEvent { actor: Some("client-a".to_owned()), ..frame.ops[1].event.clone().unwrap() };
    let loaded = OpEvent { kind: "loaded".to_owned(), actor: None, path, ..body.clone() };
    let ops = [edited, OpEvent { kind: "undone".to_owned(), ..body.clone() }, saved, loaded];
    for event in ops {
        let name = format!("signal/doc.{}", event.kind);
        assert_eq!(committed(vec![of_op(&event, &request_id)], 0), golden::value(&name));
    }
    let redone = of_op(&OpEvent { kind: "redone".to_owned(), ..body }, &request_id);
    let third = vec![redone.clone(), redone.clone(), redone];
    assert_eq!(committed(third, 2), golden::value("signal/doc.redone"), "the third event of one message");
}

#[test]
fn what_was_noticed_about_a_file_is_told_with_its_why_and_without_a_request() {
    let diverged: OpEvent = serde_json::from_value(golden::value("frame/diverged")["ops"][0]["event"].clone()).unwrap();
    let request_id = RequestId::parse("r-1").unwrap();
    assert_eq!(committed(vec![of_op(&diverged, &request_id)], 0), golden::value("signal/doc.diverged"));
    let converged = OpEvent { kind: "converged".to_owned(), error: None, ..diverged };
    assert_eq!(committed(vec![of_op(&converged, &request_id)], 0), golden::value("signal/doc.converged"));
}

#[test]
fn what_was_not_committed_has_an_id_of_its_own() {
    let error: ErrorReply = serde_json::from_value(golden::value("error/lock_held")).unwrap();
    let conflict = of_conflict(&error.error, Some("client-b"), &RequestId::parse("r-2").unwrap());
    assert_eq!(conflict.name, LOCK_CONFLICT);
    let full = Error::new(Reason::Io, "the disk is full");
    let failed = of_failure(&full, Some("notes/plan.md"), Some("client-b"), &RequestId::parse("r-1").unwrap());
    assert_eq!(failed.name, DOC_FAILED);
    for happening in [conflict, failed] {
        let file: Signal = serde_json::from_value(golden::value(&format!("signal/{}", happening.name))).unwrap();
        assert_eq!(Signal::uncommitted(&key(), file.id.clone(), SEEN, PLACE.time, happening), file);
    }
}

#[test]
fn data_over_the_limit_is_cut_and_says_so() {
    let long = record(json!({"lock_revision": 2, "event": {
        "type": "lock.rotated", "previous_owner": "client-a", "reason": "x".repeat(17_000)}}));
    assert_eq!(committed(of_event(&long, SEEN), 0), golden::value("signal/truncated"));
    // No signal of the contract has so many members; cutting must come to an end all the same.
    let data = (0..2_000).map(|member| (format!("member_{member}"), Value::Null)).collect();
    let wide = Happening { name: "lock.changed".to_owned(), request_id: None, data };
    assert_eq!(committed(vec![wide], 0)["data"].as_object().unwrap().len(), 2_000);
}

#[test]
fn the_examples_of_the_contract_are_subjects_of_signals() {
    let root = Root::default();
    assert_eq!(root.signal(&key(), "lock", "taken_over"), "hf.default.signal.s1.lock.taken_over");
    assert_eq!(root.signals(&key(), None), "hf.default.signal.s1.>");
    assert_eq!(root.signals(&key(), Some("doc")), "hf.default.signal.s1.doc.>");
}
