//! A request's trace goes to the signals that it causes, and no secret goes into a log line.

use async_nats::{HeaderMap, Message};
use futures_util::StreamExt;
use holdfast_protocol::trace::{TRACEPARENT, TraceParent};
use holdfast_tests::fleet::Fleet;
use holdfast_tests::{logs, server};
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};

const SOON: Duration = Duration::from_secs(20);

fn trace(last: u8) -> String {
    TraceParent::new([0xab; 16], [last; 8], 1).unwrap().to_string()
}

async fn fleet() -> Fleet {
    Fleet::start(server::shared().await.unwrap().url()).await.unwrap()
}

/// Sends a request with this `traceparent` and returns the reply.
async fn ask(fleet: &Fleet, verb: &str, id: &str, body: Value, traceparent: &str) -> Value {
    let mut headers = HeaderMap::new();
    headers.insert(TRACEPARENT, traceparent);
    let tail = if id.is_empty() { String::new() } else { format!(".{id}") };
    let subject = format!("{}.default.{verb}{tail}", fleet.root);
    let answer = fleet.nats.request_with_headers(subject, headers, body.to_string().into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

fn trace_of(signal: &Message) -> Option<String> {
    Some(signal.headers.as_ref()?.get(TRACEPARENT)?.to_string())
}

/// The next signal whose subject ends with `event`.
async fn next(signals: &mut async_nats::Subscriber, event: &str) -> Message {
    let found = async {
        loop {
            let signal = signals.next().await.unwrap();
            if signal.subject.ends_with(event) {
                return signal;
            }
        }
    };
    timeout(SOON, found).await.unwrap_or_else(|_| panic!("no signal {event}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_a_request_over_record_or_frame_to_the_signal() {
    let fleet = fleet().await;
    let mut signals = fleet.nats.subscribe(format!("{}.default.signal.>", fleet.root)).await.unwrap();
    ask(&fleet, "session.open", "", json!({"id": "t1"}), &trace(1)).await;
    // A change of the record by a coordinator.
    let opened = next(&mut signals, "session.opened").await;
    assert_eq!(trace_of(&opened), Some(trace(1)));
    let grant = ask(&fleet, "lock.acquire", "t1", json!({"owner": "ann"}), &trace(2)).await;
    assert_eq!(trace_of(&next(&mut signals, "lock.acquired").await), Some(trace(2)));
    // A frame by an agent.
    let edit = json!({"token": grant["lock_token"], "body": logs::BODY});
    let edited = ask(&fleet, "doc.edit", "t1", edit, &trace(3)).await;
    assert_eq!(edited["revision"], 1, "{edited}");
    let signal = next(&mut signals, "doc.edited").await;
    assert_eq!(trace_of(&signal), Some(trace(3)));
    assert!(!String::from_utf8_lossy(&signal.payload).contains("abababab"), "the trace is a header and no member");
    // A change of the record by an agent.
    let close = json!({"token": grant["lock_token"], "discard": true});
    ask(&fleet, "session.close", "t1", close, &trace(4)).await;
    assert_eq!(trace_of(&next(&mut signals, "session.closed").await), Some(trace(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_trace_is_ignored() {
    let fleet = fleet().await;
    let mut signals = fleet.nats.subscribe(format!("{}.default.signal.>", fleet.root)).await.unwrap();
    for (n, malformed) in ["nonsense", "00-0-0-0", "ff-00-00-00", "00-\u{fc}"].into_iter().enumerate() {
        let opened = ask(&fleet, "session.open", "", json!({"id": format!("m{n}")}), malformed).await;
        assert_eq!(opened["created"], true, "{opened}");
        assert_eq!(trace_of(&next(&mut signals, "session.opened").await), None, "{malformed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_frame_keep_their_own_traces() {
    let fleet = fleet().await;
    let mut signals = fleet.nats.subscribe(format!("{}.default.signal.>", fleet.root)).await.unwrap();
    ask(&fleet, "session.open", "", json!({"id": "many"}), &trace(1)).await;
    let edits = (2..32).map(|n| {
        let body = json!({"body": format!("{n} {}", logs::BODY), "request_id": format!("r{n}")});
        let fleet = &fleet;
        async move { ask(fleet, "doc.edit", "many", body, &trace(n)).await }
    });
    futures_util::future::join_all(edits).await;
    for _ in 2..32 {
        let signal = next(&mut signals, "doc.edited").await;
        let body: Value = serde_json::from_slice(&signal.payload).unwrap();
        let n: u8 = body["correlationid"].as_str().unwrap().trim_start_matches('r').parse().unwrap();
        // A frame keeps 32 traces, so all of these fit into one.
        assert_eq!(trace_of(&signal), Some(trace(n)), "{body}");
    }
}

/// The whole suite is scanned; this test also takes the ways on which a body or a token could be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn no_refusal_logs_a_token_or_a_body() {
    let fleet = fleet().await;
    let secret = logs::BODY;
    ask(&fleet, "session.open", "", json!({"id": "s1", "content": {"body": secret}}), "").await;
    let grant = ask(&fleet, "lock.acquire", "s1", json!({"owner": "ann"}), "").await;
    let token = grant["lock_token"].as_str().unwrap();
    assert!(logs::secret_in(token).is_some(), "the scanner knows what a token looks like");
    let refused = [
        ("doc.edit", json!({"token": token, "bodi": secret})),
        ("doc.edit", json!({"token": [token], "body": secret})),
        ("doc.edit", json!({"token": token, "body": [secret]})),
        ("doc.edit", json!({"token": token, "body": secret, "expected_revision": 77})),
        ("doc.edit", json!({"token": "other", "body": secret})),
        ("lock.renew", json!({"token": token, "more": token})),
        ("lock.acquire", json!({"owner": "bob", "expected_token": token, "rotate": token})),
        ("doc.save", json!({"token": token})),
    ];
    for (verb, body) in refused {
        let answer = ask(&fleet, verb, "s1", body, "").await;
        assert!(answer["error"]["reason"].is_string(), "{verb}: {answer}");
    }
    ask(&fleet, "doc.edit", "s1", json!({"token": token, "fields": {"title": secret}}), "").await;
    let taken = ask(&fleet, "admin.takeover", "s1", json!({"owner": "ops", "reason": "stuck"}), "").await;
    assert!(taken["lock_token"].is_string(), "{taken}");
    let stale = ask(&fleet, "lock.release", "s1", json!({"token": token}), "").await;
    assert_eq!(stale["error"]["reason"], "stale_token");
}
