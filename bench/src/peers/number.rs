//! Sessions in number: how the cost of one operation, the memory of each process and the time of a restart change with
//! the number of sessions that exist.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::timeout;

use super::process::resident;
use super::system::{self, Ability, Edit, Part, System};
use crate::measure::Measured;

const OPENERS: usize = 64;
/// How many operations of each kind are timed.
pub(crate) const SAMPLES: usize = 200;
const PAGE: usize = 10;
const RESTART: Duration = Duration::from_secs(300);

/// What was measured with so many sessions. Times are medians in milliseconds, one client.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Number {
    pub(crate) system: String,
    pub(crate) sessions: usize,
    /// Opens per second of 64 clients.
    pub(crate) open_rate: f64,
    pub(crate) open_p50_ms: f64,
    pub(crate) lock_p50_ms: f64,
    pub(crate) edit_p50_ms: f64,
    pub(crate) list_p50_ms: Option<f64>,
    /// Resident memory by process, in bytes.
    pub(crate) memory: Vec<(String, u64)>,
    /// From the first signal to the first lock that is granted again.
    pub(crate) restart_s: f64,
}

/// Starts a system of its own, fills it, measures, restarts it and stops it.
pub(crate) async fn run(label: &str, sessions: usize, folder: &Path) -> Result<Number> {
    let mut system = system::start(label, folder).await?;
    let open_rate = fill(&*system, sessions).await?;
    let open = sample(async |n| system.open(0, &format!("more-{n}")).await).await?;
    // A prime that divides no power of ten, so that the keys are spread and differ.
    let key = |n: usize| format!("many-{}", (n * 7919) % sessions);
    for n in 0..SAMPLES {
        system.prepare(&key(n)).await?;
    }
    let mut held = Vec::new();
    let begin = Instant::now();
    let mut times = Vec::new();
    for n in 0..SAMPLES {
        let start = Instant::now();
        let grant = system.lock(0, &key(n)).await?;
        times.push(start.elapsed());
        held.push((key(n), grant));
    }
    let lock = Measured::of(times, begin.elapsed())?;
    let edit = sample(async |n| {
        let (key, grant) = &held[n];
        let edit = system.edit(0, key, grant, Part { editor: 0, value: n as u64 + 1 }).await?;
        ensure!(edit == Edit::Done, "the lock of {key} was lost");
        Ok(())
    })
    .await?;
    let list = match system.lacks(Ability::List) {
        Some(_) => None,
        None => Some(sample(async |_| system.list(0, PAGE).await.map(drop)).await?),
    };
    let memory = system.pids().into_iter().map(|(name, pid)| Ok((name, resident(pid)?))).collect::<Result<_>>()?;
    for (key, grant) in held {
        system.unlock(0, &key, grant).await?;
    }
    let restart = restart(&mut *system, &key(0)).await?;
    system.stop().await;
    let ms = |measured: &Measured| measured.p50().as_secs_f64() * 1e3;
    Ok(Number {
        system: label.to_owned(),
        sessions,
        open_rate,
        open_p50_ms: ms(&open),
        lock_p50_ms: ms(&lock),
        edit_p50_ms: ms(&edit),
        list_p50_ms: list.as_ref().map(ms),
        memory,
        restart_s: restart.as_secs_f64(),
    })
}

/// Opens all sessions, and returns how many per second.
async fn fill(system: &dyn System, sessions: usize) -> Result<f64> {
    let next = AtomicUsize::new(0);
    let begin = Instant::now();
    let opener = async |client: usize| -> Result<()> {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= sessions {
                return Ok(());
            }
            system.open(client, &format!("many-{n}")).await?;
        }
    };
    join_all((0..OPENERS).map(opener)).await.into_iter().collect::<Result<Vec<()>>>()?;
    Ok(sessions as f64 / begin.elapsed().as_secs_f64())
}

async fn sample(operation: impl AsyncFn(usize) -> Result<()>) -> Result<Measured> {
    let begin = Instant::now();
    let mut times = Vec::new();
    for n in 0..SAMPLES {
        let start = Instant::now();
        operation(n).await?;
        times.push(start.elapsed());
    }
    Measured::of(times, begin.elapsed())
}

/// Restarts all processes, and returns the time until a lock of a session that existed before is granted.
async fn restart(system: &mut dyn System, key: &str) -> Result<Duration> {
    let begin = Instant::now();
    let restarting = async {
        system.restart().await?;
        loop {
            match system.lock(0, key).await {
                Ok(_) => return anyhow::Ok(()),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(RESTART, restarting)
        .await
        .with_context(|| format!("no lock was granted {RESTART:?} after a restart"))??;
    Ok(begin.elapsed())
}
