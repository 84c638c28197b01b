//! Workers that are killed, and workers that are cut off and do not know it: the next request moves the session with
//! all it has, and whoever lost it writes nothing any more.

use std::time::{Duration, Instant};

use holdfast_tests::fleet::{Editors, Fleet, SOON};
use holdfast_tests::link::Link;
use holdfast_tests::server;
use holdfast_tests::wait::{until, until_ok};
use serde_json::{Value, json};

/// One worker, `w1`, that can be killed.
async fn fleet() -> Fleet {
    let mut fleet = Fleet::empty(server::shared().await.unwrap().url()).await.unwrap();
    fleet.add_mortal_worker("w1").await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet
}

async fn boot(fleet: &Fleet, worker: &str) -> String {
    let listed = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
    let found = listed["workers"].as_array().unwrap().iter().find(|found| found["worker"] == worker);
    found.unwrap()["boot"].as_str().unwrap().to_owned()
}

/// Kills a worker and waits until the server has seen its connection end.
async fn kill(fleet: &mut Fleet, worker: &str) {
    let nobody = format!("{}.sys.control.{worker}.{}.nothing", fleet.root, boot(fleet, worker).await);
    fleet.kill_worker(worker);
    let request = || async_nats::Request::new().timeout(Some(Duration::from_millis(200)));
    until("the worker's connection to end", SOON, async || {
        let answer = fleet.nats.send_request(nobody.clone(), request()).await;
        answer.is_err_and(|error| error.kind() == async_nats::RequestErrorKind::NoResponders).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_killed_worker_moves_at_the_next_request_with_all_it_had() {
    let mut fleet = fleet().await;
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    let requests = [
        ("doc.get", json!({"consistency": "linearizable"})),
        ("doc.edit", json!({"fields": {"n": 1}, "request_id": "first"})),
        ("lock.renew", json!({})),
        ("lock.validate", json!({})),
        ("doc.undo", json!({"request_id": "first"})),
        ("session.open", json!({"id": "session-open"})),
        ("admin.takeover", json!({"owner": "ops", "reason": "gone"})),
        ("session.close", json!({})),
    ];
    let mut tokens = Vec::new();
    for (verb, _) in &requests {
        let id = verb.replace('.', "-");
        fleet.ask("session.open", "", json!({"id": id, "content": {"body": "a"}})).await.ok();
        let acquire = json!({"owner": "a", "ttl_ms": 60_000, "request_id": "acquire"});
        let grant = fleet.ask("lock.acquire", &id, acquire).await.ok();
        let token = grant["lock_token"].clone();
        for (body, request) in [("ab", "e1"), ("abc", "e2")] {
            fleet.ask("doc.edit", &id, json!({"token": token, "body": body, "request_id": request})).await.ok();
        }
        tokens.push((id, grant, token));
    }
    fleet.add_worker("w2", &[]).await.unwrap();
    // A coordinator knows of workers by their leases, which it reads every second.
    until("w2 to be known", SOON, async || {
        let listed = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
        (listed["workers"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    kill(&mut fleet, "w1").await;

    let mut gaps = Vec::new();
    for ((verb, body), (id, grant, token)) in requests.into_iter().zip(tokens) {
        let mut body = body;
        if matches!(verb, "doc.edit" | "doc.undo" | "lock.renew" | "lock.validate" | "session.close") {
            body["token"] = token.clone();
        }
        let at = if verb == "session.open" { "" } else { id.as_str() };
        let begin = Instant::now();
        let first = fleet.ask(verb, at, body.clone()).await;
        gaps.push(begin.elapsed());
        let first = first.ok();
        if verb == "session.close" {
            continue;
        }
        if matches!(verb, "lock.validate" | "session.open") {
            // The record alone answers these, and each coordinator learns for itself that a worker is gone.
            fleet.ask("doc.get", &id, json!({})).await.ok();
        }
        assert_eq!(fleet.record(&id).await.unwrap().1["owner"]["worker"], "w2", "after {verb}");
        let moved = signals.wait_for(&id, "session.moved").await;
        assert_eq!((&moved["data"]["previous_worker"], &moved["data"]["worker"]), (&json!("w1"), &json!("w2")));
        assert_eq!(moved["data"]["reason"], "worker w1 is gone");
        if verb.starts_with("doc.e") || verb.starts_with("doc.u") {
            assert_eq!(fleet.ask(verb, at, body).await.ok(), first, "a retry of {verb}");
        }
        let token = if verb == "admin.takeover" { first["lock_token"].clone() } else { token };
        let retried = json!({"token": token, "body": "abc", "request_id": "e2"});
        assert_eq!(fleet.ask("doc.edit", &id, retried).await.ok()["revision"], 2, "requests are remembered");
        if verb != "admin.takeover" {
            let acquire = json!({"owner": "a", "ttl_ms": 60_000, "request_id": "acquire"});
            assert_eq!(fleet.ask("lock.acquire", &id, acquire).await.ok(), grant);
            let renewed = fleet.ask("lock.renew", &id, json!({ "token": token })).await.ok();
            assert!(renewed["expires_in_ms"].as_u64().unwrap() > 50_000, "{renewed}");
        }
        // Each has two edits to undo, or one that the request itself left.
        let (changed, left, expected) = match verb {
            "doc.edit" => (1, 2, "ab"),
            "doc.undo" => (1, 1, "a"),
            _ => (0, 2, "a"),
        };
        for n in 0..left {
            assert_eq!(fleet.ask("doc.undo", &id, json!({ "token": token })).await.ok()["revision"], 3 + n + changed);
        }
        assert_eq!(fleet.ask("doc.get", &id, json!({})).await.ok()["body"], expected, "after {verb}");
    }
    println!("from request to answer across a failover: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < Duration::from_secs(2)), "no lease is waited for: {gaps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_of_edits_loses_none_that_was_acknowledged() {
    let mut fleet = fleet().await;
    fleet.add_coordinator().await.unwrap();
    fleet.open("s1").await;
    fleet.add_worker("w2", &[]).await.unwrap();
    fleet.ask("admin.move", "s1", json!({"worker": "w1", "reason": "test"})).await.ok();
    let victim = fleet.take_mortal_worker("w1");
    let editors = Editors::default();
    let murder = async {
        editors.go_on(200).await;
        victim.kill();
        editors.go_on(200).await;
        editors.stop();
    };
    tokio::join!(editors.edit(&fleet, "s1", 0..8), murder);
    println!("the slowest of {} edits took {:?}", editors.made(), editors.slowest());
    editors.assert_whole(&fleet, "s1").await;
    assert_eq!(fleet.record("s1").await.unwrap().1["owner"]["worker"], "w2");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_another_worker_requests_say_so_until_there_is_one() {
    let mut fleet = fleet().await;
    fleet.open("s1").await;
    let token = fleet.acquire("s1", "a").await;
    fleet.ask("doc.edit", "s1", json!({"token": token, "body": "kept"})).await.ok();
    kill(&mut fleet, "w1").await;
    for (verb, body) in [
        ("doc.get", json!({})),
        ("doc.edit", json!({"token": token, "body": "x", "request_id": "e1"})),
        ("lock.renew", json!({"token": token})),
    ] {
        let error = fleet.ask(verb, "s1", body).await.refused("unavailable", "no_live_worker");
        assert_eq!(error["retryable"], true);
    }
    fleet.ask("session.open", "", json!({"id": "s2"})).await.refused("unavailable", "no_live_worker");
    assert_eq!(fleet.ask("session.get", "s1", json!({})).await.ok()["lock"]["owner"], "a");

    // The same name, another start.
    fleet.add_worker("w1", &[]).await.unwrap();
    let served = until_ok("the session to be served", SOON, async || {
        let reply = fleet.ask("doc.get", "s1", json!({})).await;
        if reply.number.is_none() { Ok(reply.ok()) } else { Err(reply.body.to_string()) }
    });
    assert_eq!(served.await["body"], "kept");
    fleet.ask("doc.edit", "s1", json!({"token": token, "body": "x", "request_id": "e1"})).await.ok();
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["revision"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_cut_off_cannot_write_after_its_session_was_taken_from_it() {
    let url = server::shared().await.unwrap().url();
    let link = Link::to(url).await.unwrap();
    let mut fleet = Fleet::empty(url).await.unwrap();
    fleet.add_worker_at(&link.url(), "w1", &[]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet.open("s1").await;
    fleet.ask("doc.edit", "s1", json!({"body": "|"})).await.ok();
    let before = fleet.record("s1").await.unwrap().1["owner"].clone();
    let boot = boot(&fleet, "w1").await;
    fleet.add_worker("w2", &[]).await.unwrap();

    // Its frame is on the way, and stays there; the worker itself hears everything.
    link.clog();
    let insert =
        |text: &str, request: &str| json!({"splices": [{"at": 0, "delete": 0, "insert": text}], "request_id": request});
    let held = async { fleet.try_ask("doc.edit", "s1", &insert("held ", "e1"), Duration::from_secs(8)).await };
    let taken = async {
        let moved = fleet.ask("admin.move", "s1", json!({"worker": "w2", "reason": "cut off"})).await.ok();
        assert_eq!(moved["owner"]["worker"], "w2");
        for n in 0..3 {
            fleet.ask("doc.edit", "s1", insert(&format!("w2-{n} "), &format!("w2-{n}"))).await.ok();
        }
    };
    let (held, ()) = tokio::join!(held, taken);
    // It was sent, and what became of it is not known; or the coordinator saw the session move, and asked the new
    // owner.
    let answered = held.ok().filter(|reply| reply.body["error"]["code"] != "unknown_outcome").map(|reply| reply.ok());
    assert_eq!(fleet.sessions_on("w1"), 1, "it believes that it has the session");
    link.clear();
    until("the worker to notice", SOON, async || (fleet.sessions_on("w1") == 0).then_some(())).await;

    // Asked directly, as by a coordinator that knows no better.
    let subject = format!("{}.sys.agent.w1.{boot}.default.s1.doc.edit", fleet.root);
    let reply = fleet.nats.request(subject, insert("zombie", "e2").to_string().into()).await.unwrap();
    assert!(reply.headers.is_some_and(|headers| headers.get("Hf-Moved").is_some()));

    let again = fleet.ask("doc.edit", "s1", insert("held ", "e1")).await.ok();
    assert_eq!(answered.unwrap_or_else(|| again.clone()), again, "one request, one outcome");
    let document = fleet.ask("doc.get", "s1", json!({"consistency": "linearizable"})).await.ok();
    let body = document["body"].as_str().unwrap();
    assert_eq!((document["revision"].as_u64(), body.matches("held ").count()), (Some(5), 1), "{body}");
    assert_eq!(body.replace("held ", ""), "w2-2 w2-1 w2-0 |");
    let stream = fleet.stream().await.unwrap();
    let mut owner = Value::Null;
    for stored in &stream {
        let json = stored.json();
        if stored.subject.starts_with("$KV.") {
            owner = json["owner"]["activation"].clone();
        } else {
            assert_eq!(json["activation"], owner, "sequence {} is by somebody who lost the session", stored.sequence);
        }
    }
    assert_ne!(owner, before["activation"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_takes_the_session_along_from_a_worker_that_is_silent() {
    let url = server::shared().await.unwrap().url();
    let link = Link::to(url).await.unwrap();
    let mut fleet = Fleet::empty(url).await.unwrap();
    fleet.add_worker_at(&link.url(), "w1", &[]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    for id in ["silent", "sound"] {
        fleet.open(id).await;
        fleet.acquire(id, "a").await;
    }
    fleet.add_worker("w2", &[]).await.unwrap();
    let takeover =
        async |id: &str| fleet.ask("admin.takeover", id, json!({"owner": "ops", "reason": "stuck"})).await.ok();

    takeover("sound").await;
    assert_eq!(fleet.record("sound").await.unwrap().1["owner"]["worker"], "w1", "it answers, so it keeps the session");
    link.clog();
    let begin = Instant::now();
    let taken = takeover("silent").await;
    assert_eq!(fleet.record("silent").await.unwrap().1["owner"]["worker"], "w2");
    let edit = json!({"token": taken["lock_token"], "body": "theirs"});
    assert_eq!(fleet.ask("doc.edit", "silent", edit).await.ok()["revision"], 1);
    assert!(begin.elapsed() < Duration::from_secs(3), "no lease is waited for: {:?}", begin.elapsed());
    link.clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_in_order_is_not_listed_any_more() {
    let mut fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    for _ in 0..10 {
        fleet.add_worker("w2", &[]).await.unwrap();
        fleet.stop_worker("w2").await;
        let listed = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
        let names: Vec<&Value> = listed["workers"].as_array().unwrap().iter().map(|worker| &worker["worker"]).collect();
        assert_eq!(names, ["w1"], "{listed}");
    }
}
