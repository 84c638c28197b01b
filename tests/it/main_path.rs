//! The main path, which also runs in containers: open, lock, edit, lose with an explanation, be taken over, hear of it.

use holdfast_tests::fleet::Fleet;
use holdfast_tests::server;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn main_path_of_two_clients_and_an_operator() {
    let fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    let signals = fleet.signals().await.unwrap();

    let session = fleet.open("s1").await;
    assert_eq!(session["created"], true);
    assert_eq!(session["state"], "active");
    assert_eq!(session["owner"]["worker"], "w1");

    let token = fleet.acquire("s1", "client-a").await;
    let edited = fleet.ask("doc.edit", "s1", json!({"token": token, "body": "hello"})).await.ok();
    assert_eq!(edited, json!({"session_id": "s1", "revision": 1, "previous_revision": 0, "dirty": true}));

    let refusal = fleet.ask("lock.acquire", "s1", json!({"owner": "client-b"})).await.refused("conflict", "lock_held");
    assert_eq!(refusal["details"]["owner"], "client-a");
    assert_eq!(refusal["details"]["requested_owner"], "client-b");
    assert_eq!(refusal["details"]["same_owner"], false);
    assert_eq!(refusal["retryable"], true);
    assert_eq!(refusal["actions"], json!(["wait", "takeover"]));

    let taken = fleet.ask("admin.takeover", "s1", json!({"owner": "ops", "reason": "stuck"})).await.ok();
    assert_eq!(taken["previous_owner"], "client-a");
    assert_eq!(taken["lock_revision"], 2);
    let late = fleet.ask("doc.edit", "s1", json!({"token": token, "body": "late"})).await;
    assert_eq!(late.refused("conflict", "stale_token")["details"]["owner"], "ops");

    let document = fleet.ask("doc.get", "s1", json!({})).await.ok();
    assert_eq!((&document["body"], &document["revision"]), (&json!("hello"), &json!(1)));

    let heard = signals.wait_for("s1", "lock.taken_over").await;
    assert_eq!(heard["specversion"], "1.0");
    assert_eq!(heard["type"], "holdfast.lock.taken_over.v1");
    assert_eq!(heard["source"], "/holdfast/default/s1");
    assert_eq!(heard["data"]["owner"], "ops");
    assert_eq!(heard["data"]["previous_owner"], "client-a");
    assert_eq!(heard["data"]["reason"], "stuck");
    fleet.all_announced(&signals).await;
    let events: Vec<String> = signals.events_of("s1").into_iter().filter(|event| event != "lock.conflict").collect();
    assert_eq!(events, ["session.opened", "session.activated", "lock.acquired", "doc.edited", "lock.taken_over"]);
}
