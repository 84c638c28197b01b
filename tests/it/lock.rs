//! Locks: acquire, validate, renew and release, coherent in every order.

use futures_util::future::join_all;
use holdfast_tests::fleet::{Fleet, SOON};
use holdfast_tests::server;
use holdfast_tests::wait::until;
use serde_json::{Value, json};

async fn fleet() -> Fleet {
    Fleet::start(server::shared().await.unwrap().url()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_validate_release_are_coherent_in_every_order() {
    let fleet = fleet().await;
    fleet.open("s1").await;
    for verb in ["lock.validate", "lock.renew", "lock.release"] {
        fleet.ask(verb, "s1", json!({"token": "never"})).await.refused("conflict", "not_locked");
    }
    let grant = fleet.ask("lock.acquire", "s1", json!({"owner": "a", "ttl_ms": 30_000})).await.ok();
    assert_eq!((&grant["lock_revision"], &grant["ttl_ms"], &grant["owner"]), (&json!(1), &json!(30_000), &json!("a")));
    let token = grant["lock_token"].as_str().unwrap();
    let valid = fleet.ask("lock.validate", "s1", json!({"token": token})).await.ok();
    assert_eq!(valid, json!({"session_id": "s1", "valid": true, "owner": "a", "lock_revision": 1}));
    let renewed = fleet.ask("lock.renew", "s1", json!({"token": token})).await.ok();
    assert!((29_000..=30_000).contains(&renewed["expires_in_ms"].as_u64().unwrap()), "{renewed}");
    for verb in ["lock.validate", "lock.renew", "lock.release"] {
        let refusal = fleet.ask(verb, "s1", json!({"token": "wrong"})).await.refused("conflict", "stale_token");
        assert_eq!((&refusal["details"]["owner"], &refusal["details"]["lock_revision"]), (&json!("a"), &json!(1)));
    }
    let released = fleet.ask("lock.release", "s1", json!({"token": token})).await.ok();
    assert_eq!(released, json!({"session_id": "s1", "released": true, "lock_revision": 2}));
    for verb in ["lock.validate", "lock.renew", "lock.release"] {
        fleet.ask(verb, "s1", json!({"token": token})).await.refused("conflict", "not_locked");
    }
    let again = fleet.ask("lock.acquire", "s1", json!({"owner": "b"})).await.ok();
    assert_eq!((&again["lock_revision"], &again["ttl_ms"]), (&json!(3), &Value::Null));
    fleet.ask("lock.validate", "s1", json!({"token": token})).await.refused("conflict", "stale_token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_no_proof_and_a_token_is() {
    let fleet = fleet().await;
    fleet.open("s1").await;
    fleet
        .ask("lock.acquire", "s1", json!({"owner": "a", "expected_token": "x"}))
        .await
        .refused("conflict", "stale_token");
    let token = fleet.acquire("s1", "a").await;
    let refusal = fleet.ask("lock.acquire", "s1", json!({"owner": "a"})).await.refused("conflict", "lock_held");
    assert_eq!(refusal["details"]["same_owner"], true);
    let same = fleet.ask("lock.acquire", "s1", json!({"owner": "a", "expected_token": token})).await.ok();
    assert_eq!((same["lock_token"].as_str(), &same["lock_revision"]), (Some(token.as_str()), &json!(1)));
    let rotated =
        fleet.ask("lock.acquire", "s1", json!({"owner": "a", "expected_token": token, "rotate": true})).await.ok();
    assert_eq!(rotated["lock_revision"], 2);
    fleet.ask("lock.validate", "s1", json!({"token": token})).await.refused("conflict", "stale_token");
    fleet
        .ask("lock.acquire", "s1", json!({"owner": "a", "expected_token": token}))
        .await
        .refused("conflict", "stale_token");
    fleet.ask("lock.validate", "s1", json!({"token": rotated["lock_token"]})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_clients_acquiring_one_lock_get_one_grant_and_explained_conflicts() {
    let mut fleet = fleet().await;
    fleet.add_coordinator().await.unwrap();
    fleet.open("hot").await;
    let acquire = |n: u32| fleet.ask("lock.acquire", "hot", json!({"owner": format!("client-{n}"), "ttl_ms": 60_000}));
    let replies = join_all((0..64).map(acquire)).await;
    let (granted, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.number.is_none());
    assert_eq!((granted.len(), refused.len()), (1, 63));
    let holder = granted[0].body["owner"].clone();
    for reply in refused {
        let error = reply.refused("conflict", "lock_held");
        let details = &error["details"];
        assert_eq!((&details["owner"], &details["lock_revision"]), (&holder, &json!(1)));
        assert!(details["requested_owner"].as_str().is_some_and(|name| name.starts_with("client-")));
        assert!(details["expires_in_ms"].as_u64().is_some_and(|ms| ms <= 60_000), "asked from the agent: {error}");
        assert!(details["held_for_ms"].is_u64(), "{error}");
        assert_eq!(error["retry_after_ms"], details["expires_in_ms"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_served_in_the_order_of_their_arrival() {
    let fleet = fleet().await;
    fleet.open("s1").await;
    let mut token = fleet.acquire("s1", "first").await;
    let wait = |n: u32| fleet.ask("lock.acquire", "s1", json!({"owner": format!("w{n}"), "wait_ms": 30_000}));
    let mut waiting = futures_util::stream::FuturesUnordered::new();
    for n in 0..4 {
        // One connection's messages come in the order in which they leave, and this is enough for the order of the
        // line.
        let mut next = Box::pin(wait(n));
        assert!(futures_util::poll!(&mut next).is_pending());
        waiting.push(next);
    }
    for n in 0..4 {
        fleet.ask("lock.release", "s1", json!({"token": token})).await.ok();
        let grant = futures_util::StreamExt::next(&mut waiting).await.unwrap().ok();
        assert_eq!(grant["owner"], format!("w{n}"));
        token = grant["lock_token"].as_str().unwrap().to_owned();
    }
    let begin = std::time::Instant::now();
    let late = fleet.ask("lock.acquire", "s1", json!({"owner": "late", "wait_ms": 300})).await;
    late.refused("conflict", "lock_held");
    assert!(begin.elapsed().as_millis() >= 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_runs_out_unless_it_is_renewed() {
    let fleet = fleet().await;
    let signals = fleet.signals().await.unwrap();
    fleet.open("s1").await;
    let grant = fleet.ask("lock.acquire", "s1", json!({"owner": "a", "ttl_ms": 3_000})).await.ok();
    let token = grant["lock_token"].as_str().unwrap();
    // Renewed by an edit at first, for longer than the lease, and then not any more.
    let begin = std::time::Instant::now();
    until("edits to have carried the lock past its lease", SOON, async || {
        fleet.ask("doc.edit", "s1", json!({"token": token, "body": "x"})).await.ok();
        (begin.elapsed().as_millis() > 3_500).then_some(())
    })
    .await;
    let waited = fleet.ask("lock.acquire", "s1", json!({"owner": "b", "wait_ms": 10_000})).await.ok();
    assert_eq!(waited["lock_revision"], 3, "one grant, its end, another grant");
    let expired = signals.wait_for("s1", "lock.expired").await;
    assert_eq!(expired["data"]["previous_owner"], "a");
    fleet.ask("doc.edit", "s1", json!({"token": token, "body": "late"})).await.refused("conflict", "stale_token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_request_gets_the_first_outcome() {
    let fleet = fleet().await;
    let open = json!({"id": "s1", "mode": "create", "request_id": "o1"});
    fleet.ask("session.open", "", open.clone()).await.ok();
    assert_eq!(fleet.ask("session.open", "", open).await.ok()["created"], true);
    let acquire = json!({"owner": "a", "request_id": "r1"});
    let grant = fleet.ask("lock.acquire", "s1", acquire.clone()).await.ok();
    assert_eq!(fleet.ask("lock.acquire", "s1", acquire.clone()).await.ok(), grant);
    fleet.ask("lock.acquire", "s1", json!({"owner": "b", "request_id": "r1"})).await.refused("conflict", "lock_held");
    let release = json!({"token": grant["lock_token"], "request_id": "r2"});
    let released = fleet.ask("lock.release", "s1", release.clone()).await.ok();
    let takeover = json!({"owner": "ops", "reason": "x", "request_id": "r3"});
    let taken = fleet.ask("admin.takeover", "s1", takeover.clone()).await.ok();
    assert_eq!(fleet.ask("lock.release", "s1", release).await.ok(), released, "also when the lock has moved on");
    let second = fleet.ask("admin.takeover", "s1", json!({"owner": "ops2", "reason": "y"})).await.ok();
    assert_eq!(fleet.ask("admin.takeover", "s1", takeover).await.ok(), taken, "a late copy takes nothing over");
    fleet.ask("lock.validate", "s1", json!({"token": second["lock_token"]})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_requires_its_lock_is_changed_only_under_it() {
    let fleet = fleet().await;
    fleet.ask("session.open", "", json!({"id": "s1", "config": {"lock": "required"}})).await.ok();
    fleet.ask("doc.edit", "s1", json!({"body": "x"})).await.refused("conflict", "lock_required");
    fleet.ask("doc.edit", "s1", json!({"body": "x", "token": "t"})).await.refused("conflict", "not_locked");
    let token = fleet.acquire("s1", "a").await;
    fleet.ask("doc.edit", "s1", json!({"body": "x"})).await.refused("conflict", "lock_held");
    fleet.ask("doc.edit", "s1", json!({"body": "x", "token": "t"})).await.refused("conflict", "stale_token");
    fleet.ask("doc.edit", "s1", json!({"body": "x", "token": token})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_id_that_a_coordinator_made_is_worth_no_token() {
    let fleet = fleet().await;
    let signals = fleet.signals().await.unwrap();
    fleet.open("s1").await;
    fleet.acquire("s1", "a").await;
    let announced = signals.wait_for("s1", "lock.acquired").await["correlationid"].clone();
    assert!(announced.is_string());
    let thief = json!({"owner": "a", "request_id": announced});
    fleet.ask("lock.acquire", "s1", thief).await.refused("conflict", "lock_held");
}
