//! Break-glass: an operator edits, breaks, repairs and deletes records with a KV client. The very next write honours
//! it, signals tell of it, and what does not parse is never written over.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use holdfast_tests::fleet::{Fleet, SOON};
use holdfast_tests::wait::{until, until_ok};
use holdfast_tests::{blake3_hex, server};
use serde_json::{Value, json};

async fn fleet() -> Fleet {
    Fleet::start(server::shared().await.unwrap().url()).await.unwrap()
}

/// Changes one record as an operator with an editor does. Returns its revision.
async fn edit_by_hand(fleet: &Fleet, id: &str, change: impl FnOnce(&mut Value)) -> u64 {
    let (revision, mut record) = fleet.record(id).await.unwrap();
    change(&mut record);
    fleet.edit_record(id, revision, record.to_string().into_bytes()).await.unwrap()
}

/// What a holder can do with its token.
const SHOWING_A_TOKEN: [(&str, Option<&str>); 7] = [
    ("doc.edit", Some("x")),
    ("doc.undo", None),
    ("doc.redo", None),
    ("lock.renew", None),
    ("lock.validate", None),
    ("lock.release", None),
    ("session.close", None),
];

fn showing(token: &str, body: Option<&str>) -> Value {
    let mut request = json!({ "token": token });
    if let Some(body) = body {
        request["body"] = json!(body);
    }
    request
}

/// A session whose lock is held, with one edit. Returns the token.
async fn held(fleet: &Fleet, id: &str) -> String {
    fleet.open(id).await;
    let token = fleet.acquire(id, "a").await;
    fleet.ask("doc.edit", id, json!({"token": token, "body": "kept"})).await.ok();
    token
}

