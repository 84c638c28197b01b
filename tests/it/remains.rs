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
    let sweeping = fleet.begin_coordinator_as(|config| {
        config.closed_retention = Duration::ZERO;
        config.sweep_delay = Duration::from_millis(50);
        config.sweep_interval = Duration::from_millis(100);
    });
    let sweeping = sweeping.await.unwrap();
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
