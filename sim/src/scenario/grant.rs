//! Grants: nobody who is gone gets a lock, and nobody who was answered loses it by that.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_store::chance::Dice;
use holdfast_store::{memory, net};
use serde_json::json;
use tokio::time::Instant;

use super::{ask, done, pause};
use crate::Fleet;
use crate::client::Reply;

/// The contract's bound, and a little for what is under way.
const SOON: Duration = Duration::from_millis(300);

/// Two waiters die; the third gets the lock as soon as it is free.
pub(super) async fn a_grant_to_a_waiter_that_left_is_taken_back(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 2, 1).await?;
    let holder = fleet.client("holder");
    done(&holder, "session.open", json!({"id": "s1"})).await?;
    let grant = done(&holder, "lock.acquire.s1", json!({"owner": "ann"})).await?;
    let waiting = |name: &'static str| {
        let client = fleet.client(name);
        let asked = client.clone();
        (client, async move {
            (ask(&asked, "lock.acquire.s1", json!({"owner": name, "wait_ms": 9_000})).await, Instant::now())
        })
    };
    let ((gone, first), (gone_too, second), (_, third)) = (waiting("gone"), waiting("gone-too"), waiting("there"));
    let release = async {
        pause(300).await;
        gone.process().kill();
        gone_too.process().kill();
        done(&holder, "lock.release.s1", json!({"token": grant["lock_token"]})).await?;
        anyhow::Ok(Instant::now())
    };
    let third = async {
        pause(100).await;
        third.await
    };
    let both = async { tokio::join!(third, release) };
    let ((reply, answered), released) = tokio::select! {
        biased;
        both = both => both,
        _ = async { tokio::join!(first, second) } => anyhow::bail!("the dead were answered"),
    };
    ensure!(matches!(&reply, Reply::Done(grant) if grant["owner"] == "there"), "the one who is there got {reply:?}");
    let waited = answered.saturating_duration_since(released?);
    // The line of another coordinator looks once a second.
    ensure!(waited < SOON + Duration::from_millis(1_300), "the one who is there waited {waited:?}");
    pause(2_000).await;
    let session = done(&holder, "session.get.s1", json!({})).await?;
    ensure!(session["lock"]["owner"] == "there", "the lock is {}", session["lock"]);
    Ok(())
}

/// A client asks again on another connection, and the first one is cut: if it was answered there, it has the lock.
pub(super) async fn a_grant_that_a_copy_was_answered_stays(seed: u64) -> Result<()> {
    let fleet = Fleet::start(seed, 2, 1).await?;
    let mut dice = Dice::new(seed);
    let (holder, again) = (fleet.client("holder"), fleet.client("again"));
    done(&holder, "session.open", json!({"id": "s1"})).await?;
    for n in 0..6 {
        let grant = done(&holder, "lock.acquire.s1", json!({"owner": "ann"})).await?;
        let first = fleet.client(&format!("first{n}"));
        let body = json!({"owner": "bob", "wait_ms": 4_000, "request_id": format!("r{n}")});
        fleet.net.set_faults(net::Faults { delay_ms: 8, ..net::Faults::default() });
        fleet.memory.set_faults(memory::Faults { seed: dice.roll(), delay_ms: 4, ..memory::Faults::default() });
        let (late, killed) = (50 + dice.below(30), 40 + dice.below(20));
        let asked = ask(&first, "lock.acquire.s1", body.clone());
        let copy = async {
            pause(late).await;
            ask(&again, "lock.acquire.s1", body.clone()).await
        };
        let release = async {
            pause(killed).await;
            let released = done(&holder, "lock.release.s1", json!({"token": grant["lock_token"]}));
            let kill = async {
                pause(dice.below(8)).await;
                first.process().kill();
            };
            tokio::join!(released, kill).0
        };
        let both = async { tokio::join!(copy, release) };
        let (copy, released) = tokio::select! {
            biased;
            both = both => both,
            _ = async { asked.await; std::future::pending::<()>().await } => anyhow::bail!("it goes on for ever"),
        };
        released?;
        fleet.net.set_faults(net::Faults::default());
        fleet.memory.set_faults(memory::Faults::default());
        pause(1_000).await;
        if let Reply::Done(grant) = copy {
            let valid = ask(&again, "lock.validate.s1", json!({"token": grant["lock_token"]})).await;
            ensure!(matches!(valid, Reply::Done(_)), "a client was granted the lock in round {n}, and {valid:?}");
        }
        done(&holder, "admin.takeover.s1", json!({"owner": "ops", "reason": "next round"})).await?;
        done(&holder, "admin.unlock.s1", json!({"reason": "next round"})).await?;
    }
    Ok(())
}
