//! Frames: their condition, their outcome, their answer.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_protocol::{Namespace, SessionId, SessionKey};
use holdfast_store::chance::Dice;
use holdfast_store::memory::Faults;
use serde_json::{Value, json};

use super::{ask, done, owner, pause, same};
use crate::Fleet;
use crate::client::{Reply, Signals};

pub(super) fn key(id: &str) -> Result<SessionKey> {
    Ok(SessionKey::new(Namespace::parse("default")?, SessionId::parse(id)?))
}

/// The record of a session as it is stored now.
pub(super) async fn stored(fleet: &Fleet, id: &str) -> Result<Value> {
    use holdfast_store::Storage;
    let history = fleet.memory.history(&key(id)?, holdfast_protocol::Revision(0)).await?;
    let last = history.into_iter().next_back().and_then(|stored| stored.value).context("there is no record")?;
    Ok(serde_json::from_slice(&last)?)
}

/// A KV client gives the lock away, and nobody tells the agent.
pub(super) async fn a_superseded_token_writes_nothing(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 1, 1).await?;
    let client = fleet.client("a");
    done(&client, "session.open", json!({"id": "s1"})).await?;
    let grant = done(&client, "lock.acquire.s1", json!({"owner": "ann"})).await?;
    let token = grant["lock_token"].clone();
    done(&client, "doc.edit.s1", json!({"token": token, "body": "hers"})).await?;
    let mut record = stored(&fleet, "s1").await?;
    record["lock"] = Value::Null;
    record["lock_revision"] = json!(2);
    fleet.memory.edit_by_hand(&key("s1")?, Some(record.to_string().into()));
    pause(Dice::new(seed).below(10)).await;
    let late = ask(&client, "doc.edit.s1", json!({"token": token, "body": "hers again"})).await;
    same("a superseded token is refused", late.reason(), Some("not_locked"))?;
    let document = done(&client, "doc.get.s1", json!({"consistency": "linearizable"})).await?;
    same("the body", &document["body"], &json!("hers"))
}

/// How many edits were announced; two ids are two events.
async fn announced(signals: &mut Signals) -> Result<usize> {
    let mut events = BTreeSet::new();
    for (_, signal) in signals.until_quiet(Duration::from_secs(15)).await {
        let revision = signal["data"]["revision"].as_u64().context("a signal without a revision")?;
        events.insert((revision, signal["id"].as_str().unwrap_or_default().to_owned()));
    }
    Ok(events.len())
}

/// Acknowledgements are lost, and each edit is one op and one signal all the same.
pub(super) async fn a_frame_without_an_answer_is_stored_once(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 1, 1).await?;
    let client = fleet.client("a");
    let mut signals = client.listen("hf.default.signal.s1.doc.>").await?;
    done(&client, "session.open", json!({"id": "s1"})).await?;
    fleet.memory.set_faults(Faults { seed, lost_ack: 300, ..Faults::default() });
    for n in 1..=6 {
        let edited =
            done(&client, "doc.edit.s1", json!({"body": format!("{n}"), "request_id": format!("r{n}")})).await?;
        same("the revision", &edited["revision"], &json!(n))?;
    }
    fleet.memory.set_faults(Faults::default());
    same("edits that were announced", announced(&mut signals).await?, 6)
}

/// An acknowledgement is lost, and the session that was made is not taken for another's.
pub(super) async fn an_open_without_an_answer_is_no_conflict(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 1, 1).await?;
    let client = fleet.client("a");
    fleet.memory.set_faults(Faults { seed, lost_ack: 400, ..Faults::default() });
    for n in 0..6 {
        let reply = ask(&client, "session.open", json!({"id": format!("s{n}"), "mode": "create"})).await;
        ensure!(reply.reason() != Some("already_exists"), "s{n} was made by this very request: {reply:?}");
    }
    Ok(())
}

/// The storage takes nothing, so nothing is acknowledged.
pub(super) async fn an_acknowledged_edit_is_stored(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 1, 1).await?;
    let client = fleet.client("a");
    done(&client, "session.open", json!({"id": "s1"})).await?;
    done(&client, "doc.edit.s1", json!({"body": "one"})).await?;
    fleet.memory.set_faults(Faults { seed, unavailable: 1000, ..Faults::default() });
    let refused = ask(&client, "doc.edit.s1", json!({"body": "two"})).await;
    fleet.memory.set_faults(Faults::default());
    let document = done(&client, "doc.get.s1", json!({"consistency": "linearizable"})).await?;
    let expected = if matches!(refused, Reply::Done(_)) { "two" } else { "one" };
    same("the body behind an edit that could not be stored", &document["body"], &json!(expected))
}

/// Frames arrive after their agent has given up on them.
pub(super) async fn a_late_frame_shadows_nothing(seed: u64) -> Result<()> {
    let mut fleet = Fleet::start(seed, 1, 2).await?;
    let client = fleet.client("a");
    let mut signals = client.listen("hf.default.signal.s1.doc.edited").await?;
    done(&client, "session.open", json!({"id": "s1"})).await?;
    fleet.memory.set_faults(Faults { seed, late: 250, unreadable: 200, ..Faults::default() });
    for n in 1..=30 {
        // Retries have ids of their own, so that a shadowed one is not known as a copy.
        let mut tries = 0;
        let edited = loop {
            let body = json!({"body": format!("{n}.{tries}"), "expected_revision": n - 1});
            let reply = ask(&client, "doc.edit.s1", body).await;
            match reply {
                Reply::Done(edited) => break edited["revision"].clone(),
                _ if reply.reason() == Some("revision_mismatch") => break json!(n),
                _ => tries += 1,
            }
            ensure!(tries < 40, "no edit is taken: {reply:?}");
            pause(50).await;
        };
        same("the revision", edited, json!(n))?;
    }
    let before = done(&client, "doc.get.s1", json!({"consistency": "linearizable"})).await?;
    fleet.memory.set_faults(Faults::default());
    let last = owner(&client, "s1").await?;
    fleet.kill(&last)?;
    let after = done(&client, "doc.get.s1", json!({"consistency": "linearizable"})).await?;
    same("what the log has", &after, &before)?;
    same("edits that were announced", announced(&mut signals).await?, 30)
}

/// A nats-server that was killed has again what a snapshot replaced.
pub(super) async fn deleted_frames_that_come_back_change_nothing(seed: u64) -> Result<()> {
    let mut fleet = Fleet::start(seed, 1, 2).await?;
    let client = fleet.client("a");
    done(&client, "session.open", json!({"id": "s1", "content": {"body": "."}})).await?;
    for _ in 0..40 {
        done(&client, "doc.edit.s1", json!({"splices": [{"at": 0, "delete": 0, "insert": "x"}]})).await?;
    }
    let before = done(&client, "doc.get.s1", json!({"consistency": "linearizable"})).await?;
    fleet.memory.forget_deletions(&key("s1")?);
    let last = owner(&client, "s1").await?;
    fleet.kill(&last)?;
    let after = done(&client, "doc.get.s1", json!({"consistency": "linearizable"})).await?;
    same("the document", &after, &before)
}
