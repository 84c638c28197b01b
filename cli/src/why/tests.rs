//! Stories of records, logs and signals that are given.

use holdfast_client::protocol::{Namespace, Revision, SessionId, SessionKey};
use holdfast_store::{KeptMessage, Stored};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::present::{Liveness, present};
use super::story::{Found, Line, place, tell};

const STREAM: &str = "KV_sessions";

fn key() -> SessionKey {
    SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse("s1").unwrap())
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn owner(worker: &str) -> Value {
    let id = "01935b3c-0000-7000-8000-000000000000";
    json!({"worker": worker, "boot": id, "activation": id, "since": "2026-11-22T12:00:00Z"})
}

fn lock(owner: &str, revision: u64) -> Value {
    json!({"owner": owner, "revision": revision, "token_hash": "h", "acquired_at": "2026-11-22T12:00:00Z"})
}

fn record(worker: Option<&str>, lock: Value, lock_revision: u64, event: Value) -> Value {
    json!({"v": 1, "namespace": "default", "id": "s1", "kind": "document",
        "state": if worker.is_some() { "active" } else { "passive" }, "owner": worker.map(owner), "lock": lock,
        "lock_revision": lock_revision, "config": {"idle_timeout_ms": 1000}, "event": event})
}

fn event(kind: &str) -> Value {
    json!({"type": kind, "actor": "app", "request_id": "r"})
}

fn stored(revision: u64, record: &Value, by: Option<&str>) -> Stored {
    Stored {
        key: key(),
        revision: Revision(revision),
        value: Some(record.to_string().into()),
        write_id: by.map(str::to_owned),
        time: at(revision as i64),
    }
}

fn frame(sequence: u64, kinds: &[(&str, u64, &str)]) -> KeptMessage {
    let op = |(kind, revision, actor): &(&str, u64, &str)| {
        json!({"request_id": "r", "change": {}, "reply": {}, "event": {"type": kind, "revision": revision,
            "previous_revision": revision - 1, "actor": actor, "path": "a.md"}})
    };
    let ops: Vec<Value> = kinds.iter().map(op).collect();
    let frame = json!({"v": 1, "activation": "01935b3c-0000-7000-8000-000000000000", "first_op": 1, "first_revision": 0,
        "ops": ops});
    KeptMessage { sequence, time: at(sequence as i64), payload: frame.to_string().into() }
}

fn signal(id: &str, sequence: u64, second: i64, name: &str, data: Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/holdfast/default/s1", "type": format!("holdfast.{name}.v1"),
        "subject": "s1", "time": at(second).to_string(), "datacontenttype": "application/json",
        "sequence": format!("{sequence:020}"), "correlationid": "r", "data": data})
}

fn found(revisions: Vec<Stored>, log: Vec<KeptMessage>, signals: Vec<Value>) -> Found {
    let signals = signals.into_iter().map(|signal| serde_json::from_value(signal).unwrap()).collect();
    Found { key: key(), stream: STREAM.to_owned(), revisions, log, signals }
}

fn texts(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| format!("{} {}", line.sequence, line.text)).collect()
}

/// A life with everything: the record, the log, and the signals that the relay made of the record.
fn life() -> Found {
    let taken = json!({"type": "lock.taken_over", "actor": "oncall", "actor_proven": "OPS/ops", "reason": "ann hangs",
        "previous_owner": "ann", "request_id": "r"});
    let mut taken_record = record(Some("w1"), lock("ops", 2), 2, taken.clone());
    // A version that does not know proven actors yet has no such member.
    taken_record["event"].as_object_mut().unwrap().remove("actor_proven");
    let unlocked = json!({"type": "lock.released", "actor": "oncall", "reason": "done", "previous_owner": "ops",
        "request_id": "r"});
    let moved =
        json!({"type": "session.moved", "reason": "worker w1 is gone", "previous_worker": "w1", "request_id": "r"});
    let revisions = vec![
        stored(10, &record(Some("w1"), json!(null), 0, event("session.opened")), Some("id")),
        stored(11, &record(Some("w1"), lock("ann", 1), 1, event("lock.acquired")), Some("id")),
        stored(16, &taken_record, Some("id")),
        stored(20, &record(Some("w1"), json!(null), 3, unlocked), Some("id")),
        stored(22, &record(Some("w2"), json!(null), 3, moved), Some("id")),
        stored(
            23,
            &record(Some("w2"), lock("bob", 4), 4, json!({"type": "lock.changed", "actor": "root", "reason": "test"})),
            None,
        ),
    ];
    let log = vec![
        frame(12, &[("edited", 1, "ann"), ("edited", 2, "ann")]),
        frame(13, &[("undone", 3, "ann")]),
        frame(15, &[("saved", 3, "ann")]),
        frame(21, &[("edited", 4, "carl")]),
    ];
    let refused = json!({"owner": "ann", "requested_owner": "bob", "reason": "lock_held", "revision": 11});
    let signals = vec![
        signal("KV_sessions:10", 10, 10, "session.opened", json!({"state": "active", "worker": "w1"})),
        signal("KV_sessions:11", 11, 11, "lock.acquired", json!({"owner": "ann", "lock_revision": 1})),
        signal("KV_sessions:11", 11, 11, "lock.acquired", json!({"owner": "ann", "lock_revision": 1})),
        signal("conflict:1", 11, 14, "lock.conflict", refused.clone()),
        signal("conflict:2", 11, 14, "lock.conflict", refused),
        signal("KV_sessions:16", 16, 16, "lock.taken_over", json!({"owner": "ops", "lock_revision": 2})),
    ];
    found(revisions, log, signals)
}

