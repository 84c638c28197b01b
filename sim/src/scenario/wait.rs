//! Waiting for a lock: in order, through failures that pass, and beyond a coordinator that leaves.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use holdfast_store::memory::Faults;
use serde_json::{Value, json};

use super::{ask, done, pause, same};
use crate::Fleet;
use crate::client::Reply;

/// Eight ask in one moment, each a little after the other.
pub(super) async fn waiters_are_served_in_their_order(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 1, 1).await?;
    let holder = fleet.client("holder");
    done(&holder, "session.open", json!({"id": "s1"})).await?;
    let first = done(&holder, "lock.acquire.s1", json!({"owner": "ann"})).await?;
    let client = fleet.client("waiter");
    let waiters = (0..8_u64).map(|n| {
        let client = client.clone();
        async move {
            pause(n).await;
            let body = json!({"owner": format!("w{n}"), "wait_ms": 9_000});
            let reply = ask(&client, "lock.acquire.s1", body).await;
            let Reply::Done(grant) = reply else { anyhow::bail!("waiter {n} got {reply:?}") };
            done(&client, "lock.release.s1", json!({"token": grant["lock_token"]})).await?;
            Ok((grant["lock_revision"].as_u64(), n))
        }
    });
    let release = async {
        pause(500).await;
        done(&holder, "lock.release.s1", json!({"token": first["lock_token"]})).await
    };
    let (served, released) = tokio::join!(join_all(waiters), release);
    released?;
    let mut served = served.into_iter().collect::<Result<Vec<_>>>()?;
    served.sort_unstable();
    let order: Vec<u64> = served.into_iter().map(|(_, n)| n).collect();
    same("the order", order, (0..8).collect())
}

/// The storage is not readable for some seconds while somebody waits.
pub(super) async fn a_wait_outlives_failures_that_pass(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 1, 1).await?;
    let (holder, waiter) = (fleet.client("holder"), fleet.client("waiter"));
    done(&holder, "session.open", json!({"id": "s1"})).await?;
    let grant = done(&holder, "lock.acquire.s1", json!({"owner": "ann"})).await?;
    let wait = ask(&waiter, "lock.acquire.s1", json!({"owner": "bob", "wait_ms": 9_000}));
    let meanwhile = async {
        pause(500).await;
        fleet.memory.set_faults(Faults { seed, unreadable: 1000, ..Faults::default() });
        pause(3_000).await;
        fleet.memory.set_faults(Faults::default());
        done(&holder, "lock.release.s1", json!({"token": grant["lock_token"]})).await
    };
    let (reply, released) = tokio::join!(wait, meanwhile);
    released?;
    ensure!(matches!(reply, Reply::Done(_)), "the wait ended with {reply:?}");
    Ok(())
}

/// A coordinator stops while some wait at it.
pub(super) async fn a_wait_outlives_its_coordinator(seed: u64) -> Result<()> {
    let mut fleet = Fleet::start(seed, 2, 1).await?;
    let holder = fleet.client("holder");
    done(&holder, "session.open", json!({"id": "s1"})).await?;
    let grant = done(&holder, "lock.acquire.s1", json!({"owner": "ann"})).await?;
    let clients: Vec<_> = (0..4).map(|n| fleet.client(&format!("w{n}"))).collect();
    let waits = clients.iter().map(async |client| {
        let reply = ask(client, "lock.acquire.s1", json!({"owner": "bob", "wait_ms": 9_000})).await;
        let Reply::Done(grant) = &reply else { anyhow::bail!("a wait ended with {reply:?}") };
        done(client, "lock.release.s1", json!({"token": grant["lock_token"]})).await
    });
    let meanwhile = async {
        pause(500).await;
        fleet.stop("c1", Duration::from_secs(5)).await?;
        pause(500).await;
        done(&holder, "lock.release.s1", json!({"token": grant["lock_token"]})).await
    };
    let (waits, released) = tokio::join!(join_all(waits), meanwhile);
    released?;
    waits.into_iter().collect::<Result<Vec<_>>>().map(drop)
}

/// Somebody waits at the coordinator that gets the release.
pub(super) async fn a_release_hands_the_lock_over_in_its_own_write(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 1, 1).await?;
    let (holder, waiter) = (fleet.client("holder"), fleet.client("waiter"));
    done(&holder, "session.open", json!({"id": "s1"})).await?;
    let first = done(&holder, "lock.acquire.s1", json!({"owner": "ann"})).await?;
    let wait = done(&waiter, "lock.acquire.s1", json!({"owner": "bob", "wait_ms": 9_000}));
    let release = async {
        pause(500).await;
        let before = done(&holder, "session.get.s1", json!({})).await?;
        let released = done(&holder, "lock.release.s1", json!({"token": first["lock_token"]})).await?;
        Ok::<_, anyhow::Error>((before, released))
    };
    let (second, released) = tokio::join!(wait, release);
    let (second, (before, released)) = (second?, released?);
    let rise = |of: &Value| of["lock_revision"].as_u64().unwrap_or(0) - first["lock_revision"].as_u64().unwrap_or(0);
    same("the revisions of release and grant", (rise(&released), rise(&second)), (1, 2))?;
    same("the revision that both are written on", &second["fence"], &before["revision"])?;
    let after = done(&holder, "session.get.s1", json!({})).await?;
    same("the holder", &after["lock"]["owner"], &json!("bob"))
}

/// A request waits at one coordinator when a copy of it had the lock from another one and releases it.
pub(super) async fn a_release_grants_nothing_to_a_late_copy(seed: u64) -> Result<()> {
    use holdfast_store::net::Link;
    let fleet = Fleet::start(seed, 2, 1).await?;
    let holder = fleet.client("holder");
    done(&holder, "session.open", json!({"id": "s1"})).await?;
    let first = done(&holder, "lock.acquire.s1", json!({"owner": "ann"})).await?;
    let (one, other) = (fleet.client("bob"), fleet.client("bob-again"));
    let wants = json!({"owner": "bob", "wait_ms": 9_000, "request_id": "wait-1"});
    // What is sent meanwhile reaches the other coordinator.
    let without = async |name: &str, ms: u64| {
        fleet.set_link(name, Link::Broken)?;
        pause(ms).await;
        fleet.set_link(name, Link::Up)
    };
    let copy = async {
        pause(10).await;
        done(&one, "lock.acquire.s1", wants.clone()).await
    };
    let meanwhile = async {
        without("c2", 100).await?;
        pause(200).await;
        let second = async {
            pause(10).await;
            done(&other, "lock.acquire.s1", wants.clone()).await
        };
        let release = async {
            pause(50).await;
            done(&holder, "lock.release.s1", json!({"token": first["lock_token"]})).await
        };
        let (second, released, link) = tokio::join!(second, release, without("c1", 150));
        released?;
        link?;
        let second = second?;
        let body = json!({"token": second["lock_token"]});
        let (released, link) = tokio::join!(done(&other, "lock.release.s1", body), without("c2", 100));
        released?;
        link?;
        Ok::<_, anyhow::Error>(second)
    };
    let (copy, second) = tokio::join!(copy, meanwhile);
    same("the answers to both copies", copy?, second?)?;
    let after = done(&holder, "session.get.s1", json!({})).await?;
    same("the lock behind a release", &after["lock"], &Value::Null)
}
