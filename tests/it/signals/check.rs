//! What must hold of signals, checked against the streams as they are read back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use holdfast_tests::fleet::{Fleet, SOON, Signals, Stored};
use holdfast_tests::wait::until_ok;
use serde_json::{Value, json};

use super::work::Work;

/// A signal that the stream calls for: its id and `group.event`, and what is known of it.
struct Expected {
    id: String,
    session: String,
    event: String,
    request_id: Value,
    revision: Value,
}

/// Every message of the stream has its signals, by id, and each signal has its message.
pub(super) async fn every_commit_is_announced(fleet: &Fleet, signals: &Signals) {
    let expected = expected(&fleet.stream().await.unwrap(), &fleet.root.sessions_stream());
    assert!(expected.len() > 50, "there was something to announce");
    until_ok("every commit to be announced", SOON, async || {
        let all = signals.all();
        let ids: HashSet<&str> = all.iter().filter_map(|(_, body)| body["id"].as_str()).collect();
        match expected.iter().find(|expected| !ids.contains(&*expected.id)) {
            None => Ok(()),
            Some(missing) => Err(format!("no signal {} {} of {}", missing.id, missing.event, missing.session)),
        }
    })
    .await;
    let all = signals.all();
    let mut by_id: HashMap<&str, &Value> = HashMap::new();
    for (subject, body) in &all {
        envelope_is_whole(&fleet.root.to_string(), subject, body);
        let first = by_id.entry(body["id"].as_str().unwrap()).or_insert(body);
        assert_eq!((&first["type"], &first["data"]), (&body["type"], &body["data"]), "one id is one event");
    }
    for expected in &expected {
        let body = by_id[&*expected.id];
        assert_eq!(body["type"], format!("holdfast.{}.v1", expected.event), "{body}");
        assert_eq!(
            (&body["subject"], &body["data"]["revision"]),
            (&json!(expected.session), &expected.revision),
            "{body}"
        );
        assert_eq!(body["correlationid"], expected.request_id, "{body}");
    }
    // Frames that a snapshot replaced are gone; records are all there.
    let known: HashSet<&str> = expected.iter().map(|expected| &*expected.id).collect();
    let is_stray = |body: &&Value| {
        let is_doc = body["type"].as_str().is_some_and(|kind| kind.starts_with("holdfast.doc."));
        !is_doc && body["type"] != "holdfast.lock.conflict.v1" && !known.contains(body["id"].as_str().unwrap())
    };
    assert_eq!(by_id.values().find(|body| is_stray(body)), None, "a signal of something that was not committed");
}

fn expected(stream: &[Stored], name: &str) -> Vec<Expected> {
    let mut expected = Vec::new();
    for stored in stream {
        let json = stored.json();
        let session = stored.subject.rsplit('.').next().unwrap().to_owned();
        let mut one = |index: usize, sequence: u64, event: &str, request_id: &Value, revision: Value| {
            let id = if index == 0 { format!("{name}:{sequence}") } else { format!("{name}:{sequence}:{index}") };
            let (session, event, request_id) = (session.clone(), event.to_owned(), request_id.clone());
            expected.push(Expected { id, session, event, request_id, revision });
        };
        if stored.subject.starts_with("$KV.") {
            let event = json["event"]["type"].as_str().unwrap();
            let release = &json["event"]["hand_over"];
            let grant = usize::from(release.is_object());
            if release.is_object() {
                one(0, stored.sequence, "lock.released", &release["request_id"], json!(stored.sequence));
            }
            one(grant, stored.sequence, event, &json["event"]["request_id"], json!(stored.sequence));
            if event == "session.opened" {
                one(1, stored.sequence, "session.activated", &json["event"]["request_id"], json!(stored.sequence));
            }
            continue;
        }
        let ops = json["ops"].as_array().into_iter().flatten().filter(|op| op["event"].is_object());
        for (index, op) in ops.enumerate() {
            let event = format!("doc.{}", op["event"]["type"].as_str().unwrap());
            one(index, stored.sequence, &event, &op["request_id"], op["event"]["revision"].clone());
        }
        for carried in json["snapshot"]["carried"].as_array().into_iter().flatten() {
            let event = format!("doc.{}", carried["event"]["type"].as_str().unwrap());
            let (index, sequence) = (carried["index"].as_u64().unwrap(), carried["sequence"].as_u64().unwrap());
            let revision = carried["event"]["revision"].clone();
            one(usize::try_from(index).unwrap(), sequence, &event, &carried["request_id"], revision);
        }
    }
    expected
}

