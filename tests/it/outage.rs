//! NATS killed, paused and without its leader: nothing that was acknowledged is lost, nothing is made twice, and
//! everything resumes by itself.

use std::time::{Duration, Instant};

use holdfast_deploy::Server;
use holdfast_tests::fleet::{Editors, Fleet};
use holdfast_tests::server;
use serde_json::{Value, json};

/// How long a server is away.
const AWAY: Duration = Duration::from_secs(3);

/// Two of each part.
async fn fleet(url: &str) -> Fleet {
    let mut fleet = Fleet::start(url).await.unwrap();
    fleet.add_worker("w2", &[]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet
}

/// Requests that NATS is too broken to carry get an error of the contract, or no answer.
async fn assert_unavailable(fleet: &Fleet, token: &str) {
    let requests = [
        ("session.get", json!({})),
        ("doc.get", json!({"consistency": "linearizable"})),
        ("doc.edit", json!({"body": "lost?", "token": token, "expected_revision": 0})),
        ("lock.acquire", json!({"owner": "b"})),
        ("lock.release", json!({"token": "none"})),
        ("admin.takeover", json!({"owner": "ops", "reason": "r", "expected_lock_revision": 0})),
    ];
    let asked = requests.iter().map(async |(verb, body)| {
        if let Ok(reply) = fleet.try_ask(verb, "s1", body, Duration::from_secs(1)).await {
            let code = reply.body["error"]["code"].as_str().unwrap_or_default().to_owned();
            assert!(matches!(&*code, "unavailable" | "unknown_outcome" | "busy"), "{verb}: {}", reply.body);
        }
    });
    futures_util::future::join_all(asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_finds_everything_as_it_was() {
    let mut server = server::own(|_| ()).await.unwrap();
    let fleet = fleet(&server.url()).await;
    let signals = fleet.signals().await.unwrap();
    for id in ["s1", "s2"] {
        fleet.open(id).await;
    }
    let acquire = json!({"owner": "a", "ttl_ms": 60_000, "request_id": "acquire"});
    let grant = fleet.ask("lock.acquire", "s1", acquire.clone()).await.ok();
    let token = grant["lock_token"].as_str().unwrap();
    fleet.ask("doc.edit", "s1", json!({"token": token, "body": "kept", "request_id": "e1"})).await.ok();
    let (before, session) = fleet.record("s1").await.unwrap();
    let owner = fleet.record("s2").await.unwrap().1["owner"].clone();

    let editors = Editors::default();
    let mut resumed = Duration::ZERO;
    let outage = async {
        editors.go_on(50).await;
        server.kill9().unwrap();
        assert_unavailable(&fleet, token).await;
        server.restart().await.unwrap();
        let begin = Instant::now();
        editors.go_on(1).await;
        resumed = begin.elapsed();
        editors.go_on(50).await;
        editors.stop();
    };
    tokio::join!(editors.edit(&fleet, "s2", 0..4), outage);
    println!("edits are accepted {resumed:?} after the server is back");
    editors.assert_whole(&fleet, "s2").await;
    assert_eq!(fleet.record("s2").await.unwrap().1["owner"], owner, "its worker lives, however late it connects again");

    assert_eq!(fleet.insist("lock.acquire", "s1", &acquire, |_| ()).await.ok(), grant, "the lock is still held");
    let read = json!({"consistency": "linearizable", "request_id": "read"});
    let document = fleet.insist("doc.get", "s1", &read, |_| ()).await.ok();
    assert_eq!((&document["body"], &document["revision"]), (&json!("kept"), &json!(1)));
    let opened = fleet.insist("session.open", "", &json!({"id": "s1", "request_id": "open"}), |_| ()).await.ok();
    assert_eq!((&opened["created"], &opened["created_at"]), (&json!(false), &session["created_at"]));
    let retried = json!({"token": token, "body": "kept", "request_id": "e1"});
    assert_eq!(fleet.ask("doc.edit", "s1", retried).await.ok()["revision"], 1);
    fleet.ask("doc.edit", "s1", json!({"token": token, "body": "more"})).await.ok();
    let (after, _) = fleet.record("s1").await.unwrap();
    fleet.all_announced(&signals).await;
    let made = signals.events_of("s1").iter().filter(|event| *event == "session.opened").count();
    assert_eq!(made, 1, "it was not made again (record {before} before, {after} after)");
    for id in ["s3", "s4"] {
        assert_eq!(fleet.open(id).await["created"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_paused_makes_no_edit_twice_and_loses_none() {
    let server = server::own(|_| ()).await.unwrap();
    let fleet = fleet(&server.url()).await;
    fleet.open("s1").await;
    let editors = Editors::default();
    let edit = json!({"fields": {"in": "flight"}, "request_id": "in-flight"});
    fleet.open("s2").await;
    let outage = async {
        editors.go_on(50).await;
        server.pause().unwrap();
        let in_flight = fleet.try_ask("doc.edit", "s2", &edit, Duration::from_secs(8));
        let thaw = async {
            tokio::time::sleep(AWAY).await; // The fault itself; nothing is asserted on it.
            server.resume().unwrap();
        };
        let (reply, ()) = tokio::join!(in_flight, thaw);
        if let Ok(reply) = reply
            && reply.number.is_some()
        {
            let code = reply.body["error"]["code"].as_str().unwrap().to_owned();
            assert!(matches!(&*code, "unavailable" | "unknown_outcome" | "busy"), "{}", reply.body);
        }
        assert_eq!(fleet.insist("doc.edit", "s2", &edit, |_| ()).await.ok()["revision"], 1);
        editors.go_on(50).await;
        editors.stop();
    };
    tokio::join!(editors.edit(&fleet, "s1", 0..8), outage);
    println!("the slowest of {} edits took {:?}", editors.made(), editors.slowest());
    editors.assert_whole(&fleet, "s1").await;
    assert_eq!(fleet.insist("doc.edit", "s2", &edit, |_| ()).await.ok()["revision"], 1, "made once");
    assert_eq!(fleet.ask("doc.get", "s2", json!({})).await.ok()["revision"], 1);
}

/// The place of the server that leads the stream of sessions.
async fn leader(fleet: &Fleet, servers: &[Server]) -> usize {
    let stream = fleet.nats.request(format!("$JS.API.STREAM.INFO.{}", fleet.root.sessions_stream()), "".into()).await;
    let info: Value = serde_json::from_slice(&stream.unwrap().payload).unwrap();
    let name = info["cluster"]["leader"].as_str().unwrap_or_else(|| panic!("no leader: {info}"));
    servers.iter().position(|server| server.name() == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_the_leader_of_the_stream_keeps_every_edit_once_and_in_order() {
    let mut cluster = server::own_cluster().await.unwrap();
    let fleet = fleet(&cluster.url()).await;
    fleet.open("s1").await;
    let owner = fleet.record("s1").await.unwrap().1["owner"].clone();
    let editors = Editors::default();
    let mut resumed = Duration::ZERO;
    let outage = async {
        editors.go_on(100).await;
        let lost = leader(&fleet, cluster.servers()).await;
        cluster.servers_mut()[lost].kill9().unwrap();
        let begin = Instant::now();
        editors.go_on(20).await;
        resumed = begin.elapsed();
        editors.go_on(100).await;
        cluster.servers_mut()[lost].restart().await.unwrap();
        editors.go_on(100).await;
        editors.stop();
    };
    tokio::join!(editors.edit(&fleet, "s1", 0..8), outage);
    println!("20 more edits {resumed:?} after the leader was killed; the slowest took {:?}", editors.slowest());
    editors.assert_whole(&fleet, "s1").await;
    assert_eq!(
        fleet.record("s1").await.unwrap().1["owner"],
        owner,
        "its worker lives, and was connected to some server"
    );
    // Built from the log, it is the same.
    fleet.insist("admin.reclaim", "", &json!({"max_idle_ms": 0, "request_id": "reclaim"}), |_| ()).await.ok();
    editors.assert_whole(&fleet, "s1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_again_and_again_has_every_edit() {
    // Each time it may forget more of what snapshots replaced, until a log begins with frames of long ago.
    let mut server = server::own(|_| ()).await.unwrap();
    let mut fleet = Fleet::empty(&server.url()).await.unwrap();
    fleet.add_mortal_worker("w0").await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet.open("s1").await;
    let insert = |n: usize| json!({"splices": [{"at": 0, "delete": 0, "insert": format!("{n};")}]});
    for crash in 1..=8 {
        for n in (crash - 1) * 200..crash * 200 {
            fleet.ask("doc.edit", "s1", insert(n)).await.ok();
        }
        server.kill9().unwrap();
        fleet.kill_worker(&format!("w{}", crash - 1));
        server.restart().await.unwrap();
        fleet.add_mortal_worker(&format!("w{crash}")).await.unwrap();
        let read = json!({"request_id": format!("read-{crash}")});
        let document = fleet.insist("doc.get", "s1", &read, |_| ()).await.ok();
        let expected: String = (0..crash * 200).rev().map(|n| format!("{n};")).collect();
        assert_eq!(
            (&document["body"], &document["revision"]),
            (&json!(expected), &json!(crash * 200)),
            "crash {crash}"
        );
    }
}
