//! The work items that are measured in rounds: a table, and a function for each kind over any system.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join, try_join_all};
use tokio::time::timeout;

use super::stage::{Audience, Stage};
use super::system::{Ability, Edit, Held, Reading};
use crate::measure::{Measured, load, timed_load};

/// No operation takes longer, except waiting for a lock.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many editors a hot session has.
const EDITORS: usize = 64;
/// How many edits of the writer are under way while its lock is taken over.
const WRITERS: usize = 16;
/// The pause between two takeovers, in which the writers are at full speed again.
const BETWEEN_TAKEOVERS: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cycle,
    Contended,
    EditDistinct,
    EditHot,
    Open,
    Read(Reading),
    TakeOver,
    Renew,
    FanOut,
}

/// One row of the table.
pub(crate) struct Work {
    pub(crate) title: &'static str,
    /// What is counted.
    pub(crate) unit: &'static str,
    pub(crate) kind: Kind,
    pub(crate) needs: Ability,
    /// Numbers of clients or of subscribers, where they are not those of `--clients`.
    counts: Option<&'static [usize]>,
}

impl Work {
    /// The numbers of clients (of subscribers, for signals) to measure with.
    pub(crate) fn counts(&self, clients: &[usize]) -> Vec<usize> {
        match self.counts {
            Some(counts) => counts.to_vec(),
            // Nobody contends alone.
            None if self.kind == Kind::Contended => clients.iter().copied().filter(|&count| count > 1).collect(),
            None => clients.to_vec(),
        }
    }
}

pub(crate) const WORKS: [Work; 11] = [
    Work {
        title: "lock + unlock, distinct keys",
        unit: "cycles",
        kind: Kind::Cycle,
        needs: Ability::Lock,
        counts: None,
    },
    Work {
        title: "lock + unlock, one contended key",
        unit: "hand-overs",
        kind: Kind::Contended,
        needs: Ability::WaitLock,
        counts: None,
    },
    Work {
        title: "guarded edit, distinct sessions",
        unit: "edits",
        kind: Kind::EditDistinct,
        needs: Ability::Edit,
        counts: None,
    },
    Work {
        title: "guarded edit, one session, 64 editors",
        unit: "edits",
        kind: Kind::EditHot,
        needs: Ability::Edit,
        counts: Some(&[EDITORS]),
    },
    Work { title: "open of new ids", unit: "opens", kind: Kind::Open, needs: Ability::Open, counts: None },
    Work {
        title: "read, local",
        unit: "reads",
        kind: Kind::Read(Reading::Local),
        needs: Ability::ReadLocal,
        counts: None,
    },
    Work {
        title: "read, latest",
        unit: "reads",
        kind: Kind::Read(Reading::Latest),
        needs: Ability::ReadLatest,
        counts: None,
    },
    Work {
        title: "takeover under 16 writers",
        unit: "takeovers",
        kind: Kind::TakeOver,
        needs: Ability::TakeOver,
        counts: Some(&[1]),
    },
    Work { title: "renewal of a lock", unit: "renewals", kind: Kind::Renew, needs: Ability::Renew, counts: None },
    Work {
        title: "signal to all subscribers, from the request on",
        unit: "signals",
        kind: Kind::FanOut,
        needs: Ability::Signals,
        counts: Some(&[1, 100, 1000]),
    },
    Work {
        title: "signal to the first of 10 subscribers, from the acknowledgement on",
        unit: "signals",
        kind: Kind::FanOut,
        needs: Ability::Signals,
        counts: Some(&[10]),
    },
];

/// Runs one round on one system.
pub(crate) async fn run(work: &Work, stage: &Stage, count: usize, span: Duration) -> Result<Measured> {
    match work.kind {
        Kind::Cycle => cycle(stage, count, span).await,
        Kind::Contended => contended(stage, count, span).await,
        Kind::EditDistinct => edit_distinct(stage, count, span).await,
        Kind::EditHot => edit_hot(stage, count, span).await,
        Kind::Open => open(stage, count, span).await,
        Kind::Read(reading) => read(stage, count, span, reading).await,
        Kind::TakeOver => take_over(stage, span).await,
        Kind::Renew => renew(stage, count, span).await,
        Kind::FanOut => fan_out(stage, count, span, work.title.contains("acknowledgement")).await,
    }
}

