//! Signals: nothing committed goes unannounced, whatever becomes of the coordinators; and no token is ever in one.

mod check;
mod work;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_tests::fleet::{Fleet, SOON, Signals};
use holdfast_tests::link::Link;
use holdfast_tests::wait::{until, until_ok};
use holdfast_tests::{logs, server};
use serde_json::json;

use work::Work;

/// Two workers, and nobody to answer yet.
async fn workers() -> Fleet {
    let mut fleet = Fleet::empty(server::shared().await.unwrap().url()).await.unwrap();
    fleet.add_worker("w1", &[]).await.unwrap();
    fleet.add_worker("w2", &[]).await.unwrap();
    fleet
}

/// Waits until whoever relays now has announced something. Some coordinator may be gone, with what it was asked.
async fn heard_of(fleet: &Fleet, signals: &Signals) {
    let marker = format!("marker-{}", uuid::Uuid::now_v7());
    let open = json!({"id": marker, "request_id": marker});
    fleet.insist("session.open", "", &open, |_| ()).await.ok();
    signals.wait_for(&marker, "session.opened").await;
}

async fn assert_all_announced(fleet: &Fleet, signals: &Signals, work: &Work) {
    check::every_commit_is_announced(fleet, signals).await;
    check::signals_are_in_commit_order(&signals.all());
    check::changes_of_documents_chain(&signals.all(), &work.changes(), &work.documents(fleet).await);
    check::session_and_lock_signals_are_kept(fleet, signals).await;
    check::no_token_is_anywhere(fleet, signals, work).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_of_many_clients_is_announced_once_in_order_and_without_tokens() {
    logs::keep();
    let mut fleet = workers().await;
    fleet.add_coordinator().await.unwrap();
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    let work = Work::default();
    work.be_done(&fleet, async |_| ()).await;
    assert_all_announced(&fleet, &signals, &work).await;
    let kept = logs::kept();
    assert!(kept.contains("holdfast"), "lines of the run were kept");
    let told = work.tokens().into_iter().find(|token| kept.contains(token.as_str()));
    assert_eq!(told, None, "a log line has a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_unannounced_when_the_coordinator_that_relays_is_stopped() {
    let mut fleet = workers().await;
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    heard_of(&fleet, &signals).await;
    let mut leaving = fleet.take_coordinator().unwrap();
    for _ in 0..2 {
        fleet.add_coordinator().await.unwrap();
    }
    let work = Work::default();
    work.be_done(&fleet, async |fleet| {
        for _ in 0..2 {
            // Whoever is left relays by the time that the next one leaves.
            leaving.stop(Duration::from_secs(5)).await;
            heard_of(fleet, &signals).await;
            leaving = fleet.begin_coordinator().await.unwrap();
        }
        leaving.stop(Duration::from_secs(5)).await;
    })
    .await;
    assert_all_announced(&fleet, &signals, &work).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_unannounced_when_the_coordinator_that_relays_is_killed() {
    let mut fleet = workers().await;
    let link = Link::to(&fleet.url).await.unwrap();
    let relaying = fleet.begin_mortal_coordinator(&link.url()).await.unwrap();
    let signals = fleet.signals().await.unwrap();
    heard_of(&fleet, &signals).await;
    fleet.add_coordinator().await.unwrap();
    let work = Work::default();
    work.be_done(&fleet, async |fleet| {
        until("the relay to be at work", SOON, async || (signals.all().len() > 300).then_some(())).await;
        // It is given what is committed from now on, and nothing that it says of it gets through before it dies.
        link.clog();
        let last = async || fleet.stream().await.unwrap().last().map_or(0, |stored| stored.sequence);
        let given = last().await + 200;
        until("commits that it has in its hands", SOON, async || (last().await >= given).then_some(())).await;
        relaying.kill();
        // The pin runs out, and the other one relays what the dead one had in its hands.
        heard_of(fleet, &signals).await;
    })
    .await;
    assert_all_announced(&fleet, &signals, &work).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compacted_before_it_was_relayed_is_announced_in_commit_order() {
    let mut fleet = workers().await;
    let relaying = fleet.begin_mortal_coordinator(&fleet.url).await.unwrap();
    let signals = fleet.signals().await.unwrap();
    heard_of(&fleet, &signals).await;
    fleet.open("s1").await;
    fleet.add_coordinator().await.unwrap();
    relaying.kill();
    // Until the pin runs out nobody relays. A change of the document comes before one of the lock,
    let edit = json!({"body": "before", "request_id": "before"});
    fleet.insist("doc.edit", "s1", &edit, |_| ()).await.ok();
    let token = fleet.acquire("s1", "holder").await;
    // and a snapshot takes its frame out, and stands further on than the relay takes in one step.
    let open = async |n: usize| fleet.open(&format!("other-{n}")).await;
    join_all((0..300).map(open)).await;
    for n in 0..40 {
        fleet.ask("doc.edit", "s1", json!({"token": token, "body": n.to_string()})).await.ok();
    }
    let log = format!("{}.log.default.s1", fleet.root);
    let frames = fleet.stream().await.unwrap().iter().filter(|stored| stored.subject == log).count();
    assert!(frames < 40, "the log was compacted: {frames} messages");
    heard_of(&fleet, &signals).await;
    check::every_commit_is_announced(&fleet, &signals).await;
    check::signals_are_in_commit_order(&signals.all());
    let of_documents = signals.all().into_iter().filter(|(subject, _)| subject.contains(".s1.doc."));
    let ids: HashSet<String> = of_documents.map(|(_, body)| body["id"].to_string()).collect();
    assert_eq!(ids.len(), 41, "each change has its signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_announced_at_most_ten_times_a_second_and_session() {
    let mut fleet = workers().await;
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    for id in ["s1", "s2"] {
        fleet.open(id).await;
        fleet.acquire(id, "holder").await;
    }
    let begin = Instant::now();
    let rival = async |n: usize| {
        for id in ["s1", "s2"].repeat(10) {
            let acquire = json!({"owner": format!("rival-{n}"), "actor": "tester", "request_id": format!("r{n}")});
            fleet.ask("lock.acquire", id, acquire).await.refused("conflict", "lock_held");
        }
    };
    join_all((0..32).map(rival)).await;
    let seconds = begin.elapsed().as_secs() as usize + 1;
    fleet.all_announced(&signals).await;
    for id in ["s1", "s2"] {
        let conflicts: Vec<_> = signals
            .all()
            .into_iter()
            .filter(|(subject, _)| subject.ends_with(&format!(".signal.{id}.lock.conflict")))
            .collect();
        assert!((10..=10 * seconds).contains(&conflicts.len()), "{} within {seconds} s of 320", conflicts.len());
        let data = &conflicts[0].1["data"];
        assert_eq!(
            (&data["owner"], &data["reason"], &data["actor"]),
            (&json!("holder"), &json!("lock_held"), &json!("tester"))
        );
        assert!(data["requested_owner"].as_str().unwrap().starts_with("rival-"), "{data}");
        assert!(conflicts[0].1["correlationid"].as_str().unwrap().starts_with('r'));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_a_document_goes_unannounced_when_the_relays_connection_is_cut() {
    logs::keep();
    let mut fleet = workers().await;
    let link = Link::to(&fleet.url).await.unwrap();
    let relaying = fleet.begin_mortal_coordinator(&link.url()).await.unwrap();
    let signals = fleet.signals().await.unwrap();
    heard_of(&fleet, &signals).await;
    fleet.add_coordinator().await.unwrap();
    // Many at once, since whoever asks the coordinator behind the link waits while that is clogged.
    let numbers = 0..12_usize;
    join_all(numbers.clone().map(async |n| drop(fleet.open(&format!("edited-{n}")).await))).await;
    let is_over = AtomicBool::new(false);
    let edits = join_all(numbers.clone().map(async |session| {
        let mut n = 0_u64;
        while !is_over.load(Ordering::Relaxed) {
            n += 1;
            let edit = json!({"body": n.to_string(), "request_id": format!("edit-{session}-{n}")});
            fleet.insist("doc.edit", &format!("edited-{session}"), &edit, |_| ()).await.ok();
        }
        n
    }));
    // Signals that are kept are asked for again, so that the step goes on after the cut and is acknowledged.
    let opens = join_all(numbers.map(async |session| {
        for n in 0.. {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let open = json!({"id": format!("opened-{session}-{n}"), "request_id": format!("open-{session}-{n}")});
            fleet.insist("session.open", "", &open, |_| ()).await.ok();
        }
    }));
    let last = async || fleet.stream().await.unwrap().last().map_or(0, |stored| stored.sequence);
    let cuts = async {
        for _ in 0..4 {
            let given = last().await + 40;
            until("commits", SOON, async || (last().await >= given).then_some(())).await;
            link.clog();
            let given = last().await + 8;
            until("commits while it is clogged", SOON, async || (last().await >= given).then_some(())).await;
            link.cut();
            link.clear();
            heard_of(&fleet, &signals).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (made, _, ()) = tokio::join!(edits, opens, cuts);
    for (session, made) in made.into_iter().enumerate() {
        let missing = async || {
            let all = signals.all().into_iter();
            let mine = all.filter(|(subject, _)| subject.ends_with(&format!(".edited-{session}.doc.edited")));
            let heard: HashSet<u64> = mine.filter_map(|(_, body)| body["data"]["revision"].as_u64()).collect();
            (1..=made).find(|revision| !heard.contains(revision)).map_or(Ok(()), |missing| Err(missing.to_string()))
        };
        until_ok(&format!("all {made} changes of session {session} to be announced"), SOON, missing).await;
    }
    assert!(logs::kept().contains("published again"), "a connection was cut with signals on it");
    relaying.kill();
}
