//! Those who wait for a lock: their order, their bounds, and what they wait through.

use std::time::{Duration, Instant};

use async_nats::Client;
use futures_util::future::join_all;
use holdfast_tests::fleet::{Fleet, SOON};
use holdfast_tests::server::{own_cluster, shared, shared_cluster};
use holdfast_tests::wait::until;
use serde_json::{Value, json};

/// Sends a request whose answer goes to `reply`, and does not wait for it.
async fn send(client: &Client, subject: String, reply: &str, body: Value) {
    client.publish_with_reply(subject, reply.to_owned(), body.to_string().into()).await.unwrap();
    client.flush().await.unwrap();
}

async fn connect(url: &str) -> Client {
    async_nats::connect(url.split(',').map(str::to_owned).collect::<Vec<_>>()).await.unwrap()
}

async fn fleets() -> [Fleet; 2] {
    let (one, three) = (shared().await.unwrap().url().to_owned(), shared_cluster().await.unwrap().url());
    [Fleet::start(&one).await.unwrap(), Fleet::start(&three).await.unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_goes_past_those_who_are_gone() {
    for fleet in fleets().await {
        let signals = fleet.signals().await.unwrap();
        fleet.open("s1").await;
        let token = fleet.acquire("s1", "holder").await;
        for n in 0..6 {
            let dead = connect(&fleet.url).await;
            let reply = dead.new_inbox();
            let listening = dead.subscribe(reply.clone()).await.unwrap();
            let body = json!({"owner": format!("dead-{n}"), "wait_ms": 60_000});
            send(&dead, fleet.subject("lock.acquire", "s1"), &reply, body).await;
            // A round trip through the coordinator, so that the place in line is taken.
            fleet.ask("session.get", "s1", json!({})).await.ok();
            drop(listening);
            dead.drain().await.unwrap();
        }
        let live = fleet.ask("lock.acquire", "s1", json!({"owner": "live", "wait_ms": 60_000}));
        let begin = Instant::now();
        let (grant, _) = tokio::join!(live, async {
            fleet.ask("lock.release", "s1", json!({"token": token})).await.ok();
        });
        let took = begin.elapsed();
        assert_eq!(grant.ok()["owner"], "live");
        println!("six dead waiters cost a live one {took:?}");
        assert!(took < Duration::from_millis(1_500), "at most 250 ms each: {took:?}");
        signals.wait_for_nth(8, "s1", "lock.acquired").await;
        let history = fleet.stream().await.unwrap();
        let owners: Vec<Value> = history.iter().map(|stored| stored.json()["lock"]["owner"].clone()).collect();
        assert_eq!(owners.last(), Some(&json!("live")), "{owners:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_with_the_same_request_gets_the_lock_that_reached_nobody() {
    for fleet in fleets().await {
        fleet.open("s1").await;
        let nobody = fleet.nats.new_inbox();
        let body = json!({"owner": "a", "request_id": "R1"});
        send(&fleet.nats, fleet.subject("lock.acquire", "s1"), &nobody, body.clone()).await;
        until("the grant to be taken back", SOON, async || {
            let record = fleet.record("s1").await.unwrap().1;
            (record["lock_revision"] == 2 && record["lock"].is_null()).then_some(())
        })
        .await;
        let grant = fleet.ask("lock.acquire", "s1", body).await.ok();
        fleet.ask("lock.validate", "s1", json!({"token": grant["lock_token"]})).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_heard_stays() {
    for fleet in fleets().await {
        fleet.open("s1").await;
        for n in 0..20 {
            let grant = fleet.ask("lock.acquire", "s1", json!({"owner": "a", "wait_ms": 1_000})).await.ok();
            assert_eq!(grant["lock_revision"], 2 * n + 1, "nothing was taken back in between");
            fleet.ask("lock.release", "s1", json!({"token": grant["lock_token"]})).await.ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_does_not_lock_the_others_out() {
    let fleet = Fleet::start(shared().await.unwrap().url()).await.unwrap();
    fleet.open("s1").await;
    fleet.open("s2").await;
    fleet.acquire("s1", "holder").await;
    let other = fleet.acquire("s2", "holder").await;
    // Long enough that all have come before the first one's time is over.
    let flood = |n: u32| fleet.ask("lock.acquire", "s1", json!({"owner": format!("w{n}"), "wait_ms": 8_000}));
    let flooded = join_all((0..4_200).map(flood));
    let waits = async {
        // Whoever waits for another lock has a place.
        let waits = json!({"owner": "other", "wait_ms": 20_000});
        let (grant, _) = tokio::join!(fleet.ask("lock.acquire", "s2", waits), async {
            fleet.ask("lock.release", "s2", json!({"token": other})).await.ok();
        });
        grant.ok()
    };
    let (flooded, grant) = tokio::join!(flooded, waits);
    assert_eq!(grant["owner"], "other");
    let reasons: Vec<String> = flooded.iter().map(|reply| reply.body["error"]["reason"].to_string()).collect();
    let count = |reason: &str| reasons.iter().filter(|found| *found == reason).count();
    assert_eq!((count("\"lock_held\""), count("\"mailbox_full\"")), (512, 4_200 - 512), "{:?}", reasons.first());
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_keep_their_places_while_the_stream_has_no_leader() {
    let mut cluster = own_cluster().await.unwrap();
    let fleet = Fleet::start(&cluster.url()).await.unwrap();
    fleet.open("s1").await;
    let mut token = fleet.acquire("s1", "holder").await;
    let mut waiting = futures_util::stream::FuturesUnordered::new();
    for n in 0..5 {
        let body = json!({"owner": format!("w{n}"), "wait_ms": 60_000});
        let mut next = Box::pin(fleet.ask("lock.acquire", "s1", body));
        assert!(futures_util::poll!(&mut next).is_pending());
        waiting.push(next);
    }
    fleet.ask("session.get", "s1", json!({})).await.ok();
    // Without two of three servers there is no leader; whoever is first in line tries in vain.
    let connected = fleet.nats.server_info().server_name;
    let away: Vec<usize> = (0..3).filter(|n| cluster.servers()[*n].name() != connected).collect();
    for n in &away {
        cluster.servers()[*n].pause().unwrap();
    }
    let refused = async || {
        let body = json!({"owner": "probe", "request_id": "probe"});
        let reply = fleet.try_ask("lock.acquire", "s1", &body, Duration::from_secs(8)).await;
        reply.is_ok_and(|reply| reply.body["error"]["code"] == "unavailable").then_some(())
    };
    let some_time = until("a request to find the storage away", Duration::from_secs(60), refused);
    tokio::select! {
        answer = futures_util::StreamExt::next(&mut waiting) => panic!("a wait ended: {answer:?}"),
        () = some_time => {}
    }
    for n in &away {
        cluster.servers_mut()[*n].resume().unwrap();
    }
    for n in 0..5 {
        let release = json!({"token": token, "request_id": format!("r{n}")});
        until("the lock to be released", SOON, async || {
            let reply = fleet.try_ask("lock.release", "s1", &release, Duration::from_secs(8)).await;
            reply.is_ok_and(|reply| reply.number.is_none()).then_some(())
        })
        .await;
        let next = tokio::time::timeout(SOON, futures_util::StreamExt::next(&mut waiting)).await.unwrap();
        let grant = next.unwrap().ok();
        assert_eq!(grant["owner"], format!("w{n}"), "in order");
        token = grant["lock_token"].as_str().unwrap().to_owned();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_of_a_coordinator_that_leaves_wait_on_at_another_in_order() {
    for mut fleet in fleets().await {
        fleet.open("s1").await;
        let mut token = fleet.acquire("s1", "holder").await;
        let url = fleet.url.clone();
        let client = connect(&url).await;
        let inbox = client.new_inbox();
        let mut own = client.subscribe(format!("{inbox}.*")).await.unwrap();
        for n in 0..4 {
            let body = json!({"owner": format!("w{n}"), "wait_ms": 60_000, "request_id": format!("W{n}")});
            send(&client, fleet.subject("lock.acquire", "s1"), &format!("{inbox}.{n}"), body).await;
            // A round trip through the only coordinator, so that the place in line is taken.
            fleet.ask("session.get", "s1", json!({})).await.ok();
        }
        let leaving = fleet.take_coordinator().unwrap();
        fleet.add_coordinator().await.unwrap();
        leaving.stop(Duration::from_secs(5)).await;
        for n in 0..4 {
            fleet.ask("lock.release", "s1", json!({"token": token})).await.ok();
            let answer = tokio::time::timeout(SOON, futures_util::StreamExt::next(&mut own)).await.unwrap().unwrap();
            let grant: Value = serde_json::from_slice(&answer.payload).unwrap();
            assert_eq!(grant["owner"], format!("w{n}"), "{grant}");
            token = grant["lock_token"].as_str().unwrap().to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_of_the_last_coordinator_is_told_to_ask_again() {
    let mut fleet = Fleet::start(shared().await.unwrap().url()).await.unwrap();
    fleet.open("s1").await;
    fleet.acquire("s1", "holder").await;
    let leaving = fleet.take_coordinator().unwrap();
    let waits = json!({"owner": "w", "wait_ms": 60_000});
    let mut waiting = Box::pin(fleet.ask("lock.acquire", "s1", waits));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    fleet.ask("session.get", "s1", json!({})).await.ok();
    let (answer, ()) = tokio::join!(waiting, leaving.stop(Duration::from_secs(5)));
    answer.refused("busy", "draining");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_where_the_asker_says() {
    let fleet = Fleet::start(shared().await.unwrap().url()).await.unwrap();
    fleet.open("s1").await;
    let (revision, record) = fleet.record("s1").await.unwrap();
    let bucket = fleet.root.sessions_bucket();
    let root = fleet.root.to_string();
    for reply in [
        format!("$KV.{bucket}.default.s1"),
        format!("$JS.API.STREAM.INFO.KV_{bucket}"),
        format!("{root}.log.default.s1"),
        format!("{root}.default.session.close.s1"),
    ] {
        for subject in [
            fleet.subject("session.get", "s1"),
            fleet.subject("doc.get", "s1"),
            fleet.subject("session.frobnicate", "s1"),
            format!("{root}.sys.worker.list"),
            "$SRV.PING".to_owned(),
            "$SRV.INFO.holdfast".to_owned(),
        ] {
            send(&fleet.nats, subject, &reply, json!({})).await;
        }
        send(&fleet.nats, fleet.subject("lock.acquire", "s1"), &reply, json!({"owner": "a"})).await;
    }
    // Requests of one connection come in order, so all of those were looked at.
    fleet.ask("session.get", "s1", json!({})).await.ok();
    fleet.ask("lock.validate", "s1", json!({"token": "t"})).await.refused("conflict", "not_locked");
    assert_eq!(fleet.record("s1").await.unwrap(), (revision, record));
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["revision"], 0);
}