/// Fails in place of waiting without end.
async fn soon<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, work).await.with_context(|| format!("{what} was not answered within {PATIENCE:?}"))?
}

fn keys(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{what}-{n}")).collect()
}

async fn cycle(stage: &Stage, count: usize, span: Duration) -> Result<Measured> {
    let keys = keys("cycle", count);
    stage.prepare(&keys).await?;
    load(count, span, async |n| {
        soon("lock + unlock", async {
            let held = stage.lock(n, &keys[n]).await?;
            stage.unlock(n, &keys[n], held).await
        })
        .await
    })
    .await
}

/// The time is that of waiting for the lock.
async fn contended(stage: &Stage, count: usize, span: Duration) -> Result<Measured> {
    let key = "contended";
    stage.prepare(&[key.to_owned()]).await?;
    timed_load(count, span, async |n| {
        let start = Instant::now();
        let waited = timeout(PATIENCE * 4, stage.wait_lock(n, key)).await;
        let held = waited.with_context(|| format!("a waiter did not get the lock within {:?}", PATIENCE * 4))??;
        let took = start.elapsed();
        soon("unlock", stage.unlock(n, key, held)).await?;
        Ok(took)
    })
    .await
}

async fn lock_all(stage: &Stage, keys: &[String]) -> Result<Vec<Held>> {
    stage.prepare(keys).await?;
    try_join_all(keys.iter().enumerate().map(|(n, key)| soon("lock", stage.lock(n, key)))).await
}

async fn unlock_all(stage: &Stage, keys: &[String], held: Vec<Held>) -> Result<()> {
    let unlocks = keys.iter().zip(held).enumerate();
    try_join_all(unlocks.map(|(n, (key, held))| soon("unlock", stage.unlock(n, key, held)))).await.map(drop)
}

async fn edit_distinct(stage: &Stage, count: usize, span: Duration) -> Result<Measured> {
    let keys = keys("edit", count);
    let held = lock_all(stage, &keys).await?;
    let measured = load(count, span, async |n| {
        let edit = soon("edit", stage.edit(n, &keys[n], &held[n], 0)).await?;
        ensure!(edit == Edit::Done, "the lock was lost");
        Ok(())
    })
    .await;
    unlock_all(stage, &keys, held).await?;
    measured
}

async fn edit_hot(stage: &Stage, count: usize, span: Duration) -> Result<Measured> {
    let keys = keys("hot", 1);
    let held = lock_all(stage, &keys).await?;
    let measured = load(count, span, async |n| {
        let edit = soon("edit", stage.edit(n, &keys[0], &held[0], n)).await?;
        ensure!(edit == Edit::Done, "the lock was lost");
        Ok(())
    })
    .await;
    unlock_all(stage, &keys, held).await?;
    measured
}

async fn open(stage: &Stage, count: usize, span: Duration) -> Result<Measured> {
    load(count, span, async |n| soon("open", stage.system.open(n, &format!("new-{}", uuid::Uuid::now_v7()))).await)
        .await
}

async fn read(stage: &Stage, count: usize, span: Duration, reading: Reading) -> Result<Measured> {
    let keys = keys("read", count);
    stage.open(&keys).await?;
    load(count, span, async |n| soon("read", stage.system.read(n, &keys[n], reading)).await).await
}

async fn renew(stage: &Stage, count: usize, span: Duration) -> Result<Measured> {
    let keys = keys("renew", count);
    let held = lock_all(stage, &keys).await?;
    let measured = load(count, span, async |n| soon("renew", stage.system.renew(n, &keys[n], &held[n])).await).await;
    unlock_all(stage, &keys, held).await?;
    measured
}

