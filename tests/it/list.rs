//! `session.list` while sessions are opened, locked and closed: no page names a session twice, none that stays is left out,
//! and the cursor is told apart from anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use holdfast_tests::fleet::Fleet;
use holdfast_tests::server;
use serde_json::{Value, json};

/// Sessions that stay.
const STAY: usize = 60;

/// All pages of one listing.
async fn pages(fleet: &Fleet, mut request: Value) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    loop {
        let page = fleet.ask("session.list", "", request.clone()).await.ok();
        let sessions = page["sessions"].as_array().unwrap();
        pages.push(sessions.iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect());
        if page["next"].is_null() {
            return pages;
        }
        assert!(pages.len() < 1_000, "the listing ends: {} {:?}", request, &pages[pages.len() - 30..]);
        request["after"] = page["next"].clone();
    }
}

fn assert_whole(pages: &[Vec<String>]) {
    for page in pages {
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        page.iter().for_each(|id| *times.entry(id).or_default() += 1);
        assert_eq!(times.iter().find(|(_, times)| **times > 1), None, "named twice in one page");
    }
    let all: BTreeSet<&str> = pages.iter().flatten().map(String::as_str).collect();
    let missing = (0..STAY).map(|n| format!("stays-{n}")).find(|id| !all.contains(id.as_str()));
    assert_eq!(missing, None, "left out");
}

async fn list_while_everything_changes(fleet: &Fleet, listings: usize) {
    join_all((0..STAY).map(|n| async move { fleet.open(&format!("stays-{n}")).await })).await;
    let is_over = AtomicBool::new(false);
    let others = async {
        for n in 0.. {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let id = format!("comes-{n}");
            fleet.open(&id).await;
            let locked = format!("stays-{}", 1 + n % (STAY - 1));
            let token = fleet.acquire(&locked, "a").await;
            fleet.ask("lock.release", &locked, json!({"token": token})).await.ok();
            fleet.ask("session.close", &id, json!({})).await.ok();
        }
    };
    let hot = async {
        while !is_over.load(Ordering::Relaxed) {
            let token = fleet.acquire("stays-0", "a").await;
            fleet.ask("lock.release", "stays-0", json!({"token": token})).await.ok();
        }
    };
    let lister = async {
        for n in 0..listings {
            let limit = [1000, 100, 7, 1][n % 4];
            assert_whole(&pages(fleet, json!({"limit": limit})).await);
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(others, hot, lister);
    let pages = pages(fleet, json!({"limit": 7})).await;
    assert_whole(&pages);
    assert_eq!(pages.iter().flatten().count(), STAY, "each once when nothing changes, and none that was closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_whole_while_sessions_are_opened_locked_and_closed() {
    let fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    list_while_everything_changes(&fleet, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_whole_on_three_servers_whichever_replica_is_asked() {
    let fleet = Fleet::start(&server::shared_cluster().await.unwrap().url()).await.unwrap();
    list_while_everything_changes(&fleet, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_opened_a_moment_before_is_in_the_list() {
    // A replica may not have it yet, and one that has it may be asked next.
    let fleet = Fleet::start(&server::shared_cluster().await.unwrap().url()).await.unwrap();
    for n in 0..100 {
        let id = format!("s{n}");
        fleet.open(&id).await;
        let listed = pages(&fleet, json!({"limit": 1000})).await;
        assert!(listed.iter().flatten().any(|listed| *listed == id), "{id} of {listed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_no_cursor() {
    let fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    fleet.open("s1").await;
    let reply = fleet.ask("session.list", "", json!({"after": "s1"})).await;
    assert_eq!(reply.body["error"]["details"]["field"], "after", "{}", reply.body);
    reply.refused("invalid_params", "bad_value");
    let beyond =
        fleet.ask("session.list", "", json!({"after": "18446744073709551615.18446744073709551615.7.1"})).await.ok();
    assert_eq!(beyond, json!({"sessions": [], "next": null}));
}
