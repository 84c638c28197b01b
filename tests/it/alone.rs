//! What the record alone decides needs no worker, and a lease ends although nobody is there to count it.

use std::time::{Duration, Instant};

use holdfast_tests::fleet::{Fleet, SOON};
use holdfast_tests::server::{shared, shared_cluster};
use holdfast_tests::wait::until;
use serde_json::json;

async fn fleets() -> [Fleet; 2] {
    let (one, three) = (shared().await.unwrap().url().to_owned(), shared_cluster().await.unwrap().url());
    let mut fleets = [Fleet::empty(&one).await.unwrap(), Fleet::empty(&three).await.unwrap()];
    for fleet in &mut fleets {
        fleet.add_mortal_worker("w1").await.unwrap();
        fleet.add_coordinator().await.unwrap();
    }
    fleets
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_worker_the_record_alone_answers_at_once() {
    for mut fleet in fleets().await {
        fleet.open("s1").await;
        fleet.open("s2").await;
        let token = fleet.acquire("s1", "a").await;
        fleet.ask("doc.edit", "s1", json!({"token": token, "body": "kept"})).await.ok();
        fleet.kill_worker("w1");
        // By then the coordinator knows that nobody is there.
        fleet.ask("doc.get", "s1", json!({})).await.refused("unavailable", "no_live_worker");
        let begin = Instant::now();
        fleet.ask("lock.validate", "s1", json!({"token": token})).await.ok();
        fleet.ask("lock.acquire", "s1", json!({"owner": "b"})).await.refused("conflict", "lock_held");
        fleet.ask("lock.release", "s1", json!({"token": token})).await.ok();
        let grant = fleet.ask("lock.acquire", "s1", json!({"owner": "b", "ttl_ms": 60_000})).await.ok();
        let taken = fleet.ask("admin.takeover", "s1", json!({"owner": "ops", "reason": "r"})).await.ok();
        assert_eq!(taken["previous_owner"], "b");
        fleet
            .ask("lock.validate", "s1", json!({"token": grant["lock_token"]}))
            .await
            .refused("conflict", "stale_token");
        fleet.ask("admin.unlock", "s1", json!({"reason": "r"})).await.ok();
        assert_eq!(fleet.ask("session.get", "s1", json!({})).await.ok()["lock_revision"], 5);
        assert_eq!(fleet.ask("session.list", "", json!({})).await.ok()["sessions"].as_array().unwrap().len(), 2);
        let took = begin.elapsed();
        println!("nine requests without a worker took {took:?}");
        assert!(took < Duration::from_secs(4), "no lease and no worker is waited for: {took:?}");
        fleet.ask("doc.get", "s1", json!({})).await.refused("unavailable", "no_live_worker");
        fleet.add_worker("w2", &[]).await.unwrap();
        until("the document to be back", SOON, async || {
            let reply = fleet.ask("doc.get", "s1", json!({})).await;
            (reply.number.is_none() && reply.body["body"] == "kept").then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_runs_out_for_who_waits_although_the_worker_and_the_holder_are_gone() {
    for mut fleet in fleets().await {
        fleet.open("s1").await;
        fleet.ask("lock.acquire", "s1", json!({"owner": "gone", "ttl_ms": 2_000})).await.ok();
        fleet.kill_worker("w1");
        let begin = Instant::now();
        let waits = json!({"owner": "b", "ttl_ms": 60_000, "wait_ms": 20_000});
        let grant = fleet.ask("lock.acquire", "s1", waits).await.ok();
        let took = begin.elapsed();
        println!("whoever waited had the lock after {took:?}");
        assert_eq!(grant["lock_revision"], 3, "a grant, its end, a grant");
        assert!(took >= Duration::from_secs(2), "never shorter than the lease: {took:?}");
        assert!(took < Duration::from_secs(6), "no worker's lease is waited for: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_runs_out_by_itself_although_nobody_asks_and_no_worker_is_there() {
    for mut fleet in fleets().await {
        let signals = fleet.signals().await.unwrap();
        fleet.open("active").await;
        fleet.open("passive").await;
        fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
        fleet.open("active").await;
        fleet.ask("lock.acquire", "active", json!({"owner": "gone", "ttl_ms": 1_500})).await.ok();
        fleet.kill_worker("w1");
        // Granted while nobody has the session.
        fleet.ask("lock.acquire", "passive", json!({"owner": "gone", "ttl_ms": 1_500})).await.ok();
        for id in ["active", "passive"] {
            let expired = signals.wait_for(id, "lock.expired").await;
            assert_eq!(expired["data"]["previous_owner"], "gone", "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_runs_out_although_the_coordinator_that_watched_it_died_with_the_worker() {
    for url in [shared().await.unwrap().url().to_owned(), shared_cluster().await.unwrap().url()] {
        let mut fleet = Fleet::empty(&url).await.unwrap();
        fleet.add_mortal_worker("w1").await.unwrap();
        let watching = fleet.begin_mortal_coordinator(&url).await.unwrap();
        let signals = fleet.signals().await.unwrap();
        until("the coordinator to answer", SOON, async || {
            let opened = fleet.try_ask("session.open", "", &json!({"id": "s1"}), Duration::from_secs(5)).await;
            opened.is_ok_and(|reply| reply.number.is_none()).then_some(())
        })
        .await;
        fleet.ask("lock.acquire", "s1", json!({"owner": "gone", "ttl_ms": 2_000})).await.ok();
        signals.wait_for("s1", "lock.acquired").await;
        fleet.add_coordinator().await.unwrap();
        watching.kill();
        fleet.kill_worker("w1");
        // Nobody asks for the session, and nothing else is written.
        let expired = until("the lock to be freed", Duration::from_secs(40), async || {
            let record = fleet.record("s1").await.unwrap().1;
            record["lock"].is_null().then_some(record["event"]["type"].clone())
        });
        assert_eq!(expired.await, "lock.expired");
    }
}
