//! After a takeover is acknowledged, no write with the old token is ever accepted: on one server and on a cluster,
//! under contention, checked by reading the stream back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_tests::fleet::{Fleet, SOON, Stored};
use holdfast_tests::server;
use holdfast_tests::wait::until;
use serde_json::json;

/// How many takeovers a run has.
const TAKEOVERS: u64 = 40;
/// How many clients write under the current token at once.
const WRITERS: usize = 8;

async fn contend(mut fleet: Fleet) {
    fleet.add_coordinator().await.unwrap();
    fleet.add_worker("w2", &[]).await.unwrap();
    let fleet = fleet;
    fleet.ask("session.open", "", json!({"id": "s1", "config": {"lock": "required"}})).await.ok();
    let token = tokio::sync::watch::Sender::new((1_u64, fleet.acquire("s1", "first").await));
    let (over, accepted) = (AtomicBool::new(false), AtomicUsize::new(0));

    // Writers write the lock revision of the token that they show, so that the stream tells which was used.
    let writer = async |writer: usize| {
        while !over.load(Ordering::Relaxed) {
            let (lock_revision, shown) = token.borrow().clone();
            let insert = format!("<{lock_revision}>");
            let edit = json!({"token": shown, "actor": format!("writer-{writer}"),
                              "splices": [{"at": 0, "delete": 0, "insert": insert}]});
            let reply = fleet.ask("doc.edit", "s1", edit).await;
            if reply.number.is_none() {
                accepted.fetch_add(1, Ordering::Relaxed);
            } else {
                reply.refused("conflict", "stale_token");
            }
        }
    };
    let operator = async {
        for n in 0..TAKEOVERS {
            let taken =
                fleet.ask("admin.takeover", "s1", json!({"owner": format!("ops-{n}"), "reason": "test"})).await.ok();
            let lock_revision = taken["lock_revision"].as_u64().unwrap();
            token.send_replace((lock_revision, taken["lock_token"].as_str().unwrap().to_owned()));
            tokio::time::sleep(Duration::from_millis(3)).await; // The writers' turn; nothing is asserted on it.
            if n % 8 == 0 {
                // However slow they are, they get theirs now and then.
                let enough = accepted.load(Ordering::Relaxed) + 5;
                let wrote = async || (accepted.load(Ordering::Relaxed) >= enough).then_some(());
                until("the writers to write", SOON, wrote).await;
            }
        }
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(join_all((0..WRITERS).map(writer)), operator);
    let accepted = accepted.into_inner();
    assert!(accepted > 20, "the writers were there: {accepted} edits");

    let document = fleet.ask("doc.get", "s1", json!({"consistency": "linearizable"})).await.ok();
    let body = document["body"].as_str().unwrap();
    assert_eq!(body.matches('<').count(), accepted, "each acknowledged edit is there once, and no other");
    // Read from the right, the lock revisions that the edits were made under never fall.
    let revisions: Vec<u64> =
        body.split(['<', '>']).filter(|part| !part.is_empty()).map(|part| part.parse().unwrap()).collect();
    assert!(revisions.is_sorted_by(|newer, older| newer >= older), "an old token wrote after a new one: {revisions:?}");
    assert_no_stale_frame(&fleet.stream().await.unwrap());
}

/// In commit order: behind a record with lock revision n there is no op under another one.
fn assert_no_stale_frame(stream: &[Stored]) {
    let mut current = 0;
    for stored in stream {
        let json = stored.json();
        if stored.subject.starts_with("$KV.") {
            current = json["lock_revision"].as_u64().unwrap_or(current);
            continue;
        }
        for op in json["ops"].as_array().into_iter().flatten() {
            let Some(insert) = op["change"]["step"]["splices"][0]["insert"].as_str() else { continue };
            assert_eq!(insert, format!("<{current}>"), "sequence {} is stale: {}", stored.sequence, op);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_takeover_no_old_token_writes_on_one_server() {
    contend(Fleet::start(server::shared().await.unwrap().url()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_takeover_no_old_token_writes_on_a_cluster_of_three() {
    contend(Fleet::start(&server::shared_cluster().await.unwrap().url()).await.unwrap()).await;
}
