//! The work items that break something: the gap when the process of a session's owner is killed, and the time until a
//! waiter has the lock of a holder that is gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join;
use tokio::time::timeout;

use super::stage::Stage;
use super::system::{Edit, Held};

/// How long edits go well before the kill, and again after it.
const CALM: Duration = Duration::from_millis(500);
/// After this a session counts as lost.
const LOST: Duration = Duration::from_secs(30);

/// Kills the process that serves a session while one client edits it. Returns the longest time between two
/// acknowledged edits, and starts the process again.
pub(crate) async fn kill_owner(stage: &Stage, round: usize) -> Result<Duration> {
    let key = format!("killed-{round}");
    stage.prepare(std::slice::from_ref(&key)).await?;
    let held = stage.lock(0, &key).await?;
    let killed = AtomicBool::new(false);
    let editing = longest_gap(stage, &key, &held, &killed);
    let killing = async {
        tokio::time::sleep(CALM).await;
        stage.system.kill_owner(&key).await?;
        killed.store(true, Ordering::Relaxed);
        Ok(())
    };
    let (gap, ()) = try_join(editing, killing).await?;
    stage.system.revive().await?;
    stage.unlock(0, &key, held).await?;
    Ok(gap)
}

/// Edits one after the other, again on each error, until edits have gone well for a while after the kill.
async fn longest_gap(stage: &Stage, key: &str, held: &Held, killed: &AtomicBool) -> Result<Duration> {
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    let mut end = None;
    while end.is_none_or(|end| Instant::now() < end) {
        let was_killed = killed.load(Ordering::Relaxed);
        // A request whose process is gone may not be answered; the answer to its next copy tells.
        let answer = timeout(Duration::from_secs(1), stage.edit(0, key, held, 0)).await;
        if let Ok(Ok(edit)) = answer {
            ensure!(edit == Edit::Done, "the lock was lost with its session's worker");
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if was_killed && end.is_none() {
                end = Some(last + CALM);
            }
        }
        ensure!(last.elapsed() < LOST, "no edit was acknowledged for {LOST:?} after the kill");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(longest)
}

/// A holder with a TTL of 2 s is gone without a word; returns how long a waiter waits for its lock.
pub(crate) async fn expire(stage: &Stage, round: usize) -> Result<Duration> {
    let key = format!("expired-{round}");
    stage.prepare(std::slice::from_ref(&key)).await?;
    stage.system.lock_and_die(&key).await?;
    let start = Instant::now();
    let held = timeout(LOST, stage.wait_lock(1, &key)).await;
    let held = held.with_context(|| format!("the lock of a dead holder was not free after {LOST:?}"))??;
    let waited = start.elapsed();
    stage.unlock(1, &key, held).await?;
    Ok(waited)
}
