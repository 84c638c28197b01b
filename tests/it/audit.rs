//! The audit log: one line for each request of an operator, and for each hand edit.

use std::time::Duration;

use holdfast_tests::fleet::{Fleet, SOON};
use holdfast_tests::wait::until;
use holdfast_tests::{logs, server};
use serde_json::{Value, json};

/// The audit lines with `what` in them.
fn lines(what: &str) -> Vec<String> {
    let kept = logs::kept();
    let audited = kept.lines().filter(|line| line.contains("holdfast_audit") && line.contains(what));
    audited.map(str::to_owned).collect()
}

/// Waits for the only audit line of a request.
async fn only_line(request_id: &str) -> String {
    let named = format!("request_id=\"{request_id}\"");
    let line = until(&format!("the audit line of {request_id}"), SOON, async || lines(&named).pop()).await;
    assert_eq!(lines(&named).len(), 1, "{:?}", lines(&named));
    line
}

#[track_caller]
fn has(line: &str, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        assert!(line.contains(&format!(" {name}=\"{value}\"")), "{name}={value} in {line}");
    }
}

/// A fleet with two workers, and a prefix for request ids that no other test has.
async fn start() -> (Fleet, String) {
    logs::keep();
    let mut fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    fleet.add_worker("w2", &[]).await.unwrap();
    let prefix = fleet.root.to_string();
    (fleet, prefix)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_an_operator_has_one_line() {
    let (fleet, prefix) = start().await;
    fleet.open("s1").await;
    let token = fleet.acquire("s1", "client-a").await;
    let id = |name: &str| format!("{prefix}-{name}");
    let body = |name: &str, more: Value| {
        let mut body = json!({"reason": "it is \"stuck\"\nreally", "actor": "oncall", "request_id": id(name)});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let taken = fleet.ask("admin.takeover", "s1", body("take", json!({"owner": "ops"}))).await.ok();
    let line = only_line(&id("take")).await;
    let claimed = [("actor", "oncall"), ("reason", "it is \\\"stuck\\\"\\nreally"), ("outcome", "done")];
    has(&line, &[("verb", "admin.takeover"), ("namespace", "default"), ("session", "s1")]);
    has(&line, &claimed);
    assert!(!line.contains("actor_proven") && !line.contains("worker="), "{line}");
    let of_ops = taken["lock_token"].as_str().unwrap();
    assert!(lines("").iter().all(|line| !line.contains(&token) && !line.contains(of_ops)));

    // A late copy is a request, too.
    fleet.ask("admin.takeover", "s1", body("take", json!({"owner": "ops"}))).await.ok();
    let named = format!("request_id=\"{}\"", id("take"));
    until("the line of the late copy", SOON, async || (lines(&named).len() == 2).then_some(())).await;

    fleet.ask("admin.unlock", "s1", body("unlock", json!({}))).await.ok();
    has(&only_line(&id("unlock")).await, &[("verb", "admin.unlock"), ("outcome", "done")]);
    fleet.ask("admin.unlock", "s1", body("again", json!({}))).await.refused("conflict", "not_locked");
    has(&only_line(&id("again")).await, &[("verb", "admin.unlock"), ("outcome", "not_locked")]);
    fleet.ask("admin.move", "s1", body("move", json!({}))).await.ok();
    has(&only_line(&id("move")).await, &[("verb", "admin.move"), ("session", "s1"), ("outcome", "done")]);
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 1, "request_id": id("reclaim")})).await.ok();
    let line = only_line(&id("reclaim")).await;
    has(&line, &[("verb", "admin.reclaim"), ("namespace", "default"), ("outcome", "done")]);
    assert!(!line.contains("session="), "{line}");
    for verb in ["drain", "undrain"] {
        let subject = format!("{}.sys.worker.{verb}.w2", fleet.root);
        fleet.ask_raw(&subject, body(verb, json!({})).to_string().into_bytes()).await.ok();
        let line = only_line(&id(verb)).await;
        has(&line, &[("verb", &format!("worker.{verb}")), ("worker", "w2"), ("namespace", "sys"), ("outcome", "done")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_or_dropped_has_one_line() {
    let (fleet, prefix) = start().await;
    fleet.open("s1").await;
    let id = |name: &str| format!("{prefix}-{name}");
    let take = |name: &str| json!({"owner": "ops", "reason": "stuck", "request_id": id(name)});

    fleet.ask("admin.takeover", "s-none", take("none")).await.refused("not_found", "no_session");
    has(&only_line(&id("none")).await, &[("session", "s-none"), ("outcome", "no_session")]);
    fleet.ask("admin.takeover", "s.1", take("subject")).await.refused("invalid_params", "invalid_session_id");
    has(&only_line(&id("subject")).await, &[("session", "s.1"), ("outcome", "invalid_session_id")]);
    let typo = json!({"owner": "ops", "reason": "stuck", "ttl": 1, "request_id": id("typo")});
    fleet.ask("admin.takeover", "s1", typo).await.refused("invalid_params", "unknown_field");
    has(&only_line(&id("typo")).await, &[("reason", "stuck"), ("outcome", "unknown_field")]);

    // Nothing would be answered there, so nothing is done.
    let reply = format!("$KV.{}.default.s1", fleet.root.sessions_bucket());
    let subject = fleet.subject("admin.takeover", "s1");
    fleet.nats.publish_with_reply(subject.clone(), reply, take("reply").to_string().into()).await.unwrap();
    fleet.nats.publish(subject, take("mute").to_string().into()).await.unwrap();
    for name in ["reply", "mute"] {
        has(&only_line(&id(name)).await, &[("verb", "admin.takeover"), ("session", "s1"), ("outcome", "dropped")]);
    }
    let (_, record) = fleet.record("s1").await.unwrap();
    assert_eq!(record["lock"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_edit_has_a_line_without_a_name() {
    let (fleet, prefix) = start().await;
    let session = format!("{prefix}-by-hand");
    fleet.open(&session).await;
    let (revision, mut record) = fleet.record(&session).await.unwrap();
    record["lock"] = json!({"owner": "hand", "revision": 1});
    record["lock_revision"] = json!(1);
    let edited = fleet.edit_record(&session, revision, record.to_string().into_bytes()).await.unwrap();
    let of_session = format!("session=\"{session}\"");
    let line = until("the line of a hand edit", SOON, async || lines(&of_session).pop()).await;
    has(&line, &[("verb", "hand_edit"), ("namespace", "default"), ("outcome", "done")]);
    assert!(line.contains(&format!("revision={edited}")) && !line.contains("actor"), "{line}");
    tokio::time::timeout(Duration::from_secs(5), fleet.open(&session)).await.unwrap();
    assert_eq!(lines(&of_session).len(), 1, "the session's own requests are not audited");
}