#[test]
fn each_event_is_told_once_and_in_order_whatever_source_has_it() {
    let told = texts(&tell(&life()));
    let expected = [
        "10 opened on worker w1 (asked by app)",
        "11 ann got the lock (asked by app) [lock revision 1, until it is released]",
        "12 3 changes of the document with the lock of ann, asked by ann: edited 2, undone 1 [document revisions 1 to 3]",
        "11 bob was refused 2 times: lock_held, held by ann",
        "15 saved to a.md (asked by ann) [document revision 3]",
        "16 ops took the lock over from ann (asked by oncall): ann hangs [lock revision 2, until it is released]",
        "20 the lock of ops was freed by an operator (asked by oncall): done",
        "21 1 change of the document without a lock, asked by carl: edited 1 [document revision 4]",
        "22 moved from worker w1 to worker w2: worker w1 is gone",
        "23 the record was edited by hand (asked by root): test [lock: nothing -> held by bob, lock_revision: 3 -> 4]",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_source_that_is_missing_is_filled_by_another_and_only_what_it_alone_has_is_missing() {
    let whole = tell(&life());
    // The oldest revisions of a record are dropped: the signals have them.
    let mut found = life();
    found.revisions.drain(..3);
    let told = texts(&tell(&found));
    assert!(told[0].starts_with("10 opened on worker w1") && told[1].starts_with("11 ann got the lock"), "{told:#?}");
    assert!(told.iter().any(|line| line.starts_with("16 ops took the lock")), "{told:#?}");
    assert_eq!(told.len(), whole.len());
    let changes = told.iter().find(|line| line.starts_with("12 ")).unwrap();
    assert!(changes.contains("with the lock of ann"), "{changes}");
    // No relay ran: the record has it all, but the refusals.
    let mut found = life();
    found.signals.clear();
    let told = tell(&found);
    assert_eq!(told.len(), whole.len() - 1);
    assert!(!told.iter().any(|line| line.event == "lock.conflict"));
}

#[test]
fn a_proven_actor_is_named_where_a_signal_has_it() {
    let data =
        json!({"owner": "ops", "previous_owner": "ann", "actor": "oncall", "actor_proven": "OPS/ops", "reason": "r"});
    let told = tell(&found(Vec::new(), Vec::new(), vec![signal("KV_sessions:5", 5, 5, "lock.taken_over", data)]));
    assert!(told[0].text.contains("(asked by oncall, proven OPS/ops): r"), "{}", told[0].text);
}

#[test]
fn a_deleted_record_and_one_that_does_not_parse_are_told() {
    let deleted = Stored { value: None, ..stored(12, &json!(null), None) };
    let removed = Stored { value: None, ..stored(13, &json!(null), Some("sweep")) };
    let broken = stored(11, &json!({"v": 1}), None);
    let told = texts(&tell(&found(vec![broken, deleted, removed], Vec::new(), Vec::new())));
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].starts_with("11 the record was edited by hand: record does not parse"), "{told:#?}");
    assert_eq!(told[1], "12 closed: record deleted");
}

#[test]
fn the_first_kept_revision_is_no_new_session_when_it_was_written_by_hand() {
    let edit = record(Some("w1"), json!(null), 3, json!(null));
    let told = texts(&tell(&found(vec![stored(30, &edit, None)], Vec::new(), Vec::new())));
    assert_eq!(told, ["30 the record was edited by hand"]);
}

#[test]
fn ids_of_commits_have_places_and_those_of_refusals_have_none() {
    assert_eq!(place("KV_sessions:7", STREAM), Some((7, 0)));
    assert_eq!(place("KV_sessions:7:2", STREAM), Some((7, 2)));
    assert_eq!(place("conflict:7", STREAM), None);
    assert_eq!(place("KV_sessions_x:7", STREAM), None);
}

#[test]
fn the_present_says_who_may_write() {
    let now = at(0);
    let may = |record: &Value, liveness| {
        let told = present(Some(&stored(9, record, Some("id"))), liveness, now);
        (told.json["may_write"].as_str().unwrap().to_owned(), told.lines.join("\n"))
    };
    let (who, told) = may(&record(Some("w1"), lock("ann", 3), 3, json!(null)), Liveness::Lease);
    assert!(who == "holder" && told.contains("only whoever has the token of ann, lock revision 3"), "{told}");
    assert!(told.contains("which has a lease"), "{told}");
    let (who, told) = may(&record(Some("w1"), json!(null), 3, json!(null)), Liveness::None);
    assert!(who == "anybody" && told.contains("has no lease"), "{told}");
    let mut required = record(None, json!(null), 3, json!(null));
    required["config"]["lock"] = json!("required");
    assert_eq!(may(&required, Liveness::Unknown).0, "next_holder");
    let by_hand = record(None, json!({"owner": "ann", "revision": 3}), 3, json!(null));
    assert_eq!(may(&by_hand, Liveness::Unknown).0, "nobody");
    let mut closed = record(None, json!(null), 3, json!(null));
    closed["state"] = json!("closed");
    assert_eq!(may(&closed, Liveness::Unknown).0, "nobody");
    assert_eq!(may(&json!({"v": 1}), Liveness::Unknown).0, "nobody");
    assert!(present(None, Liveness::Unknown, now).lines[0].contains("removed"));
}
