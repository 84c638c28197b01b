//! Signals: nothing committed goes unannounced, whatever becomes of the relay.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_store::chance::Dice;
use holdfast_store::memory::{self, Accepted};
use holdfast_store::net::{Faults, Link};
use serde_json::json;
use tokio::task::JoinSet;

use super::{ask, done, pause, same};
use crate::Fleet;
use crate::client::Reply;

/// Longer than a message stays with a relay that is gone.
const SETTLED: u64 = 40_000;

/// The lock revisions that are kept as announced.
fn announced(fleet: &Fleet) -> Result<BTreeSet<u64>> {
    let kept = fleet.net.kept();
    let of_lock = kept.iter().filter(|kept| kept.subject.contains(".lock."));
    let revision = |payload: &[u8]| {
        let signal: serde_json::Value = serde_json::from_slice(payload)?;
        signal["data"]["lock_revision"].as_u64().context("a signal without a lock revision")
    };
    of_lock.map(|kept| revision(&kept.payload)).collect()
}

/// The lock revisions that were written.
fn written(fleet: &Fleet) -> BTreeSet<u64> {
    let revision = |accepted| match accepted {
        Accepted::Record(stored) => {
            let record: serde_json::Value = serde_json::from_slice(&stored.value?).ok()?;
            record["lock_revision"].as_u64().filter(|revision| *revision > 0)
        }
        Accepted::Frame { .. } => None,
    };
    fleet.memory.accepted().into_iter().filter_map(revision).collect()
}

fn all_are_announced(fleet: &Fleet) -> Result<()> {
    let missing: Vec<u64> = written(fleet).difference(&announced(fleet)?).copied().collect();
    same("lock revisions that nobody was told of", missing, Vec::new())
}

/// Coordinators are killed in the middle of announcing.
pub(super) async fn a_killed_relay_leaves_nothing_unannounced(seed: u64) -> Result<()> {
    kill_relays(seed, |_| ()).await
}

/// The server that has the relay's consumer is lost with each of them.
pub(super) async fn a_lost_consumer_leaves_nothing_unannounced(seed: u64) -> Result<()> {
    kill_relays(seed, |fleet| fleet.memory.lose_consumer()).await
}

async fn kill_relays(seed: u64, and: impl Fn(&Fleet)) -> Result<()> {
    let mut dice = Dice::new(seed);
    let mut fleet = Fleet::start(seed, 2, 1).await?;
    let client = fleet.client("a");
    done(&client, "session.open", json!({"id": "s1"})).await?;
    fleet.net.set_faults(Faults { delay_ms: 60, ..Faults::default() });
    fleet.memory.set_faults(memory::Faults { seed, delay_ms: 6, ..memory::Faults::default() });
    for life in 1..=6 {
        let mut burst = JoinSet::new();
        for _ in 0..4 {
            let client = client.clone();
            burst.spawn(async move {
                for _ in 0..4 {
                    ask(&client, "lock.acquire.s1", json!({"owner": "ann"})).await;
                    ask(&client, "admin.unlock.s1", json!({"reason": "next"})).await;
                }
            });
        }
        pause(50 + dice.below(300)).await;
        let name = if dice.happens(500) { "c1" } else { "c2" };
        fleet.kill(name)?;
        and(&fleet);
        fleet.add_coordinator(name, |_| ()).await.with_context(|| format!("life {life} of {name}"))?;
        // Longer than another one takes to relay.
        pause(3_500).await;
    }
    pause(SETTLED).await;
    all_are_announced(&fleet)
}

/// Coordinators lose their connections while edits are announced.
pub(super) async fn a_lost_connection_loses_no_signal(seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    let fleet = Fleet::start(seed, 2, 1).await?;
    let client = fleet.client("a");
    let mut signals = client.listen("hf.default.signal.s1.doc.edited").await?;
    done(&client, "session.open", json!({"id": "s1"})).await?;
    fleet.net.set_faults(Faults { delay_ms: 30, ..Faults::default() });
    let edits = async {
        for n in 0..60 {
            // An answer that went down with a connection is not waited for.
            let edit = ask(&client, "doc.edit.s1", json!({"body": format!("{n}")}));
            tokio::time::timeout(Duration::from_millis(150), edit).await.ok();
        }
    };
    let breaks = async {
        loop {
            pause(20 + dice.below(60)).await;
            ["c1", "c2"].map(|name| fleet.set_link(name, Link::Broken)).into_iter().collect::<Result<Vec<_>>>()?;
            pause(10).await;
            ["c1", "c2"].map(|name| fleet.set_link(name, Link::Up)).into_iter().collect::<Result<Vec<_>>>()?;
        }
    };
    tokio::select! {
        biased;
        () = edits => {}
        failed = breaks => return failed,
    }
    fleet.net.set_faults(Faults::default());
    ["c1", "c2"].map(|name| fleet.set_link(name, Link::Up)).into_iter().collect::<Result<Vec<_>>>()?;
    let heard = signals.until_quiet(Duration::from_millis(SETTLED)).await;
    let document = done(&client, "doc.get.s1", json!({"consistency": "linearizable"})).await?;
    let last = document["revision"].as_u64().context("a document without a revision")?;
    ensure!(last > 10, "only {last} edits were made");
    let revisions: BTreeSet<u64> = heard.iter().filter_map(|(_, signal)| signal["data"]["revision"].as_u64()).collect();
    let missing: Vec<u64> = (1..=last).collect::<BTreeSet<u64>>().difference(&revisions).copied().collect();
    same("edits that nobody was told of", missing, Vec::new())
}

/// The relay stands still while a lock changes hands as fast as it can.
pub(super) async fn no_record_changes_faster_than_it_is_announced(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 2, 1).await?;
    let client = fleet.client("a");
    done(&client, "session.open", json!({"id": "s1"})).await?;
    let mut last = 0;
    for (stands_still, other) in [("c1", "c2"), ("c2", "c1")] {
        done(&client, "session.get.s1", json!({})).await?;
        // One of the two relays, and the other one must serve: what waits in the first is not asked again.
        fleet.set_link(stands_still, Link::Frozen)?;
        for n in 0..250 {
            let acquire = json!({"owner": "ann", "request_id": format!("{other}-{n}")});
            for (verb, body) in [("lock.acquire.s1", acquire), ("admin.unlock.s1", json!({"reason": "next"}))] {
                let asking = ask(&client, verb, body);
                if let Ok(Reply::Done(reply)) = tokio::time::timeout(Duration::from_millis(4), asking).await {
                    last = last.max(reply["lock_revision"].as_u64().unwrap_or_default());
                }
            }
        }
        fleet.set_link(stands_still, Link::Up)?;
        pause(SETTLED).await;
    }
    ensure!(last > 20, "the lock changed hands {last} times only");
    all_are_announced(&fleet)
}
