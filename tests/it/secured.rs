//! Accounts: requests over service imports, who asked as nats-server tells it, and signals over a stream import.

use std::time::Duration;

use holdfast_deploy::Role;
use holdfast_tests::fleet::{Fleet, Reply, SOON, SecuredCluster, SecuredServer};
use holdfast_tests::wait::until;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

/// A server with accounts, a worker and a coordinator.
async fn start() -> (SecuredServer, Fleet) {
    let server = SecuredServer::start().await.unwrap();
    let mut fleet = server.fleet().await.unwrap();
    fleet.add_worker("w1", &[]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    (server, fleet)
}

/// Sends a request with a header `Nats-Request-Info` that names an operator.
async fn forged(nats: &async_nats::Client, subject: String, body: Value) -> Value {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Request-Info", r#"{"acc":"OPS","user":"ops","server":"n1","id":7}"#);
    let request = async_nats::Request::new().headers(headers).payload(body.to_string().into());
    let reply = nats.send_request(subject, request.timeout(Some(Duration::from_secs(10)))).await.unwrap();
    serde_json::from_slice(&reply.payload).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_path_over_imports_names_who_asked_as_the_server_tells_it() {
    let (_server, fleet) = start().await;
    let signals = fleet.signals().await.unwrap();
    fleet.open("s1").await;
    let token = fleet.acquire("s1", "client-a").await;
    fleet.ask("doc.edit", "s1", json!({"token": token, "body": "hello", "actor": "ann"})).await.ok();
    let (_, locked) = fleet.record("s1").await.unwrap();
    assert_eq!(locked["event"]["actor_proven"], "APP/client");

    let takeover = json!({"owner": "ops", "reason": "stuck", "actor": "night shift"});
    let taken = fleet.ask("admin.takeover", "s1", takeover).await.ok();
    assert_eq!(taken["previous_owner"], "client-a");
    let (_, record) = fleet.record("s1").await.unwrap();
    assert_eq!(record["event"]["actor"], "night shift");
    assert_eq!(record["event"]["actor_proven"], "OPS/ops");

    // Heard in the account of the client, over a stream import.
    let heard = signals.wait_for("s1", "lock.taken_over").await;
    assert_eq!(heard["data"]["actor"], "night shift");
    assert_eq!(heard["data"]["actor_proven"], "OPS/ops");
    assert_eq!(signals.wait_for("s1", "session.opened").await["data"]["actor_proven"], "APP/client");
    assert_eq!(signals.wait_for("s1", "doc.edited").await["data"]["actor_proven"], "APP/client");
    assert_eq!(signals.wait_for("s1", "lock.acquired").await["data"]["actor_proven"], "APP/client");

    let late = fleet.ask("doc.edit", "s1", json!({"token": token, "body": "late"})).await;
    late.refused("conflict", "stale_token");
    fleet
        .ask("lock.acquire", "s1", json!({"owner": "client-b", "actor": "bob"}))
        .await
        .refused("conflict", "lock_held");
    let conflict = signals.wait_for("s1", "lock.conflict").await;
    assert_eq!((&conflict["data"]["actor"], &conflict["data"]["actor_proven"]), (&json!("bob"), &json!("APP/client")));
    let token = taken["lock_token"].as_str().unwrap();
    fleet.ask("session.close", "s1", json!({"token": token, "discard": true})).await.ok();
    let (_, closed) = fleet.record("s1").await.unwrap();
    assert_eq!((&closed["state"], &closed["event"]["actor_proven"]), (&json!("closed"), &json!("APP/client")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_header_is_overwritten_over_an_import_and_ignored_without_trust() {
    let (_server, mut fleet) = start().await;
    fleet.open("s1").await;
    forged(&fleet.nats, fleet.subject("lock.acquire", "s1"), json!({"owner": "client-a"})).await;
    let (_, record) = fleet.record("s1").await.unwrap();
    assert_eq!(record["event"]["actor_proven"], "APP/client", "nats-server overwrites what the client wrote");

    fleet.stop_coordinator().await;
    let distrustful = fleet.begin_coordinator_as(|config| config.trust_request_info = false).await.unwrap();
    fleet.open("s2").await;
    forged(&fleet.nats, fleet.subject("lock.acquire", "s2"), json!({"owner": "client-a"})).await;
    let (_, record) = fleet.record("s2").await.unwrap();
    assert_eq!(record["lock"]["owner"], "client-a");
    assert!(record["event"].get("actor_proven").is_none(), "{record}");
    distrustful.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_an_operator_names_who_asked_as_the_server_tells_it() {
    let (_server, mut fleet) = start().await;
    fleet.add_worker("w2", &[]).await.unwrap();
    let signals = fleet.signals().await.unwrap();
    for id in ["s1", "s2", "s3"] {
        fleet.open(id).await;
    }
    fleet.acquire("s1", "client-a").await;
    let reason = || json!({"reason": "tidying up", "actor": "night shift"});
    fleet.ask("admin.unlock", "s1", reason()).await.ok();
    fleet.ask("admin.move", "s1", reason()).await.ok();
    let is_by_ops = |signal: &Value| {
        assert_eq!(signal["data"]["actor"], "night shift", "{signal}");
        assert_eq!(signal["data"]["actor_proven"], "OPS/ops", "{signal}");
    };
    is_by_ops(&signals.wait_for("s1", "lock.released").await);
    is_by_ops(&signals.wait_for("s1", "session.moved").await);

    // A drain moves each session by a request of the worker, in the place of the operator.
    let (_, record) = fleet.record("s2").await.unwrap();
    let worker = record["owner"]["worker"].as_str().unwrap().to_owned();
    let drain = format!("hf.sys.worker.drain.{worker}");
    fleet.ask_raw(&drain, reason().to_string().into_bytes()).await.ok();
    is_by_ops(&signals.wait_for("s2", "session.moved").await);
    fleet.ask_raw(&format!("hf.sys.worker.undrain.{worker}"), reason().to_string().into_bytes()).await.ok();

    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0, "actor": "night shift"})).await.ok();
    is_by_ops(&signals.wait_for("s2", "session.reclaimed").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_ask_what_operators_ask() {
    let (_server, fleet) = start().await;
    fleet.open("s1").await;
    let body = json!({"owner": "me", "reason": "mine now"}).to_string();
    let asked = fleet.nats.request(fleet.subject("admin.takeover", "s1"), body.into()).await;
    assert!(asked.is_err(), "{asked:?}");
    let (_, record) = fleet.record("s1").await.unwrap();
    assert_eq!(record["lock"], Value::Null);
    assert!(fleet.options(&fleet.url, Role::Client).inbox_prefix.is_some());
}

/// Sends a request of a client in a task of its own.
fn ask_aside(fleet: &Fleet, id: &str, body: Value) -> AbortOnDropHandle<Reply> {
    let (nats, subject) = (fleet.nats.clone(), fleet.subject("lock.acquire", id));
    AbortOnDropHandle::new(tokio::spawn(async move {
        let request = async_nats::Request::new().payload(body.to_string().into());
        let message = nats.send_request(subject.clone(), request.timeout(Some(Duration::from_secs(40)))).await;
        Reply::of(&subject, message.unwrap())
    }))
}

/// Waits until a request that waits for the lock of `id` was refused its turn once: it is in line then.
async fn in_line(fleet: &Fleet, signals: &holdfast_tests::fleet::Signals, id: &str) {
    let none = fleet.ask("lock.acquire", id, json!({"owner": "probe"})).await;
    none.refused("conflict", "lock_held");
    signals.wait_for(id, "lock.conflict").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_over_an_import_needs_a_lease_and_a_grant_is_not_taken_back() {
    let (_server, fleet) = start().await;
    let signals = fleet.signals().await.unwrap();
    fleet.open("s1").await;
    let token = fleet.acquire("s1", "client-a").await;
    let endless = fleet.ask("lock.acquire", "s1", json!({"owner": "client-b", "wait_ms": 10_000})).await;
    assert_eq!(endless.refused("invalid_params", "bad_value")["details"]["field"], "wait_ms");
    let at_once = fleet.ask("lock.acquire", "s1", json!({"owner": "client-b", "wait_ms": 0})).await;
    at_once.refused("conflict", "lock_held");

    let body = json!({"owner": "client-b", "wait_ms": 20_000, "ttl_ms": 60_000});
    let waiter = ask_aside(&fleet, "s1", body);
    in_line(&fleet, &signals, "s1").await;
    fleet.ask("lock.release", "s1", json!({"token": token})).await.ok();
    let grant = waiter.await.unwrap().ok();
    assert_eq!(grant["owner"], "client-b");
    fleet.all_announced(&signals).await;
    let token = &grant["lock_token"];
    let valid = fleet.ask("lock.validate", "s1", json!({"token": token})).await.ok();
    assert_eq!((&valid["owner"], &valid["lock_revision"]), (&json!("client-b"), &grant["lock_revision"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_frees_the_lock_of_a_waiter_that_is_gone_behind_an_import() {
    let (_server, fleet) = start().await;
    let signals = fleet.signals().await.unwrap();
    fleet.open("s1").await;
    let token = fleet.acquire("s1", "client-a").await;
    let gone = holdfast_store::connect::connect(&fleet.options(&fleet.url, Role::Client)).await.unwrap();
    let subject = fleet.subject("lock.acquire", "s1");
    let reply = gone.new_inbox();
    let body = json!({"owner": "gone", "wait_ms": 20_000, "ttl_ms": 1_000}).to_string();
    let listening = gone.subscribe(reply.clone()).await.unwrap();
    gone.publish_with_reply(subject, reply, body.into()).await.unwrap();
    gone.flush().await.unwrap();
    in_line(&fleet, &signals, "s1").await;
    let waiter = ask_aside(&fleet, "s1", json!({"owner": "client-b", "wait_ms": 20_000, "ttl_ms": 60_000}));
    drop(listening);
    gone.drain().await.unwrap();
    fleet.ask("lock.release", "s1", json!({"token": token})).await.ok();
    let grant = waiter.await.unwrap().ok();
    assert_eq!(grant["owner"], "client-b");
    let expired = signals.wait_for("s1", "lock.expired").await;
    assert_eq!(expired["data"]["previous_owner"], "gone");
}

/// A reply subject on the grant would ask a client in another account for an answer that nobody waits for.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_over_an_import_asks_for_no_answer() {
    let (_server, fleet) = start().await;
    fleet.open("s1").await;
    let body = json!({"owner": "client-a"}).to_string();
    let grant = fleet.nats.request(fleet.subject("lock.acquire", "s1"), body.into()).await.unwrap();
    assert_eq!(grant.reply, None);
    let body: Value = serde_json::from_slice(&grant.payload).unwrap();
    assert_eq!(body["owner"], "client-a", "{body}");
}

/// A client waits at a coordinator that ends, and gets the lock by another one.
async fn waits_on_at_another_coordinator(mut fleet: Fleet) {
    fleet.add_worker("w1", &[]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    fleet.open("s1").await;
    let token = fleet.acquire("s1", "client-a").await;
    let body = json!({"owner": "client-b", "wait_ms": 30_000, "ttl_ms": 60_000, "actor": "bob"});
    let waiter = ask_aside(&fleet, "s1", body);
    in_line(&fleet, &signals, "s1").await;
    let first = fleet.take_coordinator().unwrap();
    fleet.add_coordinator().await.unwrap();
    first.stop(Duration::from_secs(10)).await;
    fleet.ask("lock.release", "s1", json!({"token": token})).await.ok();
    let grant = waiter.await.unwrap().ok();
    assert_eq!(grant["owner"], "client-b");
    let granted = signals.wait_for_nth(2, "s1", "lock.acquired").await;
    assert_eq!((&granted["data"]["actor"], &granted["data"]["actor_proven"]), (&json!("bob"), &json!("APP/client")));
    let taken = fleet.ask("admin.takeover", "s1", json!({"owner": "ops", "reason": "stuck"})).await.ok();
    assert_eq!(taken["previous_owner"], "client-b");
    assert_eq!(signals.wait_for("s1", "lock.taken_over").await["data"]["actor_proven"], "OPS/ops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_behind_an_import_is_passed_on_with_who_asked() {
    let server = SecuredServer::start().await.unwrap();
    waits_on_at_another_coordinator(server.fleet().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_behind_an_import_is_passed_on_in_a_cluster() {
    let cluster = SecuredCluster::start().await.unwrap();
    waits_on_at_another_coordinator(cluster.fleet().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_coordinator_was_killed_asks_again_and_gets_one_grant() {
    let (_server, mut fleet) = start().await;
    let signals = fleet.signals().await.unwrap();
    fleet.open("s1").await;
    let token = fleet.acquire("s1", "client-a").await;
    fleet.stop_coordinator().await;
    let doomed = fleet.begin_mortal_coordinator(&fleet.url).await.unwrap();
    let body = json!({"owner": "client-b", "wait_ms": 30_000, "ttl_ms": 60_000, "request_id": "r1"});
    let lost = ask_aside(&fleet, "s1", body.clone());
    in_line(&fleet, &signals, "s1").await;
    fleet.add_coordinator().await.unwrap();
    doomed.kill();
    // A request that reaches the killed one before its server knows is not answered, and is sent again.
    let again = until("the waiter to be answered", SOON * 2, async || {
        let released = fleet.try_ask("lock.release", "s1", &json!({"token": token}), Duration::from_secs(2)).await;
        let asked = fleet.try_ask("lock.acquire", "s1", &body, Duration::from_secs(3)).await.ok();
        released.and(Ok(asked)).ok().flatten()
    })
    .await;
    let grant = again.ok();
    assert_eq!((&grant["owner"], &grant["lock_revision"]), (&json!("client-b"), &json!(3)));
    fleet.all_announced(&signals).await;
    let (_, record) = fleet.record("s1").await.unwrap();
    assert_eq!((&record["lock"]["owner"], &record["lock_revision"]), (&json!("client-b"), &json!(3)));
    drop(lost);
}
