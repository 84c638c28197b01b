//! What closed sessions leave is removed after a time, and neither a zombie nor a session of the same id notices.

use std::time::Duration;

use async_nats::{HeaderMap, Request, jetstream};
use futures_util::TryStreamExt;
use holdfast_tests::fleet::{Fleet, SOON};
use holdfast_tests::server;
use holdfast_tests::wait::until;
use serde_json::{Value, json};

/// How many messages are stored of a session: revisions of its record, and its log.
async fn stored(fleet: &Fleet, id: &str) -> (usize, usize) {
    let context = jetstream::new(fleet.nats.clone());
    let stream = context.get_stream(fleet.root.sessions_stream()).await.unwrap();
    let subjects: Vec<(String, usize)> =
        stream.info_with_subjects(format!("*.*.default.{id}")).await.unwrap().try_collect().await.unwrap();
    let of = |begin: &str| {
        let mine = subjects.iter().filter(|(subject, _)| subject.starts_with(begin));
        mine.map(|(_, count)| count).sum()
    };
    (of("$KV."), of(&fleet.root.to_string()))
}

/// What a worker sends that wakes up long after: a frame under a fence that it knew.
async fn late_frame(fleet: &Fleet, id: &str, fence: u64) -> Value {
    let subject = format!("{}.log.default.{id}", fleet.root);
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", fence.to_string().as_str());
    let record = format!("$KV.{}.default.{id}", fleet.root.sessions_stream().trim_start_matches("KV_"));
    headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", record.as_str());
    let request = Request::new().headers(headers).payload("{}".into());
    let ack = fleet.nats.send_request(subject, request).await.unwrap();
    serde_json::from_slice(&ack.payload).unwrap()
}

fn sweeps_often(config: &mut holdfast_coordinator::Config) {
    config.closed_retention = Duration::ZERO;
    config.sweep_delay = Duration::from_millis(50);
    config.sweep_interval = Duration::from_millis(100);
}

