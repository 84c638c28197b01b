//! `session.list` while sessions are opened, locked and closed: no page names a session twice, none that stays is left
//! out, and the cursor is told apart from anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use holdfast_tests::fleet::{Fleet, Reply};
use holdfast_tests::server;
use serde_json::{Value, json};

/// Sessions that stay.
const STAY: usize = 60;

/// Asks until it is answered, however slow the machine is just now.
async fn insist(fleet: &Fleet, verb: &str, id: &str, mut body: Value) -> Value {
    body["request_id"] = json!(uuid::Uuid::now_v7().to_string());
    fleet.insist(verb, id, &body, |_| ()).await.ok()
}

async fn open(fleet: &Fleet, id: &str) {
    insist(fleet, "session.open", "", json!({"id": id})).await;
}

async fn lock_and_free(fleet: &Fleet, id: &str) {
    let grant = insist(fleet, "lock.acquire", id, json!({"owner": "a"})).await;
    insist(fleet, "lock.release", id, json!({"token": grant["lock_token"]})).await;
}

/// All pages of one listing.
async fn pages(fleet: &Fleet, mut request: Value) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    loop {
        let page = insist(fleet, "session.list", "", request.clone()).await;
        let sessions = page["sessions"].as_array().unwrap();
        pages.push(sessions.iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect());
        if page["next"].is_null() {
            return pages;
        }
        let last = &pages[pages.len().saturating_sub(30)..];
        assert!(pages.len() < 1_000, "the listing ends: {request} {last:?}");
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
    join_all((0..STAY).map(|n| async move { open(fleet, &format!("stays-{n}")).await })).await;
    let is_over = AtomicBool::new(false);
    let others = async {
        for n in 0.. {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let id = format!("comes-{n}");
            open(fleet, &id).await;
            lock_and_free(fleet, &format!("stays-{}", 1 + n % (STAY - 1))).await;
            insist(fleet, "session.close", &id, json!({})).await;
        }
    };
    let hot = async {
        while !is_over.load(Ordering::Relaxed) {
            lock_and_free(fleet, "stays-0").await;
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
    list_while_everything_changes(&fleet, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_whole_on_three_servers_whichever_replica_is_asked() {
    let fleet = Fleet::start(&server::shared_cluster().await.unwrap().url()).await.unwrap();
    list_while_everything_changes(&fleet, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_opened_a_moment_before_is_in_the_list() {
    // A replica may not have it yet, and one that has it may be asked next.
    let fleet = Fleet::start(&server::shared_cluster().await.unwrap().url()).await.unwrap();
    for n in 0..40 {
        let id = format!("s{n}");
        open(&fleet, &id).await;
        let listed = pages(&fleet, json!({"limit": 1000})).await;
        assert!(listed.iter().flatten().any(|listed| *listed == id), "{id} of {listed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_next_of_this_listing_is_refused() {
    let fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    for id in ["s1", "s2", "s3"] {
        open(&fleet, id).await;
    }
    let first = insist(&fleet, "session.list", "", json!({"limit": 1})).await;
    let next = first["next"].as_str().unwrap();
    let rest = insist(&fleet, "session.list", "", json!({"after": next})).await;
    assert_eq!(rest["sessions"].as_array().unwrap().len(), 2, "{rest}");
    let refused = async |body: Value| {
        let reply = fleet.ask("session.list", "", body.clone()).await;
        assert_eq!(reply.body["error"]["details"]["field"], "after", "{body}: {}", reply.body);
        reply.refused("invalid_params", "bad_value");
    };
    let max = u64::MAX;
    for after in ["s1", "", "0", "-1.9.0.0", "0.9.0.0", &format!("{max}.{max}.7.1"), &"9".repeat(500_000)] {
        refused(json!({"after": after})).await;
        refused(json!({"after": format!("{after}.{next}")})).await;
        refused(json!({"after": format!("{next}.{after}")})).await;
    }
    refused(json!({"after": next, "state": "active"})).await;
    refused(json!({"after": next, "worker": "w1"})).await;
    let elsewhere = format!("{}.other.session.list", fleet.root);
    let reply = fleet.ask_raw(&elsewhere, json!({"after": next}).to_string().into_bytes()).await;
    reply.refused("invalid_params", "bad_value");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_and_the_smallest_pages_go_through_a_namespace_of_many() {
    let mut fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    fleet.add_worker("w2", &[]).await.unwrap();
    for begin in [0, 150] {
        join_all((begin..begin + 150).map(async |n| open(&fleet, &format!("s{n}")).await)).await;
    }
    for id in ["s5", "s133", "s299"] {
        insist(&fleet, "session.close", id, json!({})).await;
    }
    let all = |pages: Vec<Vec<String>>| pages.into_iter().flatten().collect::<Vec<_>>();
    for limit in [1, 1000] {
        let mut closed = all(pages(&fleet, json!({"state": "closed", "limit": limit})).await);
        closed.sort_unstable();
        assert_eq!(closed, ["s133", "s299", "s5"], "limit {limit}");
    }
    let many = join_all((0..200).map(|_| fleet.ask("session.list", "", json!({"state": "closed"})))).await;
    // Many at once take turns: each comes some way, or is told to come again.
    let (busy, came): (Vec<_>, Vec<_>) = many.into_iter().partition(|page| page.number.is_some());
    assert!(came.len() >= 16, "{} pages", came.len());
    for page in came.into_iter().map(Reply::ok) {
        assert!(page["next"].is_string() || page["sessions"].as_array().unwrap().len() == 3, "{page}");
    }
    for page in busy {
        page.refused("busy", "mailbox_full");
    }
    let on = async |worker: &str| all(pages(&fleet, json!({"worker": worker, "limit": 50})).await).len();
    assert_eq!(on("w1").await + on("w2").await, 297);
    let listed = pages(&fleet, json!({"limit": 1})).await;
    assert_eq!(all(listed).len(), 297);
}
