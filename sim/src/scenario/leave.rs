//! Leaving: only `session.close` and idleness end a session.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_store::chance::Dice;
use holdfast_store::memory::Faults;
use serde_json::{Value, json};

use super::{ask, done, pause};
use crate::Fleet;
use crate::client::Reply;

fn closes_when_idle(id: &str) -> Value {
    json!({"id": id, "config": {"on_idle": "close", "idle_timeout_ms": 86_400_000}})
}

/// Moves, drains, stops and kills of workers leave each session there.
pub(super) async fn leaving_closes_nothing(seed: u64) -> Result<()> {
    let mut fleet = Fleet::start(seed, 1, 2).await?;
    let client = fleet.client("a");
    let ids: Vec<String> = (0..4).map(|n| format!("s{n}")).collect();
    for id in &ids {
        done(&client, "session.open", closes_when_idle(id)).await?;
    }
    let are_there = async |why: &str, fleet: &Fleet| {
        for id in &ids {
            let edited = ask(&fleet.client("reader"), &format!("doc.edit.{id}"), json!({"body": why})).await;
            ensure!(matches!(edited, Reply::Done(_)), "{id} behind {why}: {edited:?}");
        }
        Ok(())
    };
    for id in &ids {
        ask(&client, &format!("admin.move.{id}"), json!({"reason": "test"})).await;
    }
    are_there("a move", &fleet).await?;
    for worker in ["w1", "w2"] {
        client.ask(&format!("hf.sys.worker.drain.{worker}"), &json!({"reason": "test"})).await.done();
    }
    pause(5_000).await;
    for worker in ["w1", "w2"] {
        client.ask(&format!("hf.sys.worker.undrain.{worker}"), &json!({"reason": "test"})).await.done();
    }
    pause(3_000).await;
    are_there("a drain", &fleet).await?;
    fleet.stop("w1", Duration::from_secs(10)).await?;
    fleet.stop("w2", Duration::from_secs(10)).await?;
    fleet.add_worker("w3", |_| ()).await?;
    pause(3_000).await;
    are_there("an end", &fleet).await
}

/// An edit comes before a reclaim reaches the agent, which is busy until then.
pub(super) async fn a_reclaim_leaves_alone_what_became_busy(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 1, 1).await?;
    let (reader, writer, operator) = (fleet.client("a"), fleet.client("b"), fleet.client("op"));
    done(&reader, "session.open", closes_when_idle("s1")).await?;
    pause(10_000).await;
    fleet.memory.set_faults(Faults { seed, delay_ms: 1_000, ..Faults::default() });
    let read = ask(&reader, "doc.get.s1", json!({"consistency": "linearizable"}));
    let edit = async {
        pause(200).await;
        fleet.memory.set_faults(Faults::default());
        ask(&writer, "doc.edit.s1", json!({"body": "busy"})).await
    };
    let reclaim = async {
        pause(210 + Dice::new(seed).below(40)).await;
        operator.ask("hf.default.admin.reclaim", &json!({"max_idle_ms": 150})).await
    };
    let (_, edited, reclaimed) = tokio::join!(read, edit, reclaim);
    ensure!(matches!(edited, Reply::Done(_)), "the edit: {edited:?}");
    let session = done(&reader, "session.get.s1", json!({})).await?;
    ensure!(session["state"] == "active", "it became busy, and is {} ({reclaimed:?})", session["state"]);
    Ok(())
}