/// What a hand edit does to a record.
type Damage = fn(&mut Value);

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_taken_away_by_hand_is_gone_for_the_very_next_request() {
    let fleet = fleet().await;
    let signals = fleet.signals().await.unwrap();
    for (verb, body) in SHOWING_A_TOKEN {
        let id = verb.replace('.', "-");
        let token = held(&fleet, &id).await;
        let revision = edit_by_hand(&fleet, &id, |record| record["lock"] = Value::Null).await;
        let refusal = fleet.ask(verb, &id, showing(&token, body)).await.refused("conflict", "not_locked");
        assert_eq!(refusal["details"]["revision"], revision, "decided on the edited record");

        let heard = signals.wait_for(&id, "lock.changed").await;
        let data = &heard["data"];
        assert_eq!(
            (&data["owner"], &data["previous_owner"], &data["revision"]),
            (&Value::Null, &json!("a"), &json!(revision))
        );
        assert_eq!(heard["id"], format!("{}:{revision}", fleet.root.sessions_stream()));
        let next = fleet.ask("lock.acquire", &id, json!({"owner": "b"})).await.ok();
        assert_eq!(next["lock_revision"], 2, "counted on from the record");
        fleet.ask("doc.edit", &id, json!({"token": next["lock_token"], "body": "y"})).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_given_by_hand_is_the_operators_for_the_very_next_request() {
    let fleet = fleet().await;
    let signals = fleet.signals().await.unwrap();
    for (verb, body) in SHOWING_A_TOKEN {
        let id = verb.replace('.', "-");
        let token = held(&fleet, &id).await;
        let revision = edit_by_hand(&fleet, &id, |record| {
            record["lock_revision"] = json!(2);
            record["lock"] = json!({"owner": "ops", "revision": 2, "token_hash": blake3_hex(b"a word of my own")});
        })
        .await;
        let refusal = fleet.ask(verb, &id, showing(&token, body)).await.refused("conflict", "stale_token");
        let details = &refusal["details"];
        assert_eq!(
            (&details["owner"], &details["lock_revision"], &details["revision"]),
            (&json!("ops"), &json!(2), &json!(revision))
        );
        fleet.ask("lock.acquire", &id, json!({"owner": "b"})).await.refused("conflict", "lock_held");
        let heard = signals.wait_for(&id, "lock.changed").await;
        assert_eq!((&heard["data"]["owner"], &heard["data"]["previous_owner"]), (&json!("ops"), &json!("a")));

        let own = showing("a word of my own", Some("by ops"));
        assert_eq!(fleet.ask("doc.edit", &id, own).await.ok()["revision"], 2);
        let own = showing("a word of my own", None);
        assert_eq!(fleet.ask("lock.validate", &id, own.clone()).await.ok()["owner"], "ops");
        assert_eq!(fleet.ask("lock.release", &id, own).await.ok()["lock_revision"], 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_revision_is_raised_by_hand_is_no_longer_proven_by_its_token() {
    let fleet = fleet().await;
    for (verb, body) in SHOWING_A_TOKEN {
        let id = verb.replace('.', "-");
        let token = held(&fleet, &id).await;
        // Without a hash there is no token that fits.
        edit_by_hand(&fleet, &id, |record| {
            record["lock_revision"] = json!(2);
            record["lock"] = json!({"owner": "a", "revision": 2});
        })
        .await;
        fleet.ask(verb, &id, showing(&token, body)).await.refused("conflict", "stale_token");
        fleet
            .ask("lock.acquire", &id, json!({"owner": "a", "expected_token": token}))
            .await
            .refused("conflict", "stale_token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_work_are_stopped_by_a_hand_edit_at_once() {
    let mut fleet = fleet().await;
    fleet.add_coordinator().await.unwrap();
    let fleet = fleet;
    let token = held(&fleet, "s1").await;
    let over = AtomicBool::new(false);
    let writer = async |n: usize| {
        let mut accepted = 0_u32;
        loop {
            // Asked after the operator was answered, so that it must not be accepted.
            let is_late = over.load(Ordering::SeqCst);
            let edit = json!({"token": token, "splices": [{"at": 0, "delete": 0, "insert": format!("<{n}>")}]});
            let reply = fleet.ask("doc.edit", "s1", edit).await;
            if reply.number.is_some() {
                reply.refused("conflict", "not_locked");
                return accepted;
            }
            assert!(!is_late, "an old token wrote after the record was edited");
            accepted += 1;
        }
    };
    let operator = async {
        until("the writers to be at work", SOON, async || {
            let document = fleet.ask("doc.get", "s1", json!({})).await.ok();
            document["revision"].as_u64().filter(|revision| *revision > 100)
        })
        .await;
        let revision = edit_by_hand(&fleet, "s1", |record| record["lock"] = Value::Null).await;
        over.store(true, Ordering::SeqCst);
        revision
    };
    let (accepted, revision) = tokio::join!(join_all((0..8).map(writer)), operator);
    let accepted: u32 = accepted.into_iter().sum();
    let document = fleet.ask("doc.get", "s1", json!({"consistency": "linearizable"})).await.ok();
    assert_eq!(document["body"].as_str().unwrap().matches('<').count(), accepted as usize);
    let late = fleet.stream().await.unwrap().into_iter().filter(|stored| stored.sequence > revision);
    let ops = late.filter_map(|stored| stored.json()["ops"].as_array().map(Vec::len)).sum::<usize>();
    assert_eq!(ops, 0, "nothing was written behind the edited record");
}

/// What breaks a record, and a word of the parser's about it.
fn breakages(record: &Value) -> Vec<(Vec<u8>, &'static str)> {
    let with = |change: fn(&mut Value)| {
        let mut record = record.clone();
        change(&mut record);
        record.to_string().into_bytes()
    };
    let cut = record.to_string().into_bytes();
    vec![
        (b"nonsense".to_vec(), "expected"),
        (b"\xff\xfe".to_vec(), "expected"),
        (b"{}".to_vec(), "missing field `v`"),
        (b"[]".to_vec(), "v"),
        (cut[..cut.len() / 2].to_vec(), "EOF"),
        (with(|record| record["v"] = json!(2)), "version 2"),
        (with(|record| record["id"] = json!("another")), "another"),
        (with(|record| record["namespace"] = json!("other")), "other"),
        (with(|record| record["lokc"] = Value::Null), "lokc"),
        (with(|record| record["lock"]["token"] = json!("t")), "unknown field `token`"),
        (with(|record| record["lock"] = json!({"revision": 1})), "missing field `owner`"),
        (with(|record| record["lock"]["revision"] = json!(9)), "lock_revision"),
        (with(|record| record["path"] = json!("a.md")), "workspace"),
        (with(|record| record["owner"] = Value::Null), "owner"),
        (with(|record| record["state"] = json!("asleep")), "asleep"),
        (with(|record| record["config"]["idle_timeout_ms"] = json!("1 h")), "1 h"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_record_is_reported_and_left_as_it_is_until_it_is_repaired() {
    let mut fleet = fleet().await;
    fleet.add_coordinator().await.unwrap();
    let fleet = fleet;
    let signals = fleet.signals().await.unwrap();
    let token = held(&fleet, "s1").await;
    let (_, whole) = fleet.record_bytes("s1").await.unwrap();
    let requests = [
        ("session.get", json!({})),
        ("session.close", json!({"token": token})),
        ("lock.acquire", json!({"owner": "b"})),
        ("lock.acquire", json!({"owner": "b", "wait_ms": 1000})),
        ("lock.validate", json!({"token": token})),
        ("lock.renew", json!({"token": token})),
        ("lock.release", json!({"token": token, "request_id": "r1"})),
        ("doc.get", json!({"consistency": "linearizable"})),
        ("doc.edit", json!({"token": token, "body": "x", "request_id": "r2"})),
        ("doc.undo", json!({"token": token})),
        ("doc.redo", json!({"token": token})),
        ("doc.load", json!({"token": token})),
        ("doc.save", json!({"token": token})),
        ("admin.takeover", json!({"owner": "ops", "reason": "r"})),
        ("admin.unlock", json!({"reason": "r"})),
        ("admin.move", json!({"reason": "r"})),
    ];
    let opens = [json!({"id": "s1"}), json!({"id": "s1", "mode": "create"}), json!({"id": "s1", "mode": "attach"})];
    for (broken, word) in breakages(&serde_json::from_slice(&whole).unwrap()) {
        let shown = String::from_utf8_lossy(&broken).into_owned();
        let (revision, _) = fleet.record_bytes("s1").await.unwrap();
        let revision = fleet.edit_record("s1", revision, broken.clone()).await.unwrap();
        let session = requests.iter().map(|(verb, body)| fleet.ask(verb, "s1", body.clone()));
        let open = opens.iter().map(|body| fleet.ask("session.open", "", body.clone()));
        for reply in join_all(session).await.into_iter().chain(join_all(open).await) {
            let error = reply.refused("conflict", "record_invalid");
            assert_eq!(error["details"]["session_id"], "s1");
            assert!(error["details"]["problem"].as_str().unwrap().contains(word), "{shown}: {error}");
        }
        // As long as an agent has not met the new record, it goes on being touched.
        fleet.ask("session.touch", "s1", json!({})).await.refused("conflict", "record_invalid");
        let listed = fleet.ask("session.list", "", json!({})).await.ok();
        assert_eq!(listed["sessions"], json!([]), "left out of lists");
        fleet.ask("admin.reclaim", "", json!({"max_idle_ms": 0})).await.ok();
        assert_eq!(fleet.record_bytes("s1").await.unwrap(), (revision, broken), "not written over");
        let id = format!("{}:{revision}", fleet.root.sessions_stream());
        let heard = until("the breakage to be announced", SOON, async || {
            signals.all().into_iter().find(|(_, body)| body["id"] == id).map(|(_, body)| body)
        });
        let heard = heard.await;
        assert_eq!(heard["type"], "holdfast.lock.changed.v1");
        assert!(heard["data"]["reason"].as_str().unwrap().contains(word), "{heard}");

        fleet.edit_record("s1", revision, whole.clone()).await.unwrap();
        let document = fleet.ask("doc.get", "s1", json!({"consistency": "linearizable"})).await.ok();
        assert_eq!((&document["body"], &document["revision"]), (&json!("kept"), &json!(1)), "after {shown}");
        fleet.ask("lock.validate", "s1", json!({"token": token})).await.ok();
    }
    fleet.ask("doc.edit", "s1", json!({"token": token, "body": "goes on"})).await.ok();
    assert_eq!(fleet.ask("doc.undo", "s1", json!({"token": token})).await.ok()["revision"], 3);
    assert_eq!(fleet.ask("doc.get", "s1", json!({})).await.ok()["body"], "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_clocks_nor_leaving_workers_write_over_a_broken_record() {
    let mut fleet = fleet().await;
    let signals = fleet.signals().await.unwrap();
    // Of each kind one that breaks, and one that shows what would have happened.
    let lease = json!({"owner": "a", "ttl_ms": 1000});
    for id in ["idle", "idle-whole", "lease", "lease-whole", "drain"] {
        let idle = if id.starts_with("idle") { json!({"idle_timeout_ms": 1000}) } else { json!({}) };
        fleet.ask("session.open", "", json!({"id": id, "config": idle, "content": {"body": id}})).await.ok();
        if id.starts_with("lease") {
            fleet.ask("lock.acquire", id, lease.clone()).await.ok();
        }
    }
    let mut whole = Vec::new();
    for id in ["idle", "lease", "drain"] {
        let (revision, record) = fleet.record_bytes(id).await.unwrap();
        let broken = fleet.edit_record(id, revision, b"broken".to_vec()).await.unwrap();
        whole.push((id, broken, record));
    }
    signals.wait_for("idle-whole", "session.passivated").await;
    signals.wait_for("lease-whole", "lock.expired").await;
    let logs = |stream: Vec<holdfast_tests::fleet::Stored>| {
        let logs = stream.into_iter().filter(|stored| stored.subject.contains(".log."));
        logs.map(|stored| (stored.subject, stored.sequence)).collect::<Vec<_>>()
    };
    let mine = |logs: &[(String, u64)]| -> Vec<(String, u64)> {
        let is_mine = |subject: &str| ["idle", "lease", "drain"].iter().any(|id| subject.ends_with(&format!(".{id}")));
        logs.iter().filter(|(subject, _)| is_mine(subject)).cloned().collect()
    };
    let before = mine(&logs(fleet.stream().await.unwrap()));
    fleet.stop_worker("w1").await;
    fleet.add_worker("w2", &[]).await.unwrap();
    for (id, revision, record) in whole {
        assert_eq!(fleet.record_bytes(id).await.unwrap(), (revision, b"broken".to_vec()), "{id}");
        fleet.ask("doc.get", id, json!({})).await.refused("conflict", "record_invalid");
        assert_eq!(mine(&logs(fleet.stream().await.unwrap())).len(), before.len(), "the logs stay");
        fleet.edit_record(id, revision, record).await.unwrap();
    }
    for id in ["idle", "lease", "drain"] {
        // Its record names a worker that has left since.
        let body = until_ok("the session to be served", SOON, async || {
            let reply = fleet.ask("doc.get", id, json!({})).await;
            if reply.number.is_none() { Ok(reply.ok()["body"].clone()) } else { Err(reply.body.to_string()) }
        });
        assert_eq!(body.await, id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_deleted_by_hand_ends_its_session_and_the_next_one_starts_empty() {
    let mut fleet = fleet().await;
    fleet.add_coordinator().await.unwrap();
    let fleet = fleet;
    let signals = fleet.signals().await.unwrap();
    for operation in ["DEL", "PURGE"] {
        let id = operation.to_lowercase();
        let token = held(&fleet, &id).await;
        let revision = fleet.delete_record(&id, operation).await.unwrap();
        for (verb, body) in SHOWING_A_TOKEN {
            fleet.ask(verb, &id, showing(&token, body)).await.refused("not_found", "no_session");
        }
        for verb in ["session.get", "session.touch"] {
            fleet.ask(verb, &id, json!({})).await.refused("not_found", "no_session");
        }
        let linearizable = json!({"consistency": "linearizable"});
        fleet.ask("doc.get", &id, linearizable.clone()).await.refused("not_found", "no_session");
        fleet.ask("lock.acquire", &id, json!({"owner": "b"})).await.refused("not_found", "no_session");
        fleet.ask("session.open", "", json!({"id": id, "mode": "attach"})).await.refused("not_found", "no_session");
        let closed = signals.wait_for(&id, "session.closed").await;
        assert_eq!((&closed["data"]["state"], &closed["data"]["revision"]), (&json!("closed"), &json!(revision)));

        let opened = fleet.ask("session.open", "", json!({"id": id, "mode": "create"})).await.ok();
        assert_eq!(
            (&opened["created"], &opened["lock"], &opened["lock_revision"]),
            (&json!(true), &Value::Null, &json!(0))
        );
        let document = fleet.ask("doc.get", &id, linearizable.clone()).await.ok();
        assert_eq!((&document["body"], &document["revision"]), (&json!(""), &json!(0)));
        fleet.ask("doc.edit", &id, showing(&token, Some("x"))).await.refused("conflict", "not_locked");
        fleet.ask("doc.undo", &id, json!({})).await.refused("conflict", "nothing_to_undo");
        let again = fleet.acquire(&id, "a").await;
        assert_ne!(again, token, "the same lock revision of another session");
        fleet.ask("doc.edit", &id, showing(&token, Some("x"))).await.refused("conflict", "stale_token");
        fleet.ask("doc.edit", &id, showing(&again, Some("new"))).await.ok();
        // Taken from its agent, so that the next one reads the log as it is.
        edit_by_hand(&fleet, &id, |record| {
            record["owner"] = Value::Null;
            record["state"] = json!("passive");
        })
        .await;
        let document = fleet.ask("doc.get", &id, linearizable).await.ok();
        assert_eq!((&document["body"], &document["revision"]), (&json!("new"), &json!(1)), "built from the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_record_names_another_owner_by_hand_is_served_at_the_next_request() {
    let mut fleet = fleet().await;
    fleet.add_coordinator().await.unwrap();
    let fleet = fleet;
    let signals = fleet.signals().await.unwrap();
    let owners: [(&str, Damage); 6] = [
        ("nobody", |record| record["owner"]["worker"] = json!("nobody")),
        ("earlier", |record| record["owner"]["boot"] = json!("00000000-0000-7000-8000-000000000000")),
        ("later", |record| record["owner"]["boot"] = json!("ffffffff-ffff-7fff-bfff-ffffffffffff")),
        ("activation", |record| record["owner"]["activation"] = json!("ffffffff-ffff-7fff-bfff-ffffffffffff")),
        ("passive", |record| {
            record["owner"] = Value::Null;
            record["state"] = json!("passive");
        }),
        ("same", |_| ()),
    ];
    for (id, change) in owners {
        let token = held(&fleet, id).await;
        let revision = edit_by_hand(&fleet, id, change).await;
        let edited = fleet.ask("doc.edit", id, json!({"token": token, "body": "more", "request_id": "e1"})).await.ok();
        assert_eq!(edited["revision"], 2, "{id}");
        assert_eq!(
            fleet.ask("doc.edit", id, json!({"token": token, "body": "more", "request_id": "e1"})).await.ok(),
            edited
        );
        assert_eq!(fleet.ask("doc.undo", id, json!({"token": token})).await.ok()["revision"], 3);
        assert_eq!(fleet.ask("doc.get", id, json!({})).await.ok()["body"], "kept");
        fleet.ask("lock.release", id, json!({"token": token})).await.ok();
        assert_eq!(signals.wait_for(id, "lock.changed").await["data"]["revision"], revision);
    }
    let (_, record) = fleet.record("nobody").await.unwrap();
    assert_eq!(record["owner"]["worker"], "w1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_reverted_to_an_earlier_owner_loses_nothing_that_was_acknowledged_since() {
    let mut fleet = fleet().await;
    let token = held(&fleet, "s1").await;
    let (_, before) = fleet.record_bytes("s1").await.unwrap();
    fleet.add_worker("w2", &[]).await.unwrap();
    fleet.ask("admin.move", "s1", json!({"worker": "w2", "reason": "test"})).await.ok();
    for n in 0..5 {
        fleet.ask("doc.edit", "s1", json!({"token": token, "body": format!("on w2: {n}")})).await.ok();
    }
    let (revision, _) = fleet.record("s1").await.unwrap();
    fleet.edit_record("s1", revision, before).await.unwrap();
    let edited = fleet.ask("doc.edit", "s1", json!({"token": token, "fields": {"on": "w1"}})).await.ok();
    assert_eq!(edited["revision"], 7);
    let document = fleet.ask("doc.get", "s1", json!({"consistency": "linearizable"})).await.ok();
    assert_eq!((&document["body"], &document["fields"]), (&json!("on w2: 4"), &json!({"on": "w1"})));
    assert_eq!(fleet.record("s1").await.unwrap().1["owner"]["worker"], "w1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_given_to_another_worker_by_hand_has_one_writer_all_the_same() {
    let mut fleet = fleet().await;
    fleet.add_worker("w2", &[]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    let fleet = fleet;
    fleet.open("s1").await;
    let listed = fleet.ask_raw(&format!("{}.sys.worker.list", fleet.root), Vec::new()).await.ok();
    let workers = listed["workers"].as_array().unwrap();
    let edits = async |round: usize| {
        let edit = async |n: usize| {
            let splice = json!([{"at": 0, "delete": 0, "insert": format!("<{round}.{n}>")}]);
            fleet.ask("doc.edit", "s1", json!({ "splices": splice })).await.ok();
        };
        join_all((0..16).map(edit)).await;
    };
    for round in 0..10 {
        // Worker and boot only: the activation stays what it was.
        edit_by_hand(&fleet, "s1", |record| {
            let other = workers.iter().find(|worker| worker["worker"] != record["owner"]["worker"]).unwrap();
            record["owner"]["worker"] = other["worker"].clone();
            record["owner"]["boot"] = other["boot"].clone();
        })
        .await;
        // One of the coordinators has seen it, and passes requests on to one worker; the other one to the other.
        fleet.ask("session.get", "s1", json!({})).await.ok();
        edits(round).await;
    }
    let document = fleet.ask("doc.get", "s1", json!({"consistency": "linearizable"})).await.ok();
    assert_eq!(document["revision"], 160);
    let body = document["body"].as_str().unwrap();
    for (round, n) in (0..10).flat_map(|round| (0..16).map(move |n| (round, n))) {
        assert_eq!(body.matches(&format!("<{round}.{n}>")).count(), 1, "edit {n} of round {round}");
    }
}
