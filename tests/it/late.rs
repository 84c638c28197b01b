//! Late copies of requests: one that took effect once takes no second effect, at whichever coordinator it arrives.

use holdfast_tests::fleet::Fleet;
use holdfast_tests::server::{shared, shared_cluster};
use serde_json::{Value, json};

/// How often a copy is sent, so that each of three coordinators gets some.
const COPIES: usize = 12;

async fn fleet(url: &str) -> Fleet {
    let mut fleet = Fleet::start(url).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet
}

async fn fleets() -> [Fleet; 2] {
    let (one, three) = (shared().await.unwrap().url().to_owned(), shared_cluster().await.unwrap().url());
    [fleet(&one).await, fleet(&three).await]
}

async fn revision(fleet: &Fleet, id: &str) -> u64 {
    fleet.record(id).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_acquire_gets_its_first_grant_and_takes_nothing() {
    for fleet in fleets().await {
        fleet.open("s1").await;
        let acquire = json!({"owner": "a", "request_id": "R1"});
        let first = fleet.ask("lock.acquire", "s1", acquire.clone()).await.ok();
        fleet.ask("lock.release", "s1", json!({"token": first["lock_token"]})).await.ok();
        let freed = revision(&fleet, "s1").await;
        for _ in 0..COPIES {
            assert_eq!(fleet.ask("lock.acquire", "s1", acquire.clone()).await.ok(), first);
        }
        assert_eq!(revision(&fleet, "s1").await, freed, "after a release");
        let taken = fleet.ask("admin.takeover", "s1", json!({"owner": "ops", "reason": "r"})).await.ok();
        let waits = json!({"owner": "a", "request_id": "R1", "wait_ms": 2_000});
        assert_eq!(fleet.ask("lock.acquire", "s1", waits).await.ok(), first, "one that waits finds it out too");
        fleet
            .ask("lock.validate", "s1", json!({"token": first["lock_token"]}))
            .await
            .refused("conflict", "stale_token");
        fleet.ask("lock.validate", "s1", json!({"token": taken["lock_token"]})).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_client_went_on_elsewhere_takes_nothing_when_its_turn_comes() {
    for fleet in fleets().await {
        fleet.open("s1").await;
        let token = fleet.acquire("s1", "first").await;
        // Each coordinator has some copies in line.
        let acquire = json!({"owner": "a", "request_id": "R1", "wait_ms": 20_000});
        let copies =
            futures_util::future::join_all((0..COPIES).map(|_| fleet.ask("lock.acquire", "s1", acquire.clone())));
        let rest = async {
            let waits = json!({"owner": "b", "request_id": "R2", "wait_ms": 20_000});
            let other = fleet.ask("lock.acquire", "s1", waits);
            let release = fleet.ask("lock.release", "s1", json!({"token": token}));
            (other, release.await.ok()).0.await.ok()
        };
        let release_a = async {
            let signal = async || fleet.record("s1").await.unwrap().1["lock"]["owner"] == "a";
            holdfast_tests::wait::until("a to have the lock", holdfast_tests::fleet::SOON, async || {
                signal().await.then_some(())
            })
            .await;
            let again = fleet.ask("lock.acquire", "s1", json!({"owner": "a", "request_id": "R1"})).await.ok();
            fleet.ask("lock.release", "s1", json!({"token": again["lock_token"]})).await.ok();
            again
        };
        let (copies, other, first) = tokio::join!(copies, rest, release_a);
        for copy in copies {
            assert_eq!(copy.ok(), first, "each copy gets the one grant");
        }
        assert_eq!(other["owner"], "b");
        assert_eq!(fleet.record("s1").await.unwrap().1["lock"]["owner"], "b", "nobody took it from b");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_open_does_not_bring_a_closed_session_back() {
    for fleet in fleets().await {
        for mode in ["create", "ensure"] {
            let open = json!({"id": mode, "mode": mode, "request_id": format!("O-{mode}")});
            assert_eq!(fleet.ask("session.open", "", open.clone()).await.ok()["created"], true);
            assert_eq!(fleet.ask("session.open", "", open.clone()).await.ok()["created"], true, "a retry");
            fleet.ask("session.close", mode, json!({})).await.ok();
            let closed = revision(&fleet, mode).await;
            for _ in 0..COPIES {
                fleet.ask("session.open", "", open.clone()).await.refused("not_found", "no_session");
            }
            assert_eq!(revision(&fleet, mode).await, closed);
            // Somebody else opens it; the late copy is no opener of that one either.
            assert_eq!(fleet.open(mode).await["created"], true);
            fleet.ask("session.open", "", open.clone()).await.refused("not_found", "no_session");
        }
        let fresh = json!({"request_id": "O-fresh"});
        let opened = fleet.ask("session.open", "", fresh.clone()).await.ok();
        fleet.ask("session.close", opened["id"].as_str().unwrap(), json!({})).await.ok();
        fleet.ask("session.open", "", fresh).await.refused("not_found", "no_session");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_close_leaves_a_session_alone_that_was_opened_after_it() {
    for fleet in fleets().await {
        let close = json!({"request_id": "C1"});
        // All coordinators have seen the first session.
        fleet.open("s1").await;
        for _ in 0..COPIES {
            fleet.ask("doc.get", "s1", json!({})).await.ok();
        }
        let closed: Value = fleet.ask("session.close", "s1", close.clone()).await.ok();
        fleet.open("s1").await;
        fleet.ask("doc.edit", "s1", json!({"body": "kept"})).await.ok();
        for _ in 0..COPIES {
            assert_eq!(fleet.ask("session.close", "s1", close.clone()).await.ok(), closed);
        }
        assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["body"], "kept");
        fleet.ask("session.close", "s1", json!({"request_id": "C2"})).await.ok();
        fleet.ask("session.close", "s1", json!({"request_id": "C3"})).await.refused("not_found", "no_session");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fences_rise_over_release_takeover_close_and_removal() {
    for fleet in fleets().await {
        let mut fences = Vec::new();
        for round in 0..3 {
            fleet.open("s1").await;
            for owner in ["a", "b"] {
                let acquire = json!({"owner": owner, "request_id": format!("{owner}{round}")});
                let grant = fleet.ask("lock.acquire", "s1", acquire.clone()).await.ok();
                assert_eq!(
                    fleet.ask("lock.acquire", "s1", acquire).await.ok()["fence"],
                    grant["fence"],
                    "the same grant"
                );
                assert_eq!(fleet.ask("session.get", "s1", json!({})).await.ok()["lock"]["fence"], grant["fence"]);
                fences.push(grant["fence"].as_u64().unwrap());
                let rotate = json!({"owner": owner, "expected_token": grant["lock_token"], "rotate": true});
                let rotated = fleet.ask("lock.acquire", "s1", rotate).await.ok();
                fences.push(rotated["fence"].as_u64().unwrap());
                let taken = fleet.ask("admin.takeover", "s1", json!({"owner": "ops", "reason": "r"})).await.ok();
                fences.push(taken["fence"].as_u64().unwrap());
                fleet.ask("lock.release", "s1", json!({"token": taken["lock_token"]})).await.ok();
            }
            fleet.ask("session.close", "s1", json!({})).await.ok();
            if round == 1 {
                fleet.delete_record("s1", "PURGE").await.unwrap();
            }
        }
        assert!(fences.is_sorted_by(|earlier, later| earlier < later), "{fences:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_copy_of_a_drain_does_not_empty_a_worker_again() {
    for mut fleet in fleets().await {
        fleet.add_worker("w2", &[]).await.unwrap();
        let signals = fleet.signals().await.unwrap();
        fleet.open("s1").await;
        fleet.ask("admin.move", "s1", json!({"worker": "w1", "reason": "test"})).await.ok();
        let ask = async |verb: &str, body: &Value| {
            let subject = format!("{}.sys.worker.{verb}.w1", fleet.root);
            fleet.ask_raw(&subject, body.to_string().into_bytes()).await.ok()
        };
        let drain = json!({"reason": "new disk", "actor": "oncall", "request_id": "D1"});
        let first = ask("drain", &drain).await;
        holdfast_tests::wait::until("the worker to be empty", holdfast_tests::fleet::SOON, async || {
            (fleet.sessions_on("w1") == 0).then_some(())
        })
        .await;
        holdfast_tests::wait::until(
            "the move to be announced with who asked",
            holdfast_tests::fleet::SOON,
            async || {
                let is_it = |body: &Value| body["data"]["reason"] == "new disk" && body["data"]["actor"] == "oncall";
                signals.all().iter().any(|(_, body)| is_it(body)).then_some(())
            },
        )
        .await;
        ask("undrain", &json!({"reason": "done", "request_id": "U1"})).await;
        for _ in 0..COPIES {
            assert_eq!(ask("drain", &drain).await, first);
        }
        let listed = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
        assert_eq!(listed["workers"][0]["state"], "ready");
        fleet.ask("admin.move", "s1", json!({"worker": "w1", "reason": "back"})).await.ok();

        let reclaim = json!({"max_idle_ms": 0, "request_id": "R1"});
        assert_eq!(fleet.ask("admin.reclaim", "", reclaim.clone()).await.ok()["reclaimed"], json!(["s1"]));
        fleet.ask("doc.get", "s1", json!({})).await.ok();
        for _ in 0..COPIES {
            assert_eq!(fleet.ask("admin.reclaim", "", reclaim.clone()).await.ok()["reclaimed"], json!(["s1"]));
        }
        assert_eq!(fleet.record("s1").await.unwrap().1["state"], "active", "it was reclaimed once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_drains_and_reclaims_do_nothing_to_processes_that_came_later() {
    for mut fleet in fleets().await {
        let drain = json!({"reason": "new disk", "request_id": "D1"}).to_string().into_bytes();
        let subject = format!("{}.sys.worker.drain.w1", fleet.root);
        let drained = fleet.ask_raw(&subject, drain.clone()).await.ok();
        let reclaim = json!({"max_idle_ms": 0, "request_id": "R1"});
        let reclaimed = fleet.ask("admin.reclaim", "", reclaim.clone()).await.ok();
        fleet.stop_worker("w1").await;
        fleet.add_worker("w1", &[]).await.unwrap();
        let ends = json!({"id": "s1", "config": {"on_idle": "close"}});
        fleet.ask("session.open", "", ends).await.ok();
        // A coordinator that has not read the new lease yet gave it to the process that has ended; this moves it on.
        fleet.ask("doc.get", "s1", json!({})).await.ok();
        for _ in 0..COPIES {
            assert_eq!(fleet.ask_raw(&subject, drain.clone()).await.ok(), drained);
            assert_eq!(fleet.ask("admin.reclaim", "", reclaim.clone()).await.ok(), reclaimed);
        }
        let listed = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
        assert_eq!((&listed["workers"][0]["worker"], &listed["workers"][0]["state"]), (&json!("w1"), &json!("ready")));
        assert_eq!(fleet.record("s1").await.unwrap().1["state"], "active");
        let other = json!({"max_idle_ms": 0, "request_id": "R2"});
        assert_eq!(fleet.ask("admin.reclaim", "", other).await.ok()["reclaimed"], json!(["s1"]));
    }
}
