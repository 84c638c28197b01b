//! `HF_AUDIT` keeps what operators do to workers and to the secret of tokens, once, and holds up nobody.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream;
use futures_util::TryStreamExt;
use holdfast_protocol::act::Act;
use holdfast_store::provision::{Provisioning, provision};
use holdfast_tests::fleet::{Fleet, Reply, SOON};
use holdfast_tests::wait::{until, until_ok};
use holdfast_tests::{logs, server};
use serde_json::{Value, json};

/// Longer than a request waits for its act, and shorter than the next longer limit of a request.
const AT_MOST: Duration = Duration::from_millis(3_500);

/// Two coordinators, and the worker `w1`.
async fn start(url: &str) -> Fleet {
    logs::keep();
    let mut fleet = Fleet::start(url).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet
}

async fn ask(fleet: &Fleet, what: &str, body: &Value) -> Reply {
    fleet.ask_raw(&format!("{}.sys.{what}", fleet.root), body.to_string().into_bytes()).await
}

/// A request with an id that no other test has.
fn body(fleet: &Fleet, name: &str) -> Value {
    json!({"reason": format!("why {name}"), "actor": "oncall", "request_id": format!("{}-{name}", fleet.root)})
}

async fn acts(fleet: &Fleet) -> Vec<Act> {
    let kept = fleet.acts().await.unwrap();
    for stored in &kept {
        let act: Act = serde_json::from_slice(&stored.body).unwrap();
        assert_eq!(stored.subject, format!("{}.sys.audit.{}", fleet.root, act.event()));
    }
    kept.iter().map(|stored| serde_json::from_slice(&stored.body).unwrap()).collect()
}

fn events(acts: &[Act]) -> Vec<&str> {
    acts.iter().map(Act::event).collect()
}

/// The audit line of a request.
async fn line(request: &Value) -> String {
    let named = format!("request_id={}", request["request_id"]);
    let find = || {
        let kept = logs::kept();
        kept.lines().rfind(|line| line.contains("holdfast_audit") && line.contains(&named)).map(str::to_owned)
    };
    until("the audit line", SOON, async || find()).await
}

/// Forgets the answers of drains, as a coordinator does that is killed before it stores them.
async fn forget_answers(fleet: &Fleet) {
    let bucket = fleet.root.workers_bucket();
    let stream = jetstream::new(fleet.nats.clone()).get_stream(format!("KV_{bucket}")).await.unwrap();
    let info = stream.info_with_subjects(format!("$KV.{bucket}.answered.*")).await.unwrap();
    let subjects: Vec<(String, usize)> = info.try_collect().await.unwrap();
    assert!(!subjects.is_empty(), "no answer was remembered");
    for (subject, _) in subjects {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        let request = async_nats::Request::new().headers(headers).payload("".into());
        let stored = fleet.nats.send_request(subject, request).await.unwrap();
        assert!(String::from_utf8_lossy(&stored.payload).contains("seq"), "{stored:?}");
    }
}