async fn removes(url: &str) {
    let mut fleet = Fleet::empty(url).await.unwrap();
    fleet.add_worker("w1", &[]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    let mut fences = Vec::new();
    for id in ["ended", "again", "alive", "deleted"] {
        fleet.open(id).await;
        for n in 0..3 {
            fleet.ask("doc.edit", id, json!({"body": n.to_string()})).await.ok();
        }
        fences.push(fleet.record(id).await.unwrap().0);
    }
    for id in ["ended", "again"] {
        fleet.ask("session.close", id, json!({})).await.ok();
    }
    fleet.open("again").await;
    fleet.ask("doc.edit", "again", json!({"body": "second life"})).await.ok();
    fleet.delete_record("deleted", "DEL").await.unwrap();
    // By default all of it stays for a day. The one that relays sweeps.
    fleet.all_announced(&signals).await;
    fleet.take_coordinator().unwrap().stop(Duration::from_secs(5)).await;
    let (revisions, frames) = stored(&fleet, "ended").await;
    assert!(revisions >= 2 && frames >= 3, "{revisions} revisions, {frames} frames");
    let sweeping = fleet.begin_coordinator_as(sweeps_often).await.unwrap();
    fleet.all_announced(&signals).await;
    for id in ["ended", "deleted"] {
        until("nothing of it to be left", SOON, async || (stored(&fleet, id).await == (0, 0)).then_some(())).await;
    }
    for (id, body) in [("again", "second life"), ("alive", "2")] {
        assert_eq!(fleet.ask("doc.get", id, json!({"consistency": "linearizable"})).await.ok()["body"], body);
    }
    // Opened anew it is empty, though nothing tells of the one before; and who knew that one writes nothing.
    for (id, fence) in [("ended", fences[0]), ("deleted", fences[3])] {
        assert_eq!(late_frame(&fleet, id, fence).await["error"]["err_code"], 10071, "with nothing there");
        assert_eq!(fleet.open(id).await["created"], true);
        assert_eq!(late_frame(&fleet, id, fence).await["error"]["err_code"], 10071, "with a new session there");
        let document = fleet.ask("doc.get", id, json!({"consistency": "linearizable"})).await.ok();
        assert_eq!((&document["body"], &document["revision"]), (&json!(""), &json!(0)));
    }
    fleet.all_announced(&signals).await;
    for id in ["ended", "deleted"] {
        let all = signals.all();
        let closed = all.iter().filter(|(subject, _)| subject.ends_with(&format!(".{id}.session.closed")));
        let ids: std::collections::BTreeSet<_> = closed.map(|(_, body)| body["id"].to_string()).collect();
        assert_eq!(ids.len(), 1, "{id} ended once");
    }
    sweeping.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_closed_sessions_leave_is_removed_on_one_server() {
    removes(server::shared().await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_closed_sessions_leave_is_removed_on_a_cluster_of_three() {
    removes(&server::shared_cluster().await.unwrap().url()).await;
}

/// Subjects below `<root>.log`, with how many messages each has.
async fn logs(fleet: &Fleet) -> Vec<(String, usize)> {
    let context = jetstream::new(fleet.nats.clone());
    let stream = context.get_stream(fleet.root.sessions_stream()).await.unwrap();
    let below = format!("{}.log.", fleet.root);
    let all = stream.info_with_subjects(format!("{below}*.*")).await.unwrap();
    let mut all: Vec<(String, usize)> = all.try_collect().await.unwrap();
    all.iter_mut().for_each(|(subject, _)| *subject = subject.trim_start_matches(&below).to_owned());
    all.sort_unstable();
    all
}

async fn removes_strays(url: &str) {
    let mut fleet = Fleet::empty(url).await.unwrap();
    fleet.add_worker("w1", &[]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    let signals = fleet.signals().await.unwrap();
    for id in ["log", "session"] {
        fleet.open(id).await;
        fleet.ask("doc.edit", id, json!({"body": id})).await.ok();
    }
    let store = async |subject: String| {
        let ack = fleet.nats.request(subject.clone(), r#"{"id":"s1"}"#.into()).await.unwrap();
        let ack: Value = serde_json::from_slice(&ack.payload).unwrap();
        assert!(ack["seq"].is_u64(), "{subject}: {ack}");
    };
    // Requests for a namespace `log`, as whoever may ask `<root>.*.session.>` can send them.
    for stray in ["session.open", "session.list", "session.session", "admin.reclaim", "lock.x", "doc.doc", "worker.w"] {
        store(format!("{}.log.{stray}", fleet.root)).await;
    }
    // A namespace that had sessions before its name was reserved.
    store(format!("$KV.{}.signal.old", fleet.root.sessions_bucket())).await;
    store(format!("{}.log.signal.old", fleet.root)).await;
    fleet.all_announced(&signals).await;
    let strays = logs(&fleet).await.len();
    assert!(strays >= 10, "{strays}");
    let sweeping = fleet.begin_coordinator_as(sweeps_often).await.unwrap();
    fleet.take_coordinator().unwrap().stop(Duration::from_secs(5)).await;
    let stays = ["default.log", "default.session", "signal.old"];
    until("nothing but logs of sessions to be left", SOON, async || {
        let logs = logs(&fleet).await;
        logs.iter().map(|(subject, _)| subject.as_str()).eq(stays).then_some(())
    })
    .await;
    for id in ["log", "session"] {
        assert_eq!(fleet.ask("doc.get", id, json!({"consistency": "linearizable"})).await.ok()["body"], id);
    }
    // What comes is announced as before.
    fleet.all_announced(&signals).await;
    sweeping.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_store_in_logs_of_no_session_is_removed_on_one_server() {
    removes_strays(server::shared().await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_store_in_logs_of_no_session_is_removed_on_a_cluster_of_three() {
    removes_strays(&server::shared_cluster().await.unwrap().url()).await;
}
