//! Sessions: ids, creation, lists, the end, and idleness.

use std::collections::HashSet;

use futures_util::future::join_all;
use holdfast_tests::fleet::{Fleet, SOON};
use holdfast_tests::server;
use holdfast_tests::wait::until;
use serde_json::{Value, json};

async fn fleet() -> Fleet {
    Fleet::start(server::shared().await.unwrap().url()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn equivalent_paths_are_one_session_with_the_contracts_id() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("a")).unwrap();
    std::fs::write(folder.path().join("a/b.md"), "from the file\n").unwrap();
    let mut fleet = Fleet::empty(server::shared().await.unwrap().url()).await.unwrap();
    fleet.add_worker("w1", &[("main", folder.path())]).await.unwrap();
    fleet.add_coordinator().await.unwrap();

    let mut ids = HashSet::new();
    for path in ["a/b.md", "./a//b.md", "x/../a/b.md", "a/./b.md/"] {
        let session = fleet.ask("session.open", "", json!({"path": path})).await.ok();
        assert_eq!((&session["path"], &session["workspace"]), (&json!("a/b.md"), &json!("main")), "{path}");
        ids.insert(session["id"].as_str().unwrap().to_owned());
    }
    // printf 'main\0a/b.md' | b3sum
    let expected = "file-".to_owned() + &holdfast_tests::blake3_hex(b"main\0a/b.md")[..20];
    assert_eq!(ids, HashSet::from([expected.clone()]));
    let document = fleet.ask("doc.get", &expected, json!({})).await.ok();
    assert_eq!(
        (&document["body"], &document["revision"], &document["dirty"]),
        (&json!("from the file\n"), &json!(0), &json!(false))
    );

    for path in ["/etc/passwd", "../x", "a/../../x"] {
        fleet.ask("session.open", "", json!({"path": path})).await.refused("invalid_params", "path_escape");
    }
    fleet.ask("session.open", "", json!({"path": "a", "workspace": "none"})).await.refused("not_found", "no_workspace");
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_create_ensure_and_attach_say_what_they_found() {
    let fleet = fleet().await;
    let attach = json!({"id": "s1", "mode": "attach"});
    fleet.ask("session.open", "", attach.clone()).await.refused("not_found", "no_session");
    assert_eq!(fleet.ask("session.open", "", json!({"id": "s1", "mode": "create"})).await.ok()["created"], true);
    assert_eq!(fleet.ask("session.open", "", attach).await.ok()["created"], false);
    assert_eq!(fleet.open("s1").await["created"], false);
    fleet.ask("session.open", "", json!({"id": "s1", "mode": "create"})).await.refused("conflict", "already_exists");
    let made = fleet.ask("session.open", "", json!({})).await.ok();
    assert_eq!(made["id"].as_str().unwrap().len(), 36, "a UUID was made: {made}");
    assert_eq!(made["config"], json!({"idle_timeout_ms": 1_800_000, "on_idle": "passivate", "lock": "optional"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_open_creates() {
    let fleet = fleet().await;
    for (verb, body) in [
        ("session.get", json!({})),
        ("session.touch", json!({})),
        ("session.close", json!({})),
        ("lock.acquire", json!({"owner": "a"})),
        ("lock.validate", json!({"token": "t"})),
        ("lock.renew", json!({"token": "t"})),
        ("lock.release", json!({"token": "t"})),
        ("doc.get", json!({})),
        ("doc.edit", json!({"body": "x"})),
        ("doc.undo", json!({})),
        ("admin.takeover", json!({"owner": "a", "reason": "r"})),
        ("admin.unlock", json!({"reason": "r"})),
        ("admin.move", json!({"reason": "r"})),
    ] {
        fleet.ask(verb, "nowhere", body).await.refused("not_found", "no_session");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_clients_opening_one_id_make_one_session_and_one_activation() {
    let mut fleet = fleet().await;
    fleet.add_worker("w2", &[]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    let opened = join_all((0..64).map(|_| fleet.open("hot"))).await;
    assert_eq!(opened.iter().filter(|session| session["created"] == true).count(), 1);
    let activations: HashSet<String> =
        opened.iter().map(|session| session["owner"]["activation"].as_str().unwrap().to_owned()).collect();
    assert_eq!(activations.len(), 1);
    fleet.all_announced(&signals).await;
    assert_eq!(signals.events_of("hot"), ["session.opened", "session.activated"]);
    assert_eq!(fleet.sessions_on("w1") + fleet.sessions_on("w2"), 2, "the hot one and the marker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_pages_through_all_sessions() {
    let fleet = fleet().await;
    let ids: Vec<String> = (0..25).map(|n| format!("s{n:02}")).collect();
    join_all(ids.iter().map(|id| fleet.open(id))).await;
    let (mut seen, mut after) = (Vec::new(), Value::Null);
    loop {
        let page = fleet.ask("session.list", "", json!({"limit": 10, "after": after})).await.ok();
        let sessions = page["sessions"].as_array().unwrap();
        assert!(sessions.len() <= 10);
        seen.extend(sessions.iter().map(|session| session["id"].as_str().unwrap().to_owned()));
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ids);
    let none = fleet.ask("session.list", "", json!({"state": "passive"})).await.ok();
    assert_eq!(none, json!({"sessions": [], "next": null}));
    fleet.ask("session.list", "", json!({"limit": 0})).await.refused("invalid_params", "bad_value");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_session_is_gone_and_its_id_begins_anew() {
    let fleet = fleet().await;
    fleet.open("s1").await;
    fleet.ask("doc.edit", "s1", json!({"body": "old"})).await.ok();
    let token = fleet.acquire("s1", "a").await;
    fleet.ask("session.close", "s1", json!({})).await.refused("conflict", "lock_held");
    let close = json!({"token": token, "request_id": "close-1"});
    let closed = fleet.ask("session.close", "s1", close.clone()).await.ok();
    assert_eq!(closed, json!({"session_id": "s1", "closed": true}));
    assert_eq!(fleet.ask("session.close", "s1", close).await.ok(), closed, "a retry gets the first answer");
    fleet.ask("doc.get", "s1", json!({})).await.refused("not_found", "no_session");
    fleet.ask("session.get", "s1", json!({})).await.refused("not_found", "no_session");
    assert_eq!(fleet.open("s1").await["created"], true);
    let document = fleet.ask("doc.get", "s1", json!({})).await.ok();
    assert_eq!((&document["body"], &document["revision"]), (&json!(""), &json!(0)), "nothing of the old one is left");
    fleet.ask("doc.edit", "s1", json!({"body": "new"})).await.ok();
    fleet.ask("admin.move", "s1", json!({"reason": "check"})).await.refused("unavailable", "no_live_worker");
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["body"], "new", "replayed without the old frames");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_are_reclaimed_and_come_back_with_all_they_had() {
    let fleet = fleet().await;
    let signals = fleet.signals().await.unwrap();
    fleet.ask("session.open", "", json!({"id": "idle", "config": {"idle_timeout_ms": 1000}})).await.ok();
    fleet
        .ask("session.open", "", json!({"id": "over", "config": {"idle_timeout_ms": 1000, "on_idle": "close"}}))
        .await
        .ok();
    let token = fleet.acquire("idle", "a").await;
    fleet.ask("doc.edit", "idle", json!({"token": token, "body": "kept", "request_id": "e1"})).await.ok();
    signals.wait_for("idle", "session.passivated").await;
    signals.wait_for("over", "session.closed").await;
    let session = fleet.ask("session.get", "idle", json!({})).await.ok();
    assert_eq!((&session["state"], &session["owner"]), (&json!("passive"), &Value::Null));
    assert_eq!(session["lock"]["owner"], "a", "a lock outlives the absence");
    assert_eq!(fleet.ask("session.touch", "idle", json!({})).await.ok()["state"], "passive");
    fleet.ask("session.get", "over", json!({})).await.refused("not_found", "no_session");
    until("nothing to be in memory", SOON, async || (fleet.sessions_on("w1") == 0).then_some(())).await;

    let document = fleet.ask("doc.get", "idle", json!({})).await.ok();
    assert_eq!(document["body"], "kept");
    let retried = fleet.ask("doc.edit", "idle", json!({"token": token, "body": "kept", "request_id": "e1"})).await.ok();
    assert_eq!(retried["revision"], 1, "the memory of requests came back too");
    assert_eq!(fleet.ask("doc.undo", "idle", json!({"token": token})).await.ok()["revision"], 2);
    let reclaimed = fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    assert_eq!(reclaimed, json!({"reclaimed": ["idle"]}));
    signals.wait_for("idle", "session.reclaimed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_moves_to_another_worker_with_all_it_had() {
    let mut fleet = fleet().await;
    fleet.open("s1").await;
    let token = fleet.acquire("s1", "a").await;
    fleet.ask("doc.edit", "s1", json!({"token": token, "body": "kept"})).await.ok();
    fleet.add_worker("w2", &[]).await.unwrap();
    let moved = fleet.ask("admin.move", "s1", json!({"worker": "w2", "reason": "check"})).await.ok();
    assert_eq!(moved["owner"]["worker"], "w2");
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["body"], "kept");
    fleet.ask("doc.edit", "s1", json!({"token": token, "body": "more"})).await.ok();
    fleet.ask("admin.move", "s1", json!({"worker": "w9", "reason": "check"})).await.refused("not_found", "no_worker");
    fleet.stop_worker("w2").await;
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["body"], "more", "a worker that ends hands over");
    assert_eq!(fleet.ask("session.get", "s1", json!({})).await.ok()["owner"]["worker"], "w1");
}