/// CloudEvents 1.0, word for word as the contract has it.
fn envelope_is_whole(root: &str, subject: &str, body: &Value) {
    let tokens: Vec<&str> = subject.split('.').collect();
    let [r, "default", "signal", session, group, event] = tokens[..] else { panic!("{subject}") };
    assert_eq!(r, root);
    let mut members: BTreeSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    // What nobody asked for has no request.
    members.remove("correlationid");
    let all = ["data", "datacontenttype", "id", "sequence", "source", "specversion", "subject", "time", "type"];
    assert_eq!(members, BTreeSet::from(all), "{body}");
    assert_eq!(body["specversion"], "1.0");
    assert_eq!(body["source"], format!("/holdfast/default/{session}"));
    assert_eq!(body["type"], format!("holdfast.{group}.{event}.v1"));
    assert_eq!(body["subject"], session);
    assert_eq!(body["datacontenttype"], "application/json");
    let time = body["time"].as_str().unwrap();
    assert!(time.len() >= 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    let sequence = body["sequence"].as_str().unwrap();
    assert!(sequence.len() == 20 && sequence.bytes().all(|byte| byte.is_ascii_digit()), "{sequence}");
    if event != "conflict" {
        let of_id = body["id"].as_str().unwrap().split(':').nth(1).unwrap();
        assert_eq!(of_id.parse::<u64>().unwrap(), sequence.parse::<u64>().unwrap(), "{body}");
    }
    let mut members: Vec<&str> = body["data"].as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    // Of a session it is there where somebody asked and said who.
    members.retain(|member| group != "session" || *member != "actor");
    let expected: &[&str] = match group {
        "session" => &["previous_worker", "reason", "revision", "state", "worker"],
        "lock" => &["actor", "lock_revision", "owner", "previous_owner", "reason", "requested_owner", "revision"],
        _ => &["actor", "changed", "error", "path", "previous_revision", "revision"],
    };
    assert_eq!(members, expected, "{body}");
}

/// Commits, each at its first announcement, by session.
fn first_announcements(all: &[(String, Value)]) -> BTreeMap<String, Vec<Value>> {
    let mut ids = HashSet::new();
    let mut by_session: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (_, body) in all {
        let is_commit = body["type"] != "holdfast.lock.conflict.v1";
        if is_commit && ids.insert(body["id"].to_string()) {
            by_session.entry(body["subject"].as_str().unwrap().to_owned()).or_default().push(body.clone());
        }
    }
    by_session
}

/// Of each session in the order of commits, whether of its record or of its log.
pub(super) fn signals_are_in_commit_order(all: &[(String, Value)]) {
    for (session, bodies) in first_announcements(all) {
        let place = |body: &Value| {
            let id = body["id"].as_str().unwrap().to_owned();
            let index: u32 = id.split(':').nth(2).map_or(0, |index| index.parse().unwrap());
            (body["sequence"].as_str().unwrap().to_owned(), index)
        };
        for pair in bodies.windows(2) {
            assert!(place(&pair[0]) < place(&pair[1]), "of {session}, {} came before {}", pair[0], pair[1]);
        }
    }
}

/// Each change follows the one before; each that was acknowledged is there once, and no other.
pub(super) fn changes_of_documents_chain(
    all: &[(String, Value)],
    acknowledged: &BTreeMap<String, BTreeSet<String>>,
    revisions: &BTreeMap<String, u64>,
) {
    for (session, bodies) in first_announcements(all) {
        let mut revision = 0;
        let mut requests = BTreeSet::new();
        for body in &bodies {
            if body["type"] == "holdfast.session.opened.v1" {
                revision = 0;
            }
            if body["type"].as_str().unwrap().starts_with("holdfast.doc.") {
                let data = &body["data"];
                assert_eq!(
                    (&data["previous_revision"], &data["revision"]),
                    (&json!(revision), &json!(revision + 1)),
                    "{body}"
                );
                revision += 1;
                // Undo and redo came without a name.
                let actor = if body["type"] == "holdfast.doc.edited.v1" { json!("tester") } else { Value::Null };
                assert_eq!((&data["actor"], &data["error"]), (&actor, &Value::Null), "{body}");
                let request = body["correlationid"].as_str().unwrap().to_owned();
                assert!(requests.insert(request), "made twice: {body}");
            }
        }
        if let Some(last) = revisions.get(&session) {
            assert_eq!(revision, *last, "of {session}");
        }
        assert_eq!(requests, acknowledged.get(&session).cloned().unwrap_or_default(), "of {session}");
    }
}

/// The stream of signals has what was said of sessions and locks, and nothing of documents. It may have it up to 1 s
/// later than subscribers.
pub(super) async fn session_and_lock_signals_are_kept(fleet: &Fleet, signals: &Signals) {
    until_ok("what was said to be kept", SOON, async || {
        let kept = fleet.kept_signals().await.unwrap();
        let ids: HashSet<String> = kept.iter().map(|kept| kept.json()["id"].as_str().unwrap().to_owned()).collect();
        let said = signals.all().into_iter().filter(|(subject, _)| !subject.contains(".doc."));
        let missing = said.filter(|(_, body)| !ids.contains(body["id"].as_str().unwrap())).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} signals are not kept")) }
    })
    .await;
    let kept = fleet.kept_signals().await.unwrap();
    let mut by_id: HashMap<String, Value> = HashMap::new();
    for stored in &kept {
        assert!(!stored.subject.contains(".doc."), "{}", stored.subject);
        let twice = by_id.insert(stored.json()["id"].as_str().unwrap().to_owned(), stored.json());
        assert_eq!(twice, None, "kept twice");
    }
    let mut live = 0;
    for (subject, body) in signals.all().iter().filter(|(subject, _)| !subject.contains(".doc.")) {
        let kept = by_id.get(body["id"].as_str().unwrap());
        assert_eq!(kept.map(|kept| &kept["data"]), Some(&body["data"]), "{subject} is not kept as it was said");
        live += 1;
    }
    assert!(live >= by_id.len(), "{} were kept and {live} heard", by_id.len());
}

/// Tokens are in grants and in the requests of whoever shows them, and nowhere else.
pub(super) async fn no_token_is_anywhere(fleet: &Fleet, signals: &Signals, work: &Work) {
    let tokens = work.tokens();
    assert!(tokens.len() > 40, "{} tokens were granted", tokens.len());
    let stored = fleet.stream().await.unwrap().into_iter().chain(fleet.kept_signals().await.unwrap());
    let stored = stored.map(|stored| {
        (
            format!("message {} of {}", stored.sequence, stored.subject),
            format!("{} {}", stored.headers, String::from_utf8_lossy(&stored.body)),
        )
    });
    let said = signals.all().into_iter().map(|(subject, body)| (subject, body.to_string()));
    let refused = work.errors().into_iter().map(|error| ("an error".to_owned(), error));
    for (place, text) in stored.chain(said).chain(refused) {
        let found = tokens.iter().find(|token| text.contains(token.as_str()));
        assert_eq!(found, None, "{place} has a token: {text}");
    }
}
