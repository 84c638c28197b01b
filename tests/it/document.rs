//! Documents: edits, undo, limits, retries, and many clients at once.

use futures_util::future::join_all;
use holdfast_tests::fleet::Fleet;
use holdfast_tests::server;
use serde_json::json;

async fn fleet() -> Fleet {
    Fleet::start(server::shared().await.unwrap().url()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_splices_patches_undo_and_redo_do_what_they_say() {
    let fleet = fleet().await;
    let content = json!({"body": "añb🎉", "fields": {"title": "t", "tags": ["x"]}});
    fleet.ask("session.open", "", json!({"id": "s1", "content": content})).await.ok();
    let begin = fleet.ask("doc.get", "s1", json!({})).await.ok();
    assert_eq!(
        begin,
        json!({"session_id": "s1", "body": "añb🎉", "fields": {"title": "t", "tags": ["x"]}, "revision": 0, "dirty": false,
               "path": null, "workspace": null})
    );
    let splices = json!([{"at": 4, "delete": 0, "insert": "!"}, {"at": 0, "delete": 2, "insert": "A"}]);
    fleet.ask("doc.edit", "s1", json!({"splices": splices, "fields": {"title": null, "n": {"deep": 1}}})).await.ok();
    let document = fleet.ask("doc.get", "s1", json!({"consistency": "linearizable"})).await.ok();
    assert_eq!((&document["body"], &document["fields"]), (&json!("Ab🎉!"), &json!({"tags": ["x"], "n": {"deep": 1}})));
    let again = fleet.ask("doc.edit", "s1", json!({"fields": {"n": 2}, "actor": "ann"})).await.ok();
    assert_eq!(again["revision"], 2);
    // Who, since when, and what was asked for; also after the session was built again from its log.
    for _ in 0..2 {
        let late = fleet.ask("doc.edit", "s1", json!({"body": "y", "expected_revision": 0})).await;
        let details = late.refused("conflict", "revision_mismatch")["details"].clone();
        assert_eq!((&details["changed_by"], &details["expected_revision"]), (&json!("ann"), &json!(0)), "{details}");
        assert!(details["changed_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{details}");
        fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    }
    fleet.ask("doc.undo", "s1", json!({"expected_revision": 2})).await.ok();
    fleet
        .ask("doc.edit", "s1", json!({"splices": [{"at": 9, "delete": 0, "insert": ""}]}))
        .await
        .refused("invalid_params", "bad_value");
    assert_eq!(fleet.ask("doc.undo", "s1", json!({"expected_revision": 3})).await.ok()["revision"], 4);
    let undone = fleet.ask("doc.get", "s1", json!({})).await.ok();
    assert_eq!((&undone["body"], &undone["fields"]), (&begin["body"], &begin["fields"]));
    fleet.ask("doc.undo", "s1", json!({})).await.refused("conflict", "nothing_to_undo");
    fleet.ask("doc.redo", "s1", json!({})).await.ok();
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["body"], "Ab🎉!");
    fleet.ask("doc.redo", "s1", json!({})).await.ok();
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["fields"]["n"], 2);
    fleet.ask("doc.redo", "s1", json!({})).await.refused("conflict", "nothing_to_undo");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_those_of_the_contract() {
    let fleet = fleet().await;
    fleet.open("s1").await;
    let body = "x".repeat(512 * 1024);
    fleet.ask("doc.edit", "s1", json!({"body": body})).await.ok();
    fleet.ask("doc.edit", "s1", json!({"body": format!("{body}x")})).await.refused("too_large", "body_too_large");
    let over = json!({"splices": [{"at": 0, "delete": 0, "insert": "x"}]});
    fleet.ask("doc.edit", "s1", over).await.refused("too_large", "body_too_large");
    let fields = json!({"fields": {"f": "x".repeat(64 * 1024)}});
    fleet.ask("doc.edit", "s1", fields).await.refused("too_large", "fields_too_large");
    let request = format!("{{\"body\":\"{}\"}}", "x".repeat(1024 * 1024));
    fleet
        .ask_raw(&fleet.subject("doc.edit", "s1"), request.into_bytes())
        .await
        .refused("too_large", "request_too_large");
    // The worst a body can be in JSON, and then a log of them.
    let control = "\u{1}".repeat(100 * 1024);
    for n in 0..12 {
        fleet.ask("doc.edit", "s1", json!({"body": format!("{n}{control}")})).await.ok();
    }
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["body"], format!("11{control}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_edit_is_made_once() {
    let fleet = fleet().await;
    fleet.open("s1").await;
    let edit = json!({"splices": [{"at": 0, "delete": 0, "insert": "x"}], "request_id": "e1"});
    let copies = join_all((0..8).map(|_| fleet.ask("doc.edit", "s1", edit.clone()))).await;
    for copy in copies {
        assert_eq!(copy.ok()["revision"], 1);
    }
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["body"], "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_on_one_session_share_frames_and_every_edit_is_there() {
    let fleet = fleet().await;
    let signals = fleet.signals().await.unwrap();
    fleet.open("s1").await;
    let client = async |n: u32| {
        for k in 0..20 {
            let insert = format!("[{n}.{k}]");
            fleet.ask("doc.edit", "s1", json!({"splices": [{"at": 0, "delete": 0, "insert": insert}]})).await.ok();
        }
    };
    join_all((0..32).map(client)).await;
    let document = fleet.ask("doc.get", "s1", json!({})).await.ok();
    assert_eq!(document["revision"], 640);
    let body = document["body"].as_str().unwrap();
    for n in 0..32 {
        // Each client's edits are in its own order, the last in front.
        let places: Vec<usize> = (0..20).map(|k| body.find(&format!("[{n}.{k}]")).unwrap()).collect();
        assert!(places.is_sorted_by(|left, right| left > right));
    }
    let frames = fleet.stream().await.unwrap().iter().filter(|stored| stored.subject.contains(".log.")).count();
    assert!(frames < 64, "{frames} frames are left");
    fleet.all_announced(&signals).await;
    assert_eq!(signals.events_of("s1").iter().filter(|event| *event == "doc.edited").count(), 640);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_actions_of_a_refusal_can_help() {
    let fleet = fleet().await;
    fleet.ask("session.open", "", json!({"id": "s1"})).await.ok();
    for verb in ["doc.save", "doc.load"] {
        let refusal = fleet.ask(verb, "s1", json!({})).await.refused("not_found", "no_file");
        assert_eq!(refusal["actions"], json!([]), "{verb}: no request gives a session a file");
    }
    let grant = fleet.ask("lock.acquire", "s1", json!({"owner": "ann"})).await.ok();
    fleet.ask("admin.takeover", "s1", json!({"owner": "ops", "reason": "stuck"})).await.ok();
    let edit = json!({"token": grant["lock_token"], "body": "late"});
    let acquire = json!({"owner": "ann", "expected_token": grant["lock_token"]});
    for (verb, body) in [("doc.edit", &edit), ("lock.acquire", &acquire)] {
        let refusal = fleet.ask(verb, "s1", body.clone()).await.refused("conflict", "stale_token");
        assert_eq!(refusal["actions"], json!(["wait", "takeover"]), "{verb}");
    }
    fleet.ask("admin.unlock", "s1", json!({"reason": "done"})).await.ok();
    let refusal = fleet.ask("lock.acquire", "s1", acquire).await.refused("conflict", "stale_token");
    assert_eq!(refusal["actions"], json!(["acquire"]));
    let refusal = fleet.ask("admin.unlock", "s1", json!({"reason": "again"})).await.refused("conflict", "not_locked");
    assert_eq!(refusal["actions"], json!([]));
}
