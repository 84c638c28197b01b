//! Parts that leave: sessions outlive them, names belong to one process, and every end comes within its grace period.

use std::time::{Duration, Instant};

use holdfast_protocol::request::Move;
use holdfast_store::connect::{ConnectOptions, Password};
use holdfast_tests::fleet::{Fleet, SOON};
use holdfast_tests::server;
use holdfast_tests::wait::{until, until_ok};
use holdfast_worker::{NameRule, StartError};
use serde_json::{Value, json};

async fn open_closing(fleet: &Fleet, id: &str) {
    let config = json!({"on_idle": "close", "idle_timeout_ms": 600_000});
    fleet.ask("session.open", "", json!({"id": id, "config": config, "content": {"body": "kept"}})).await.ok();
}

async fn state(fleet: &Fleet, id: &str) -> Value {
    fleet.ask("session.get", id, json!({})).await.ok()["state"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_out_but_idleness_closes_a_session() {
    let url = server::shared().await.unwrap().url();
    let mut fleet = Fleet::start(url).await.unwrap();
    for id in ["drained", "stopped", "reclaimed"] {
        open_closing(&fleet, id).await;
    }
    // A drain with nobody else there.
    fleet.ask_raw(&format!("{}.sys.worker.drain.w1", fleet.root), br#"{"reason":"new disk"}"#.to_vec()).await.ok();
    until("the worker to be empty", SOON, async || (fleet.sessions_on("w1") == 0).then_some(())).await;
    for id in ["drained", "stopped", "reclaimed"] {
        assert_eq!(state(&fleet, id).await, "passive", "{id}");
    }
    fleet.ask_raw(&format!("{}.sys.worker.undrain.w1", fleet.root), br#"{"reason":"done"}"#.to_vec()).await.ok();
    // A move with nowhere to go, then the end of the worker.
    let body = async |id: &str| fleet.ask("doc.get", id, json!({})).await.ok()["body"].clone();
    assert_eq!(body("stopped").await, "kept");
    fleet.ask("admin.move", "stopped", json!({"reason": "r"})).await.refused("unavailable", "no_live_worker");
    assert_eq!(state(&fleet, "stopped").await, "active");
    fleet.stop_worker("w1").await;
    assert_eq!(state(&fleet, "stopped").await, "passive");
    // Idleness does close.
    fleet.add_worker("w2", &[]).await.unwrap();
    fleet.ask("doc.edit", "reclaimed", json!({"body": "busy"})).await.ok();
    let asked = fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 60_000})).await.ok();
    assert_eq!(asked, json!({"reclaimed": []}));
    assert_eq!(state(&fleet, "reclaimed").await, "active");
    let asked = fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    assert_eq!(asked, json!({"reclaimed": ["reclaimed"]}));
    fleet.ask("session.get", "reclaimed", json!({})).await.refused("not_found", "no_session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_with_nowhere_to_go_is_refused_at_once_and_says_that_it_is_final() {
    let url = server::shared().await.unwrap().url();
    let fleet = Fleet::start(url).await.unwrap();
    fleet.open("s1").await;
    let begun = Instant::now();
    let error = fleet.ask("admin.move", "s1", json!({"reason": "r"})).await.refused("unavailable", "no_live_worker");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((&error["retryable"], error.get("retry_after_ms")), (&json!(false), None));
    let client = holdfast_client::Client::new(fleet.nats.clone()).below(fleet.root.clone());
    let session = client.session(holdfast_protocol::SessionId::parse("s1").unwrap());
    let begun = Instant::now();
    session.move_away(Move { reason: "r".to_owned(), ..Move::default() }).send().await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_ends_as_soon_as_its_sessions_are_elsewhere() {
    let mut fleet = Fleet::start(server::shared().await.unwrap().url()).await.unwrap();
    fleet.open("s1").await;
    let (grace, begun) = (Duration::from_secs(30), Instant::now());
    fleet.take_worker("w1").stop(grace).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_of_a_name_does_not_start_while_the_first_is_alive() {
    let url = server::shared().await.unwrap().url();
    let mut fleet = Fleet::start(url).await.unwrap();
    fleet.open("s1").await;
    let options = ConnectOptions::to(url);
    let mut second = Fleet::empty_below(url, fleet.root.clone()).await.unwrap();
    let refused = second.add_worker_as(&options, "w1", |_| ()).await.unwrap_err();
    let told = refused.downcast_ref::<StartError>().expect("a worker's error");
    assert!(matches!(told, StartError::NameTaken { worker, .. } if worker.as_str() == "w1"), "{told}");
    assert_eq!(fleet.sessions_on("w1"), 1, "the first one goes on");

    second.add_worker_as(&options, "w1", |config| config.name_rule = NameRule::Replace).await.unwrap();
    let first = fleet.take_worker("w1");
    tokio::time::timeout(SOON, first.name_taken()).await.expect("the first one is told");
    first.stop(Duration::from_secs(10)).await;
    fleet.ask("doc.get", "s1", json!({})).await.ok();
    // The first one took nothing along: the second one has its lease.
    let leases = holdfast_store::Storage::leases(&*fleet.store).await.unwrap();
    assert_eq!(leases.len(), 1, "{leases:?}");
    second.stop_worker("w1").await;
    fleet.add_worker("w1", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_of_a_name_that_start_at_once_one_does() {
    let url = server::shared().await.unwrap().url();
    let mut one = Fleet::empty(url).await.unwrap();
    let mut other = Fleet::empty_below(url, one.root.clone()).await.unwrap();
    let (first, second) = tokio::join!(one.add_worker("w1", &[]), other.add_worker("w1", &[]));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_starts_at_once_under_the_name_of_one_that_was_killed() {
    let url = server::shared().await.unwrap().url();
    let mut fleet = Fleet::empty(url).await.unwrap();
    fleet.add_mortal_worker("w1").await.unwrap();
    fleet.kill_worker("w1");
    let begun = Instant::now();
    // Its connection may take a moment to close; the lease itself would take ten seconds.
    until_ok("the name to be free", Duration::from_secs(5), async || {
        fleet.add_worker("w1", &[]).await.map_err(|error| format!("{error:#}"))
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_ends_within_its_grace_period_while_nats_stands_still_or_is_gone() {
    const GRACE: Duration = Duration::from_secs(3);
    for paused in [true, false] {
        let mut nats = server::own(|_| ()).await.unwrap();
        let mut fleet = Fleet::start(&nats.url()).await.unwrap();
        for n in 0..20 {
            fleet.open(&format!("s{n}")).await;
        }
        if paused {
            nats.pause().unwrap();
        } else {
            nats.kill9().unwrap();
        }
        let (worker, coordinator) = (fleet.take_worker("w1"), fleet.take_coordinator().unwrap());
        let begun = Instant::now();
        tokio::join!(worker.stop(GRACE), coordinator.stop(GRACE));
        // The scheduler of a busy machine has a share in this.
        assert!(begun.elapsed() < GRACE + Duration::from_secs(1), "paused: {paused}, {:?}", begun.elapsed());
        if paused {
            nats.resume().unwrap();
        }
    }
}

/// A server with two users: one that nobody need name and may do everything, and one that may do what a worker does.
fn with_a_worker_user() -> String {
    let publish = [
        "$KV.sessions.>",
        "hf.log.>",
        "$KV.workers.w1",
        "$JS.API.STREAM.INFO.KV_sessions",
        "$JS.API.STREAM.INFO.KV_workers",
        "$JS.API.STREAM.MSG.GET.KV_sessions",
        "$JS.API.STREAM.MSG.GET.KV_workers",
        "$JS.API.DIRECT.GET.KV_sessions",
        "$JS.API.DIRECT.GET.KV_sessions.>",
        "$JS.API.DIRECT.GET.KV_workers",
        "hf.*.admin.move.*",
        "hf.sys.control.>",
        "_INBOX.>",
    ];
    let subscribe = ["hf.sys.agent.>", "hf.sys.control.>", "hf.sys.relay.floor", "$SRV.>", "_INBOX.>"];
    format!(
        "{}\nauthorization {{ users: [ {{user: all, password: all}},\n{{user: worker, password: worker, permissions: {{ \
         publish: {{allow: {publish:?}}}, subscribe: {{allow: {subscribe:?}}} }} }} ] }}\nno_auth_user: all\n",
        holdfast_deploy::SERVER_CONF
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_needs_neither_the_secret_nor_the_kept_signals() {
    let nats = server::own(|options| options.conf = with_a_worker_user().into()).await.unwrap();
    let mut fleet = Fleet::empty_below(&nats.url(), Default::default()).await.unwrap();
    let login = ConnectOptions {
        user: Some("worker".to_owned()),
        password: Some(Password("worker".to_owned())),
        ..ConnectOptions::to(nats.url())
    };
    fleet.add_worker_as(&login, "w1", |_| ()).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet.open("s1").await;
    let token = fleet.acquire("s1", "me").await;
    fleet.ask("doc.edit", "s1", json!({"token": token, "body": "mine"})).await.ok();
    fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["body"], "mine");
    fleet.stop_worker("w1").await;
    assert_eq!(state(&fleet, "s1").await, "passive");
    let log = std::fs::read_to_string(nats.log()).unwrap();
    assert!(!log.contains("Violation"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_ends_within_its_grace_period_without_a_leader() {
    const GRACE: Duration = Duration::from_secs(3);
    let mut cluster = server::own_cluster().await.unwrap();
    let mut fleet = Fleet::start(&cluster.url()).await.unwrap();
    for n in 0..20 {
        fleet.open(&format!("s{n}")).await;
    }
    for server in 0..2 {
        cluster.servers_mut()[server].kill9().unwrap();
    }
    let (worker, coordinator) = (fleet.take_worker("w1"), fleet.take_coordinator().unwrap());
    let begun = Instant::now();
    tokio::join!(worker.stop(GRACE), coordinator.stop(GRACE));
    assert!(begun.elapsed() < GRACE + Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_ends_within_its_grace_period_while_the_store_is_full() {
    const GRACE: Duration = Duration::from_secs(3);
    let conf = holdfast_deploy::SERVER_CONF.replace("max_file_store: 16GB", "max_file_store: 20MB");
    let nats = server::own(|options| options.conf = conf.into()).await.unwrap();
    let mut fleet = Fleet::start(&nats.url()).await.unwrap();
    let body = "x".repeat(400_000);
    let mut is_full = false;
    for n in 0..60 {
        let open = json!({"id": format!("s{n}"), "content": {"body": body}});
        let opened = fleet.try_ask("session.open", "", &open, SOON).await.unwrap();
        if opened.body.get("error").is_some() {
            is_full = true;
            break;
        }
    }
    assert!(is_full, "the store takes everything");
    let (worker, coordinator) = (fleet.take_worker("w1"), fleet.take_coordinator().unwrap());
    let begun = Instant::now();
    worker.stop(GRACE).await;
    coordinator.stop(GRACE).await;
    assert!(begun.elapsed() < 2 * GRACE + Duration::from_secs(1), "{:?}", begun.elapsed());
}
