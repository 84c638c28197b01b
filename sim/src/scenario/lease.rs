//! Leases of locks: never shorter than asked, and never without an end.

use anyhow::{Result, ensure};
use holdfast_store::memory::Faults;
use serde_json::json;

use super::{ask, done, pause, same};
use crate::Fleet;
use crate::client::Reply;

/// Four locks on three workers, looked at a little before their end.
pub(super) async fn a_lease_is_as_long_as_asked(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 1, 3).await?;
    let client = fleet.client("a");
    for n in 0..4 {
        done(&client, "session.open", json!({"id": format!("s{n}")})).await?;
        done(&client, &format!("lock.acquire.s{n}"), json!({"owner": "ann", "ttl_ms": 4_000})).await?;
    }
    pause(3_800).await;
    for n in 0..4 {
        let session = done(&client, &format!("session.get.s{n}"), json!({})).await?;
        ensure!(session["lock"]["owner"] == "ann", "the lock of s{n} ended 200 ms before its time");
    }
    pause(2_000).await;
    for n in 0..4 {
        let session = done(&client, &format!("session.get.s{n}"), json!({})).await?;
        ensure!(session["lock"].is_null(), "the lock of s{n} has no end");
    }
    Ok(())
}

/// All workers are killed.
pub(super) async fn a_lease_without_an_agent_ends(seed: u64) -> Result<()> {
    let mut fleet = Fleet::start(seed, 2, 1).await?;
    let client = fleet.client("a");
    done(&client, "session.open", json!({"id": "s1"})).await?;
    done(&client, "lock.acquire.s1", json!({"owner": "ann", "ttl_ms": 2_000})).await?;
    fleet.kill("w1")?;
    pause(30_000).await;
    let session = done(&client, "session.get.s1", json!({})).await?;
    ensure!(session["lock"].is_null(), "30 s behind a lease of 2 s the lock is {}", session["lock"]);
    Ok(())
}

/// A renewal waits behind a slow read, until the lease would have ended.
pub(super) async fn a_renewal_that_came_in_time_counts(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 1, 1).await?;
    let (holder, reader) = (fleet.client("holder"), fleet.client("reader"));
    done(&holder, "session.open", json!({"id": "s1"})).await?;
    let grant = done(&holder, "lock.acquire.s1", json!({"owner": "ann", "ttl_ms": 2_000})).await?;
    let read = async {
        pause(1_700).await;
        fleet.memory.set_faults(Faults { seed, delay_ms: 1_000, ..Faults::default() });
        ask(&reader, "doc.get.s1", json!({"consistency": "linearizable"})).await
    };
    let renew = async {
        pause(1_800).await;
        ask(&holder, "lock.renew.s1", json!({"token": grant["lock_token"]})).await
    };
    let (_, renewed) = tokio::join!(read, renew);
    fleet.memory.set_faults(Faults::default());
    let Reply::Done(renewed) = renewed else { anyhow::bail!("a renewal 200 ms before the end came to {renewed:?}") };
    same("the lock revision", &renewed["lock_revision"], &grant["lock_revision"])
}