/// One operator takes the lock over again and again, while 16 edits of the holder are under way. The former holder's
/// next edit must be refused.
async fn take_over(stage: &Stage, span: Duration) -> Result<Measured> {
    let key = "taken".to_owned();
    let first = lock_all(stage, std::slice::from_ref(&key)).await?.swap_remove(0);
    let current = Mutex::new(first);
    let now = || current.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let begin = Instant::now();
    let writer = async |n: usize| -> Result<()> {
        while begin.elapsed() < span {
            soon("edit", stage.edit(n, &key, &now(), n)).await?;
        }
        Ok(())
    };
    let operator = async {
        let mut times = Vec::new();
        while begin.elapsed() < span {
            tokio::time::sleep(BETWEEN_TAKEOVERS).await;
            let former = now();
            let start = Instant::now();
            let held = soon("takeover", stage.system.take_over(WRITERS, &key)).await?;
            times.push(start.elapsed());
            stage.history.taken_over(&key, WRITERS, &held);
            *current.lock().unwrap_or_else(PoisonError::into_inner) = held;
            // Its outcome is judged by the history.
            soon("edit of the former holder", stage.edit(WRITERS, &key, &former, WRITERS)).await?;
        }
        Ok(times)
    };
    let writers = async { join_all((0..WRITERS).map(writer)).await.into_iter().collect::<Result<Vec<()>>>() };
    let outcome = try_join(operator, writers).await;
    let elapsed = begin.elapsed();
    soon("unlock", stage.unlock(WRITERS, &key, now())).await?;
    Measured::of(outcome?.0, elapsed)
}

/// One signal at a time. Measured is until the last subscriber has it from the request on, or until the first one has
/// it from the acknowledgement on; 0 if it was there before.
async fn fan_out(stage: &Stage, count: usize, span: Duration, from_acknowledgement: bool) -> Result<Measured> {
    let keys = keys("signal", 1);
    let held = lock_all(stage, &keys).await?;
    let measured = signals(stage, &keys[0], &held[0], count, span, from_acknowledgement).await;
    unlock_all(stage, &keys, held).await?;
    measured
}

async fn signals(
    stage: &Stage,
    key: &str,
    held: &Held,
    count: usize,
    span: Duration,
    from_acknowledgement: bool,
) -> Result<Measured> {
    let mut audience = stage.audience(key, count).await?;
    let audience = audience.as_mut().context("subscribers were made")?;
    let cause = async || {
        let value = stage.history.next(key, 0).value;
        soon("edit", stage.system.cause_signal(0, key, held, value)).await
    };
    rehearse(audience, cause).await?;
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < span {
        let sent = Instant::now();
        let mut acknowledged = None;
        let causing = async {
            cause().await?;
            acknowledged = Some(Instant::now());
            Ok(())
        };
        let arriving = soon("a signal", async {
            let mut arrivals = Vec::new();
            while arrivals.len() < count {
                arrivals.push(audience.arrivals.recv().await.context("the subscribers have ended")?.1);
            }
            Ok(arrivals)
        });
        let (_, arrivals) = try_join(causing, arriving).await?;
        times.push(if from_acknowledgement {
            let first = arrivals.iter().min().context("a signal has arrived")?;
            first.saturating_duration_since(acknowledged.context("the edit was acknowledged")?)
        } else {
            arrivals.iter().max().context("a signal has arrived")?.duration_since(sent)
        });
    }
    Measured::of(times, begin.elapsed())
}

/// Causes signals until each subscriber has heard one, because servers tell each other of subscriptions with a delay.
/// Then waits until all signals have arrived.
async fn rehearse(audience: &mut Audience, cause: impl AsyncFn() -> Result<()>) -> Result<()> {
    const QUIET: Duration = Duration::from_millis(200);
    if audience.rehearsed {
        return Ok(());
    }
    let begin = Instant::now();
    let mut heard = HashSet::new();
    while heard.len() < audience.size {
        ensure!(begin.elapsed() < PATIENCE * 2, "{} of {} subscribers hear", heard.len(), audience.size);
        cause().await?;
        while let Ok(Some((subscriber, _))) = timeout(QUIET, audience.arrivals.recv()).await {
            heard.insert(subscriber);
        }
    }
    audience.rehearsed = true;
    Ok(())
}
