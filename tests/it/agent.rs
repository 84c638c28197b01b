//! What an agent owes to its session's holder, to earlier and later lives of the session, and to whoever reads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_tests::fleet::{Fleet, SOON};
use holdfast_tests::link::Link;
use holdfast_tests::server;
use holdfast_tests::wait::until;
use serde_json::{Value, json};

async fn fleet() -> Fleet {
    Fleet::start(server::shared().await.unwrap().url()).await.unwrap()
}

/// Says on every subject of an agent what a coordinator would say, without one.
async fn ask_agent(fleet: &Fleet, owner: &Value, id: &str, call: &str, body: &Value) -> async_nats::Message {
    let (worker, boot) = (owner["worker"].as_str().unwrap(), owner["boot"].as_str().unwrap());
    let subject = format!("{}.sys.agent.{worker}.{boot}.default.{id}.{call}", fleet.root);
    let request = async_nats::Request::new().payload(body.to_string().into()).timeout(Some(Duration::from_secs(10)));
    fleet.nats.send_request(subject, request).await.unwrap()
}

fn is_moved(answer: &async_nats::Message) -> bool {
    answer.headers.as_ref().is_some_and(|headers| headers.get("Hf-Moved").is_some())
}

async fn frames(fleet: &Fleet, id: &str) -> usize {
    let log = format!("{}.log.default.{id}", fleet.root);
    fleet.stream().await.unwrap().iter().filter(|stored| stored.subject == log).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_keeps_its_lock_under_floods_of_what_others_ask() {
    let fleet = fleet().await;
    fleet.open("hot").await;
    let grant = fleet.ask("lock.acquire", "hot", json!({"owner": "holder", "ttl_ms": 2_000})).await.ok();
    let token = grant["lock_token"].as_str().unwrap();
    let is_over = AtomicBool::new(false);
    let large = "x".repeat(200_000);
    let others = (0..120).map(async |n: usize| {
        let mut heard = 0_usize;
        while !is_over.load(Ordering::Relaxed) {
            let (verb, body) = match n % 4 {
                0 => ("lock.acquire", json!({"owner": format!("other-{n}"), "ttl_ms": 2_000})),
                1 => ("doc.get", json!({"consistency": "linearizable"})),
                2 => ("doc.edit", json!({"body": large})),
                _ => ("lock.renew", json!({"token": format!("of-{n}")})),
            };
            fleet.ask(verb, "hot", body).await;
            heard += 1;
        }
        heard
    });
    let holder = async {
        let (began, mut renewed) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(6) {
            let reply = fleet.ask("lock.renew", "hot", json!({"token": token})).await.ok();
            assert_eq!(reply["lock_revision"], 1, "after {renewed} renewals");
            renewed += 1;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        is_over.store(true, Ordering::Relaxed);
        renewed
    };
    let (heard, renewed) = tokio::join!(join_all(others), holder);
    println!("{renewed} renewals beside {} requests of others", heard.iter().sum::<usize>());
    fleet.ask("doc.edit", "hot", json!({"token": token, "body": "still mine"})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_copy_of_an_edit_of_an_earlier_life_gets_its_first_answer_and_changes_nothing() {
    let fleet = fleet().await;
    fleet.open("s1").await;
    let edit = json!({"body": "of the first life", "request_id": "e1"});
    let first = fleet.ask("doc.edit", "s1", edit.clone()).await.ok();
    fleet.ask("session.close", "s1", json!({})).await.ok();
    fleet.ask("doc.edit", "s1", edit.clone()).await.refused("not_found", "no_session");
    fleet.open("s1").await;
    assert_eq!(fleet.ask("doc.edit", "s1", edit.clone()).await.ok(), first);
    for n in 0..80 {
        fleet.ask("doc.edit", "s1", json!({"body": n.to_string()})).await.ok();
    }
    assert_eq!(fleet.ask("doc.edit", "s1", edit).await.ok(), first);
    let document = fleet.ask("doc.get", "s1", json!({})).await.ok();
    assert_eq!((&document["body"], &document["revision"]), (&json!("79"), &json!(80)));
}

async fn failovers_leave_a_log_as_it_is(url: &str) {
    let mut fleet = Fleet::start(url).await.unwrap();
    fleet.add_worker("w2", &[]).await.unwrap();
    fleet.open("s1").await;
    for n in 0..25 {
        fleet.ask("doc.edit", "s1", json!({"splices": [{"at": 0, "delete": 0, "insert": format!("{n} ")}]})).await.ok();
    }
    let before = fleet.ask("doc.get", "s1", json!({})).await.ok();
    assert_eq!(frames(&fleet, "s1").await, 25);
    // Nobody hands over: the record is given to the other worker over the owner's head.
    for failover in 0..10 {
        let (revision, mut record) = fleet.record("s1").await.unwrap();
        let listed = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
        let workers = listed["workers"].as_array().unwrap();
        let next = workers.iter().find(|worker| worker["worker"] != record["owner"]["worker"]).unwrap();
        (record["owner"]["worker"], record["owner"]["boot"]) = (next["worker"].clone(), next["boot"].clone());
        record["owner"]["activation"] = json!(uuid::Uuid::now_v7());
        fleet.edit_record("s1", revision, record.to_string().into_bytes()).await.unwrap();
        let read = ask_agent(&fleet, &record["owner"], "s1", "doc.get", &json!({})).await;
        let read: Value = serde_json::from_slice(&read.payload).unwrap();
        assert_eq!(read, before, "after failover {failover}");
    }
    assert_eq!(frames(&fleet, "s1").await, 25, "to read a log takes no frame");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_of_failovers_makes_a_log_longer() {
    failovers_leave_a_log_as_it_is(server::shared().await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_of_failovers_makes_a_log_longer_on_three_nodes() {
    failovers_leave_a_log_as_it_is(&server::shared_cluster().await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_cut_off_answers_no_read_of_a_session_that_moved() {
    let mut fleet = Fleet::empty(server::shared().await.unwrap().url()).await.unwrap();
    let link = Link::to(&fleet.url).await.unwrap();
    fleet.add_worker_at(&link.url(), "w1", &[]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet.open("s1").await;
    fleet.ask("doc.edit", "s1", json!({"body": "old"})).await.ok();
    let (_, record) = fleet.record("s1").await.unwrap();
    assert_eq!(record["owner"]["worker"], "w1");
    fleet.add_worker("w2", &[]).await.unwrap();
    link.clog();
    let edit = json!({"body": "new", "request_id": "e2"});
    fleet.insist("doc.edit", "s1", &edit, |_| ()).await.ok();
    until("the worker to be away for longer than its lease", Duration::from_secs(60), async || {
        let leases = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
        (!leases.to_string().contains("\"w1\"")).then_some(())
    })
    .await;
    link.clear();
    until("the worker to be back", SOON, async || {
        let leases = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
        leases.to_string().contains("\"w1\"").then_some(())
    })
    .await;
    // As one asks whose cache still says that it owns the session.
    for _ in 0..5 {
        let read = ask_agent(&fleet, &record["owner"], "s1", "doc.get", &json!({})).await;
        let text = String::from_utf8_lossy(&read.payload).into_owned();
        assert!(is_moved(&read) || text.contains("lease_lost"), "{text}");
    }
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["body"], "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_opens_and_closes_while_the_relay_stands_still_is_announced_in_full() {
    let mut fleet = Fleet::empty(server::shared().await.unwrap().url()).await.unwrap();
    fleet.add_worker("w1", &[]).await.unwrap();
    let relaying = fleet.begin_mortal_coordinator(&fleet.url).await.unwrap();
    let signals = fleet.signals().await.unwrap();
    fleet.open("first").await;
    signals.wait_for("first", "session.opened").await;
    fleet.add_coordinator().await.unwrap();
    relaying.kill();
    // Until the pin runs out nobody relays.
    let (mut opened, mut closed) = (0, 0);
    for n in 0..60 {
        let open = json!({"id": "s1", "request_id": format!("o{n}")});
        fleet.insist("session.open", "", &open, |_| ()).await.ok();
        opened += 1;
        fleet.insist("session.close", "s1", &json!({"request_id": format!("c{n}")}), |_| ()).await.ok();
        closed += 1;
    }
    fleet.all_announced(&signals).await;
    let events = signals.events_of("s1");
    let count = |name: &str| events.iter().filter(|event| *event == name).count();
    assert_eq!((count("session.opened"), count("session.closed")), (opened, closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_refused_by_an_agent_without_being_read() {
    let fleet = fleet().await;
    fleet.open("s1").await;
    let (_, record) = fleet.record("s1").await.unwrap();
    let large = json!({"body": "x".repeat(1024 * 1024)});
    let answer = ask_agent(&fleet, &record["owner"], "s1", "doc.edit", &large).await;
    let error: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(error["error"]["reason"], "request_too_large");
}
