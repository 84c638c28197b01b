//! Reads: how old an answer may be.

use anyhow::{Result, ensure};
use holdfast_protocol::Activation;
use holdfast_store::chance;
use holdfast_store::net::Link;
use serde_json::json;

use super::write::{key, stored};
use super::{ask, ask_at, done, owner, pause};
use crate::Fleet;
use crate::client::Reply;

/// A worker is cut off while its session goes elsewhere, and is read at a coordinator that does not know.
pub(super) async fn a_local_read_is_not_older_than_a_lease(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 2, 2).await?;
    let client = fleet.client("a");
    done(&client, "session.open", json!({"id": "s1", "content": {"body": "old"}})).await?;
    for coordinator in ["c1", "c2"] {
        ask_at(&fleet, coordinator, &client, "doc.get.s1", json!({})).await?;
    }
    let first = owner(&client, "s1").await?;
    fleet.set_link(&first, Link::Silent)?;
    let taken = ask_at(&fleet, "c1", &client, "admin.takeover.s1", json!({"owner": "ops", "reason": "stuck"})).await?;
    let Reply::Done(taken) = taken else { anyhow::bail!("the takeover came to {taken:?}") };
    let edit = json!({"token": taken["lock_token"], "body": "new", "request_id": "edit"});
    let mut edited = ask_at(&fleet, "c1", &client, "doc.edit.s1", edit.clone()).await?;
    while !matches!(edited, Reply::Done(_)) {
        pause(500).await;
        edited = ask_at(&fleet, "c1", &client, "doc.edit.s1", edit.clone()).await?;
    }
    pause(11_000).await;
    fleet.set_link(&first, Link::Up)?;
    // Its lease is confirmed again by then.
    pause(5_000).await;
    let read = ask_at(&fleet, "c2", &client, "doc.get.s1", json!({})).await?;
    if let Reply::Done(document) = read {
        ensure!(document["body"] == "new", "16 s behind the edit a read has {}", document["body"]);
    }
    Ok(())
}

/// A read waits in a worker that stands still for a moment, and the session goes elsewhere meanwhile.
pub(super) async fn a_coordinator_answers_nothing_older_than_it_has_seen(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 1, 2).await?;
    let (reader, writer) = (fleet.client("a"), fleet.client("b"));
    done(&reader, "session.open", json!({"id": "s1", "content": {"body": "old"}})).await?;
    done(&reader, "doc.get.s1", json!({})).await?;
    let first = owner(&reader, "s1").await?;
    let second = if first == "w1" { "w2" } else { "w1" };
    let list = reader.ask("hf.sys.worker.list", &json!({})).await.done();
    let boot = list["workers"].as_array().into_iter().flatten().find(|worker| worker["worker"] == second);
    let boot = boot.map(|worker| worker["boot"].clone()).unwrap_or_default();
    fleet.set_link(&first, Link::Frozen)?;
    let read = ask(&reader, "doc.get.s1", json!({}));
    let meanwhile = async {
        pause(10).await;
        let mut record = stored(&fleet, "s1").await?;
        record["owner"] = json!({"worker": second, "boot": boot, "activation": Activation(chance::id()), "since": ""});
        fleet.memory.edit_by_hand(&key("s1")?, Some(record.to_string().into()));
        done(&writer, "session.get.s1", json!({})).await?;
        done(&writer, "doc.edit.s1", json!({"body": "new"})).await?;
        pause(10).await;
        fleet.set_link(&first, Link::Up)
    };
    let (read, meanwhile) = tokio::join!(read, meanwhile);
    meanwhile?;
    if let Reply::Done(document) = read {
        ensure!(document["body"] == "new", "behind an edit at the same coordinator a read has {}", document["body"]);
    }
    Ok(())
}
