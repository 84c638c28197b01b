//! Signals: nothing committed goes unannounced, whatever becomes of the relay.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_store::chance::Dice;
use holdfast_store::net::{Faults, Link};
use serde_json::json;

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

/// Coordinators are killed in the middle of announcing.
pub(super) async fn a_killed_relay_leaves_nothing_unannounced(seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    let mut fleet = Fleet::start(seed, 2, 1).await?;
    let client = fleet.client("a");
    done(&client, "session.open", json!({"id": "s1"})).await?;
    fleet.net.set_faults(Faults { delay_ms: 20, ..Faults::default() });
    let mut last = 0;
    for life in 1..=4 {
        for _ in 0..1 + dice.below(4) {
            let grant = done(&client, "lock.acquire.s1", json!({"owner": "ann"})).await?;
            let released = done(&client, "lock.release.s1", json!({"token": grant["lock_token"]})).await?;
            last = released["lock_revision"].as_u64().context("no lock revision")?;
        }
        pause(dice.below(20)).await;
        let name = if dice.happens(500) { "c1" } else { "c2" };
        fleet.kill(name)?;
        fleet.add_coordinator(name, |_| ()).await.with_context(|| format!("life {life} of {name}"))?;
    }
    pause(SETTLED).await;
    let missing: Vec<u64> = (1..=last).collect::<BTreeSet<u64>>().difference(&announced(&fleet)?).copied().collect();
    same("lock revisions that nobody was told of", missing, Vec::new())
}

/// Coordinators lose their connections while edits are announced.
pub(super) async fn a_lost_connection_loses_no_signal(seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    let fleet = Fleet::start(seed, 2, 1).await?;
    let client = fleet.client("a");
    let mut signals = client.listen("hf.default.signal.s1.doc.edited").await?;
    done(&client, "session.open", json!({"id": "s1"})).await?;
    fleet.net.set_faults(Faults { delay_ms: 10, ..Faults::default() });
    for n in 0..12 {
        let edit = json!({"body": format!("{n}"), "request_id": format!("r{n}")});
        done(&client, "doc.edit.s1", edit).await?;
        pause(dice.below(12)).await;
        for name in ["c1", "c2"] {
            fleet.set_link(name, Link::Broken)?;
        }
        pause(20).await;
        for name in ["c1", "c2"] {
            fleet.set_link(name, Link::Up)?;
        }
    }
    let heard = signals.until_quiet(Duration::from_millis(SETTLED)).await;
    let revisions: BTreeSet<u64> = heard.iter().filter_map(|(_, signal)| signal["data"]["revision"].as_u64()).collect();
    let missing: Vec<u64> = (1..=12).collect::<BTreeSet<u64>>().difference(&revisions).copied().collect();
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
        for n in 0..160 {
            let asking = ask(&client, "lock.acquire.s1", json!({"owner": "ann", "request_id": format!("{other}-{n}")}));
            let Ok(reply) = tokio::time::timeout(Duration::from_millis(5), asking).await else { continue };
            let Reply::Done(grant) = reply else { continue };
            let asking = ask(&client, "admin.unlock.s1", json!({"reason": "next"}));
            let Ok(reply) = tokio::time::timeout(Duration::from_millis(5), asking).await else { continue };
            last = last.max(grant["lock_revision"].as_u64().unwrap_or_default());
            if let Reply::Done(unlocked) = reply {
                last = last.max(unlocked["lock_revision"].as_u64().unwrap_or_default());
            }
        }
        fleet.set_link(stands_still, Link::Up)?;
        pause(SETTLED).await;
    }
    ensure!(last > 20, "the lock changed hands {last} times only");
    let missing: Vec<u64> = (1..=last).collect::<BTreeSet<u64>>().difference(&announced(&fleet)?).copied().collect();
    same("lock revisions that nobody was told of", missing, Vec::new())
}
