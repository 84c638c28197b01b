//! Saves under contention: locks taken over and sessions moved while many clients edit and save, on one server and on
//! three.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_tests::fleet::{Fleet, Signals};
use holdfast_tests::server;
use holdfast_tests::wait::until;
use serde_json::{Value, json};

const ROUNDS: usize = 24;
const CLIENTS: usize = 4;
const SOON: Duration = Duration::from_secs(30);

/// What the stream says was saved: by request, revision and digest.
async fn saved(fleet: &Fleet) -> Vec<(String, u64, String)> {
    let mut saved = Vec::new();
    for stored in fleet.stream().await.unwrap() {
        let json = if stored.subject.starts_with("$KV.") { Value::Null } else { stored.json() };
        for op in json["ops"].as_array().into_iter().flatten().filter(|op| op["event"]["type"] == "saved") {
            let (reply, request_id) = (&op["reply"], op["request_id"].as_str().unwrap().to_owned());
            let digest = reply["digest"].as_str().unwrap().to_owned();
            saved.push((request_id, reply["revision"].as_u64().unwrap(), digest));
        }
    }
    saved
}

async fn contend(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::empty(url).await.unwrap();
    for worker in ["w1", "w2"] {
        fleet.add_worker(worker, &[("main", folder.path())]).await.unwrap();
    }
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    let open = json!({"path": "deep/a.md", "config": {"lock": "required"}});
    let session = fleet.ask("session.open", "", open).await.ok();
    let id = session["id"].as_str().unwrap();
    let token = tokio::sync::watch::Sender::new(fleet.acquire(id, "first").await);
    let (over, number, made) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));

    let client = async |client: usize| {
        let mut acknowledged = HashMap::new();
        while !over.load(Ordering::Relaxed) {
            let shown = token.borrow().clone();
            let request_id = format!("save-{client}-{}", number.fetch_add(1, Ordering::Relaxed));
            let edit = json!({"token": shown, "body": request_id, "fields": {"by": client}});
            if fleet.ask("doc.edit", id, edit).await.number.is_some() {
                continue;
            }
            let reply = fleet.ask("doc.save", id, json!({"token": shown, "request_id": request_id})).await;
            if reply.number.is_none() {
                acknowledged.insert(request_id, reply.ok());
                made.fetch_add(1, Ordering::Relaxed);
            } else {
                reply.refused("conflict", "stale_token");
            }
        }
        acknowledged
    };
    let operator = async {
        for round in 0..ROUNDS {
            let taken = json!({"owner": format!("ops-{round}"), "reason": "test"});
            let taken = fleet.ask("admin.takeover", id, taken).await.ok();
            token.send_replace(taken["lock_token"].as_str().unwrap().to_owned());
            if round % 3 == 0 {
                fleet.ask("admin.move", id, json!({"reason": "test"})).await.ok();
            }
            // The clients' turn, however slow they are, and some time more, so that the next round finds them at
            // anything.
            let enough = made.load(Ordering::Relaxed) + 2;
            until("the clients to save", SOON, async || (made.load(Ordering::Relaxed) >= enough).then_some(())).await;
            tokio::time::sleep(Duration::from_millis(7 * (round as u64 % 4))).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    let (acknowledged, ()) = tokio::join!(join_all((0..CLIENTS).map(client)), operator);
    let acknowledged: HashMap<String, Value> = acknowledged.into_iter().flatten().collect();
    assert!(acknowledged.len() > ROUNDS, "the clients were there: {} saves", acknowledged.len());
    for (request_id, reply) in &acknowledged {
        let again = fleet.ask("doc.save", id, json!({"token": *token.borrow(), "request_id": request_id})).await.ok();
        assert_eq!(again, *reply, "{request_id} is remembered");
    }
    assert_saved_once(&fleet, &signals, id, &acknowledged, &folder.path().join("deep")).await;
}

/// What was acknowledged is in the file, announced once, and nothing else is.
async fn assert_saved_once(
    fleet: &Fleet,
    signals: &Signals,
    id: &str,
    acknowledged: &HashMap<String, Value>,
    folder: &Path,
) {
    // The log may have been compacted, so what was saved is asked of the session's signals.
    let document = fleet.ask("doc.get", id, json!({})).await.ok();
    assert_eq!(document.get("diverged"), None, "nobody else wrote to the file");
    let file = std::fs::read(folder.join("a.md")).unwrap();
    let last = saved(fleet).await.pop();
    let latest = acknowledged.values().max_by_key(|reply| reply["revision"].as_u64()).unwrap();
    let last = last.map_or_else(|| latest["digest"].as_str().unwrap().to_owned(), |(_, _, digest)| digest);
    assert_eq!(holdfast_tests::blake3_hex(&file), last, "the file is what was saved last");
    let told = || {
        let all = signals.all().into_iter().filter(|(subject, _)| subject.ends_with(".doc.saved"));
        let ids: HashMap<String, String> = all
            .map(|(_, body)| (body["id"].to_string(), body["correlationid"].as_str().unwrap_or_default().to_owned()))
            .collect();
        ids.into_values().filter(|request_id| acknowledged.contains_key(request_id)).count()
    };
    until("each save to be announced, once", SOON, async || (told() == acknowledged.len()).then_some(())).await;
    let names = signals.events_of(id);
    assert!(!names.iter().any(|name| name == "doc.diverged"), "its own saves are no news");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "nothing is left beside the file");
}

#[tokio::test(flavor = "multi_thread")]
async fn saves_among_takeovers_and_moves_are_each_made_once_on_one_server() {
    contend(server::shared().await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn saves_among_takeovers_and_moves_are_each_made_once_on_a_cluster_of_three() {
    contend(&server::shared_cluster().await.unwrap().url()).await;
}
