//! Leaving: only `session.close` and idleness end a session.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_store::chance::Dice;
use holdfast_store::memory::Faults;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ask, done, pause};
use crate::Fleet;
use crate::client::Reply;

/// What a reclaim takes for idle.
const MAX_IDLE_MS: u64 = 150;

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
        (ask(&writer, "doc.edit.s1", json!({"body": "busy"})).await, Instant::now())
    };
    let reclaim = async {
        pause(210 + Dice::new(seed).below(40)).await;
        let reply = operator.ask("hf.default.admin.reclaim", &json!({"max_idle_ms": MAX_IDLE_MS})).await;
        (reply, Instant::now())
    };
    let (_, (edited, busy), (reclaimed, judged)) = tokio::join!(read, edit, reclaim);
    ensure!(matches!(edited, Reply::Done(_)), "the edit: {edited:?}");
    // The coordinator may have been long in reading who the workers are.
    let was_idle = judged.saturating_duration_since(busy) >= Duration::from_millis(MAX_IDLE_MS);
    let is_there = ask(&reader, "session.get.s1", json!({})).await.reason().is_none();
    ensure!(is_there || was_idle, "it became busy, and was closed ({reclaimed:?})");
    Ok(())
}