async fn each_act_is_kept_once(url: &str) {
    let fleet = start(url).await;
    let requests = [
        ("worker.drain.w1", body(&fleet, "drain")),
        ("worker.undrain.w1", body(&fleet, "undrain")),
        ("admin.rotate_secret", body(&fleet, "rotate")),
    ];
    for (what, request) in &requests {
        ask(&fleet, what, request).await.ok();
        assert!(!line(request).await.contains("unkept"), "{}", line(request).await);
    }
    // It is there when the answer is.
    let kept = acts(&fleet).await;
    assert_eq!(events(&kept), ["worker.drained", "worker.undrained", "secret.rotated"]);
    for (act, (_, request)) in kept.iter().zip(&requests) {
        assert_eq!((&act.data["reason"], &act.data["actor"]), (&request["reason"], &request["actor"]));
        assert_eq!(act.correlationid.as_str(), request["request_id"].as_str().unwrap());
        assert!(!act.data.contains_key("actor_proven"), "nothing proves it within one account");
    }
    assert_eq!((&kept[0].data["worker"], &kept[0].data["sessions_left"]), (&json!("w1"), &json!(0)));
    assert_eq!((&kept[2].data["generation"], &kept[2].data["revoke"]), (&json!(1), &json!(false)));

    // Late copies, of which each coordinator gets some.
    for _ in 0..4 {
        for (what, request) in &requests {
            ask(&fleet, what, request).await.ok();
        }
    }
    assert_eq!(acts(&fleet).await, kept);
    // The worker knows them, when the store does not.
    forget_answers(&fleet).await;
    for (what, request) in &requests {
        ask(&fleet, what, request).await.ok();
    }
    assert_eq!(acts(&fleet).await, kept, "the id of an act follows from what was done");

    // What is done again under another id is another act; what is refused is none.
    ask(&fleet, "worker.drain.w1", &body(&fleet, "once more")).await.ok();
    ask(&fleet, "worker.drain.nobody", &body(&fleet, "nobody")).await.refused("not_found", "no_worker");
    ask(&fleet, "admin.rotate_secret", &json!({"reasons": "typo"})).await.refused("invalid_params", "unknown_field");
    assert_eq!(events(&acts(&fleet).await)[3..], ["worker.drained"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_act_is_kept_once_on_one_server() {
    each_act_is_kept_once(server::shared().await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_act_is_kept_once_on_three_servers() {
    each_act_is_kept_once(&server::shared_cluster().await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_and_a_rotation_say_what_they_hit() {
    let mut fleet = start(server::shared().await.unwrap().url()).await;
    for id in ["s1", "s2", "s3"] {
        fleet.open(id).await;
        fleet.acquire(id, "ann").await;
    }
    fleet.add_worker("w2", &[]).await.unwrap();
    let mut revoke = body(&fleet, "revoke");
    revoke["revoke"] = json!(true);
    let rotated = until("all locks to be freed", SOON, async || {
        let reply = ask(&fleet, "admin.rotate_secret", &revoke).await;
        reply.number.is_none().then(|| reply.ok())
    })
    .await;
    ask(&fleet, "worker.drain.w1", &body(&fleet, "drain")).await.ok();
    let kept = acts(&fleet).await;
    assert_eq!(events(&kept), ["secret.rotated", "worker.drained"]);
    assert_eq!((&kept[0].data["revoke"], &kept[0].data["released"]), (&json!(true), &rotated["released"]));
    assert_eq!((&kept[0].data["released"], &kept[1].data["sessions_left"]), (&json!(3), &json!(3)));
    // The time is that of the request: before everything that followed from it.
    let signals = fleet.signals().await.unwrap();
    fleet.all_announced(&signals).await;
    let moved = until("a session to be moved", SOON, async || {
        let signals = fleet.kept_signals().await.unwrap().into_iter().map(|stored| stored.json());
        signals.into_iter().find(|signal| signal["type"] == "holdfast.session.moved.v1")
    })
    .await;
    assert_eq!(moved["data"]["reason"], "why drain");
    let time = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    assert!(time(&kept[1].time) < time(moved["time"].as_str().unwrap()), "{} {moved}", kept[1].time);
}

/// Makes the stream again, as a coordinator does at its start.
async fn provisioned(fleet: &Fleet) {
    let choices = Provisioning { signals_bytes: 1024 * 1024, acts_bytes: 1024 * 1024, ..Provisioning::default() };
    let made = provision(&fleet.nats, &fleet.root, &choices).await.unwrap();
    assert!(!made.warnings.iter().any(|warning| warning.contains("HF_AUDIT")), "{:?}", made.warnings);
}

/// Requests of operators while the stream is away, and what becomes of their acts.
async fn nothing_waits_for_the_stream(fleet: &Fleet, name: &str) {
    let requests = [
        ("worker.drain.w1", body(fleet, &format!("{name} drain"))),
        ("worker.undrain.w1", body(fleet, &format!("{name} undrain"))),
        ("admin.rotate_secret", body(fleet, &format!("{name} rotate"))),
    ];
    for (what, request) in &requests {
        let begun = Instant::now();
        ask(fleet, what, request).await.ok();
        assert!(begun.elapsed() < AT_MOST, "{name}: {what} took {:?}", begun.elapsed());
        let line = line(request).await;
        assert!(line.contains("outcome=\"done\"") && line.contains("unkept=\"the stream has not"), "{name}: {line}");
    }
    // They are published for a while. The streams of a cluster are away like this when they elect a leader.
    provisioned(fleet).await;
    let mut stream = jetstream::new(fleet.nats.clone()).get_stream(fleet.root.audit_stream()).await.unwrap();
    until_ok("the three acts to be kept after all", SOON, async || match stream.info().await.unwrap().state.messages {
        3 => Ok(()),
        count => Err(format!("{count} are kept")),
    })
    .await;
    let kept = acts(fleet).await;
    for (_, request) in &requests {
        assert!(kept.iter().any(|act| act.correlationid.as_str() == request["request_id"]), "{name}: {request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_away_does_not_hold_up_an_operator() {
    let fleet = start(server::shared().await.unwrap().url()).await;
    let context = jetstream::new(fleet.nats.clone());
    context.delete_stream(fleet.root.audit_stream()).await.unwrap();
    nothing_waits_for_the_stream(&fleet, "no stream").await;

    // Somebody hears the acts and answers nothing, as a stream without a leader does.
    context.delete_stream(fleet.root.audit_stream()).await.unwrap();
    let silent = fleet.nats.subscribe(fleet.root.acts()).await.unwrap();
    fleet.nats.flush().await.unwrap();
    nothing_waits_for_the_stream(&fleet, "silence").await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_from_before_gets_the_stream() {
    let fleet = start(server::shared().await.unwrap().url()).await;
    fleet.open("s1").await;
    let context = jetstream::new(fleet.nats.clone());
    context.delete_stream(fleet.root.audit_stream()).await.unwrap();
    provisioned(&fleet).await;
    let made = context.get_stream(fleet.root.audit_stream()).await.unwrap().cached_info().config.clone();
    assert_eq!(made.subjects, [fleet.root.acts()]);
    assert!(made.deny_delete && made.deny_purge && made.allow_direct);
    assert_eq!((made.max_age, made.duplicate_window), (Duration::from_secs(90 * 24 * 3600), made.max_age));
    assert_eq!(fleet.ask("session.get", "s1", json!({})).await.ok()["state"], "active", "the rest is as it was");
    ask(&fleet, "worker.drain.w1", &body(&fleet, "drain")).await.ok();
    assert_eq!(events(&acts(&fleet).await), ["worker.drained"]);
}
