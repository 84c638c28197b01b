//! Counters on a real nats-server, asked by a client that knows nothing but NATS and JSON.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use holdfast_client::protocol::SessionId;
use holdfast_client::protocol::id::KindName;
use holdfast_client::protocol::subject::Verb;
use holdfast_client::{Client, Open};
use holdfast_example_counter::{CounterKind, NAME};
use holdfast_store::connect::ConnectOptions;
use holdfast_tests::fleet::Fleet;
use holdfast_tests::server;
use serde_json::{Value, json};

async fn add_counters(fleet: &mut Fleet, worker: &str) {
    let options = ConnectOptions::to(&fleet.url);
    let hosting = fleet.add_worker_as(&options, worker, |config| {
        config.kinds.insert(KindName::parse(NAME).unwrap(), Arc::new(CounterKind));
    });
    hosting.await.unwrap();
}

async fn open_counter(fleet: &Fleet, id: &str) -> Value {
    fleet.ask("session.open", "", json!({"id": id, "kind": "counter"})).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_counts_behind_its_lock_wherever_it_moves() {
    let mut fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    let signals = fleet.signals().await.unwrap();
    let nowhere = fleet.ask("session.open", "", json!({"id": "c1", "kind": "counter"})).await;
    let nowhere = nowhere.refused("unavailable", "no_live_worker");
    assert_eq!((&nowhere["details"]["kind"], &nowhere["retryable"]), (&json!("counter"), &json!(true)));

    add_counters(&mut fleet, "w2").await;
    for n in 1..=8 {
        let opened = open_counter(&fleet, &format!("c{n}")).await;
        assert_eq!((&opened["kind"], &opened["owner"]["worker"]), (&json!("counter"), &json!("w2")));
    }
    let add = json!({"add": 2, "request_id": "once"});
    let added = json!({"session_id": "c1", "revision": 1, "previous_revision": 0, "value": 2});
    assert_eq!(fleet.ask("doc.edit", "c1", add.clone()).await.ok(), added);
    assert_eq!(fleet.ask("doc.edit", "c1", add).await.ok(), added, "asked again, it is not added again");
    let edited = signals.wait_for("c1", "doc.edited").await;
    assert_eq!((&edited["data"]["changed"], &edited["data"]["revision"]), (&json!(["value"]), &json!(1)));

    let token = fleet.acquire("c1", "ann").await;
    fleet.ask("doc.edit", "c1", json!({"add": 1})).await.refused("conflict", "lock_held");
    fleet.ask("doc.edit", "c1", json!({"add": 3, "token": token})).await.ok();
    fleet.ask("admin.takeover", "c1", json!({"owner": "ops", "reason": "r"})).await.ok();
    fleet.ask("doc.edit", "c1", json!({"add": 1, "token": token})).await.refused("conflict", "stale_token");

    add_counters(&mut fleet, "w3").await;
    let to = |worker: &str| json!({"worker": worker, "reason": "r"});
    let refusal = fleet.ask("admin.move", "c1", to("w1")).await.refused("not_found", "no_worker");
    assert_eq!(refusal["details"], json!({"worker": "w1", "kind": "counter"}));
    fleet.ask("admin.move", "c1", to("w3")).await.ok();
    fleet.stop_worker("w2").await;
    for consistency in ["local", "linearizable"] {
        let counted = fleet.ask("doc.get", "c1", json!({"consistency": consistency})).await.ok();
        assert_eq!(counted, json!({"session_id": "c1", "revision": 2, "value": 5}));
    }
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    fleet.ask("admin.unlock", "c1", json!({"reason": "r"})).await.ok();
    let added = fleet.ask("doc.edit", "c1", json!({"add": -6})).await.ok();
    assert_eq!(added["value"], -1, "it is back, with what it had");

    fleet.stop_worker("w3").await;
    let nowhere = fleet.ask("doc.get", "c1", json!({})).await.refused("unavailable", "no_live_worker");
    assert_eq!(nowhere["details"]["kind"], "counter", "a worker of documents alone is no place for it");
    assert_eq!(fleet.ask("session.get", "c1", json!({})).await.ok()["state"], "passive");
    add_counters(&mut fleet, "w4").await;
    assert_eq!(fleet.ask("doc.get", "c1", json!({})).await.ok()["value"], -1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_of_one_kind_and_each_kind_reads_its_own_bodies() {
    let mut fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    add_counters(&mut fleet, "w2").await;
    open_counter(&fleet, "c1").await;
    assert_eq!(open_counter(&fleet, "c1").await["created"], false);
    fleet.open("d1").await;
    for (open, kind, requested) in [
        (json!({"id": "c1"}), "counter", "document"),
        (json!({"id": "c1", "mode": "attach"}), "counter", "document"),
        (json!({"id": "d1", "kind": "counter"}), "document", "counter"),
    ] {
        let details = &fleet.ask("session.open", "", open).await.refused("conflict", "already_exists")["details"];
        assert_eq!((&details["kind"], &details["requested_kind"]), (&json!(kind), &json!(requested)));
        assert_eq!(details["field"], "kind");
    }
    let refused = async |verb: &str, body: Value, reason: &str| {
        fleet.ask(verb, "c1", body).await.refused("invalid_params", reason)["details"]["field"].clone()
    };
    assert_eq!(refused("doc.edit", json!({"body": "x"}), "unknown_field").await, "body");
    assert_eq!(refused("doc.edit", json!({}), "missing_field").await, "add");
    assert_eq!(refused("doc.edit", json!({"add": "1"}), "bad_value").await, "add");
    for verb in ["doc.save", "doc.load", "doc.undo"] {
        refused(verb, json!({}), "bad_value").await;
    }
    fleet.ask("doc.edit", "c1", json!({"add": i64::MAX})).await.ok();
    assert_eq!(refused("doc.edit", json!({"add": 1}), "bad_value").await, "add");

    let bad = json!({"id": "c2", "kind": "counter", "content": {"body": "7"}});
    fleet.ask("session.open", "", bad).await.refused("invalid_params", "bad_value");
    fleet.ask("doc.get", "c2", json!({})).await.refused("not_found", "no_session");
    let unknown = fleet.ask("session.open", "", json!({"id": "c3", "kind": "A"})).await;
    assert_eq!(unknown.refused("invalid_params", "bad_value")["details"]["field"], "kind");

    let listed = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
    let kinds: Vec<&Value> = listed["workers"].as_array().unwrap().iter().map(|worker| &worker["kinds"]).collect();
    assert_eq!(kinds, [&Value::Null, &json!(["counter", "document"])], "documents alone go without saying");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_asks_a_kind_of_its_callers_own() {
    let mut fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    add_counters(&mut fleet, "w2").await;
    let client = Client::new(fleet.nats.clone()).below(fleet.root.clone());
    let id = SessionId::parse("c1").unwrap();
    client.open(Open { kind: KindName::parse(NAME).ok(), ..Open::id(&id) }).await.unwrap();
    let session = client.session(id);
    let add = json!({"add": 4}).as_object().unwrap().clone();
    let added: Value = session.ask(Verb::DocEdit, add).await.unwrap();
    assert_eq!(added["value"], 4);
    let counted: Value = session.ask(Verb::DocGet, Default::default()).await.unwrap();
    assert_eq!(counted, json!({"session_id": "c1", "revision": 1, "value": 4}));
}
