//! Rotating the secret that tokens are derived from.

use std::time::Duration;

use holdfast_protocol::RequestId;
use holdfast_protocol::token::{OldTokens, Secret};
use holdfast_store::{Storage, token_secret};
use holdfast_tests::fleet::{Fleet, Reply, SOON};
use holdfast_tests::server;
use holdfast_tests::wait::until;
use serde_json::{Value, json};

async fn start() -> Fleet {
    Fleet::start(server::shared().await.unwrap().url()).await.unwrap()
}

async fn rotate(fleet: &Fleet, body: Value) -> Reply {
    fleet.ask_raw(&format!("{}.sys.admin.rotate_secret", fleet.root), body.to_string().into_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn old_tokens_stay_good_until_their_lock_ends() {
    let mut fleet = start().await;
    fleet.add_coordinator().await.unwrap();
    let acquire = json!({"owner": "client-a", "request_id": "a-1"});
    for id in ["s1", "s2"] {
        fleet.open(id).await;
    }
    let grant = fleet.ask("lock.acquire", "s1", acquire.clone()).await.ok();
    let before = token_secret(&fleet.store).await.unwrap();
    let rotated = rotate(&fleet, json!({"reason": "spring cleaning", "request_id": "r-1"})).await.ok();
    assert_eq!(rotated, json!({"generation": 1, "coordinators": 2, "released": 0}));
    let again = rotate(&fleet, json!({"reason": "spring cleaning", "request_id": "r-1"})).await.ok();
    assert_eq!(again["generation"], 1, "a late copy rotates nothing");

    let token = &grant["lock_token"];
    fleet.ask("lock.validate", "s1", json!({"token": token})).await.ok();
    fleet.ask("doc.edit", "s1", json!({"token": token, "body": "x"})).await.ok();
    for _ in 0..4 {
        assert_eq!(fleet.ask("lock.acquire", "s1", acquire.clone()).await.ok(), grant, "asked again: the same grant");
    }
    fleet.ask("lock.release", "s1", json!({"token": token})).await.ok();

    let after = token_secret(&fleet.store).await.unwrap();
    assert_eq!(after.generation(), 1);
    for n in 0..8 {
        let owner = format!("client-{n}");
        let grant = fleet.ask("lock.acquire", "s2", json!({"owner": owner})).await.ok();
        let (_, record) = fleet.record("s2").await.unwrap();
        assert_eq!(record["secret"], 1);
        let derived = |secret: &Secret| {
            let nonce = record["lock"]["nonce"].as_str().unwrap().parse().unwrap();
            let key = holdfast_protocol::SessionKey::new(
                holdfast_protocol::Namespace::parse("default").unwrap(),
                holdfast_protocol::SessionId::parse("s2").unwrap(),
            );
            secret.token(&key, grant["lock_revision"].as_u64().unwrap(), nonce).to_string()
        };
        assert_eq!(grant["lock_token"], derived(&after), "both coordinators use the new secret");
        assert_ne!(grant["lock_token"], derived(&before));
        fleet.ask("lock.release", "s2", json!({"token": grant["lock_token"]})).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_tokens_are_no_good_and_their_holders_are_told_why() {
    let fleet = start().await;
    let signals = fleet.signals().await.unwrap();
    let ids: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    let mut tokens = Vec::new();
    for id in &ids {
        fleet.open(id).await;
        tokens.push(fleet.acquire(id, "client-a").await);
    }
    fleet.open("free").await;
    let body = json!({"reason": "a backup was lost", "revoke": true, "actor": "oncall", "request_id": "r-1"});
    let rotated = until("all locks to be freed", SOON, async || {
        let reply = rotate(&fleet, body.clone()).await;
        reply.number.is_none().then(|| reply.ok())
    })
    .await;
    assert_eq!(rotated["generation"], 1);
    for (id, token) in ids.iter().zip(&tokens) {
        let (_, record) = fleet.record(id).await.unwrap();
        assert_eq!((&record["lock"], &record["secret"]), (&Value::Null, &json!(1)), "{record}");
        let edit = fleet.ask("doc.edit", id, json!({"token": token, "body": "x"})).await;
        let refusal = edit.refused("conflict", "not_locked");
        let why = refusal["details"]["released_because"].as_str().unwrap();
        assert!(why.ends_with("a backup was lost"), "{refusal}");
        fleet.ask("lock.validate", id, json!({"token": token})).await.refused("conflict", "not_locked");
    }
    assert_eq!(fleet.record("free").await.unwrap().1["secret"], 1, "no coordinator may grant there by an old secret");
    fleet.acquire("s0", "client-b").await;
    let stale = fleet.ask("lock.release", "s0", json!({"token": tokens[0]})).await;
    assert_eq!(stale.refused("conflict", "stale_token")["details"]["owner"], "client-b");
    let released = signals.wait_for("s1", "lock.released").await;
    assert_eq!(released["data"]["actor"], "oncall");
    assert_eq!(released["data"]["previous_owner"], "client-a");
    assert_eq!(released["correlationid"], "r-1");
}

/// A rotation that no coordinator hears of, because it is only stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_did_not_hear_of_a_rotation_grants_nothing_by_the_old_secret() {
    let mut fleet = start().await;
    fleet.open("s1").await;
    let old = fleet.acquire("s1", "client-a").await;
    let (revision, stored) = fleet.store.secret().await.unwrap();
    let secret = Secret::from_stored(&stored.unwrap()).unwrap();
    let request_id = RequestId::parse("unheard").unwrap();
    let rotated = secret.rotated([9; 32], OldTokens::Keep, &request_id);
    fleet.store.put_secret(revision, rotated.to_stored().into()).await.unwrap();

    // Another coordinator reads it when it starts, and is the only one that marks the record.
    let first = fleet.take_coordinator().unwrap();
    fleet.ask("lock.release", "s1", json!({"token": old})).await.ok();
    let (revision, mut record) = fleet.record("s1").await.unwrap();
    record["secret"] = json!(1);
    fleet.edit_record("s1", revision, record.to_string().into_bytes()).await.unwrap();
    let grant = fleet.ask("lock.acquire", "s1", json!({"owner": "client-b"})).await.ok();
    let (_, record) = fleet.record("s1").await.unwrap();
    let nonce = record["lock"]["nonce"].as_str().unwrap().parse().unwrap();
    let key = holdfast_protocol::SessionKey::new(
        holdfast_protocol::Namespace::parse("default").unwrap(),
        holdfast_protocol::SessionId::parse("s1").unwrap(),
    );
    let token = rotated.token(&key, grant["lock_revision"].as_u64().unwrap(), nonce);
    assert_eq!(grant["lock_token"], token.to_string(), "it read the secret again before it granted the lock");
    first.stop(Duration::from_secs(5)).await;
}
