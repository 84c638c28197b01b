//! What is measured: a system that runs, and what it can do. A work item is a function over [`System`].
//!
//! Invariant: where a system has not got an ability, [`System::lacks`] says why, and no work item asks for it.

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};
use async_trait::async_trait;
use futures_util::stream::BoxStream;

mod etcd;
mod holdfast;
mod jetstream;
mod redis;
mod zookeeper;

/// The number of connections that all clients of a system share.
pub(crate) const CONNECTIONS: usize = 8;
/// For how long a lock is granted; the holder would renew it before.
pub(crate) const TTL_MS: u64 = 30_000;
/// The size of a document, and of a record in raw JetStream, in bytes.
pub(crate) const CONTENT: usize = 700;

/// Names of what can be started.
pub(crate) const SYSTEMS: [&str; 9] = [
    "holdfast-1",
    "holdfast-3",
    "jetstream-1",
    "jetstream-3",
    "etcd-1",
    "etcd-3",
    "redis-1",
    "zookeeper-1",
    "zookeeper-3",
];

/// What a system is able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ability {
    Lock,
    WaitLock,
    /// A write that is refused if the lock was lost.
    Edit,
    Open,
    ReadLocal,
    ReadLatest,
    TakeOver,
    Renew,
    Signals,
    List,
    /// Killing the process that serves a session.
    KillOwner,
    /// A lock whose holder is gone ends by itself.
    Expire,
}

/// What a holder has to show.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// The system's own proof: a token, a revision, a node.
    pub(crate) proof: String,
    /// A number that grows with each grant of the key, where the system has one.
    pub(crate) fence: Option<u64>,
}

/// The outcome of a guarded edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    Done,
    /// The lock was lost; nothing was written.
    Refused,
}

/// One editor's part of a document, so that many editors do not overwrite each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) editor: usize,
    /// Counts the edits of this editor from 1.
    pub(crate) value: u64,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// From one process, and possibly behind.
    Local,
    /// Not older than anything acknowledged before.
    Latest,
}

/// A system that runs. Requests come from clients `0..`; client `n` uses the connection `n % CONNECTIONS`.
#[async_trait(?Send)]
pub(crate) trait System: Send + Sync {
    /// One of [`SYSTEMS`].
    fn label(&self) -> &'static str;
    fn version(&self) -> &str;
    /// Settings and recipes in one line, for the report.
    fn settings(&self) -> &'static str;
    /// Why it cannot do this; `None` if it can.
    fn lacks(&self, ability: Ability) -> Option<&'static str>;
    /// The names and ids of its processes.
    fn pids(&self) -> Vec<(String, u32)>;

    /// Makes what a lock and a document of this key need, before anything is measured. Safe to repeat.
    async fn prepare(&self, key: &str) -> Result<()>;
    /// Makes a document with content; its key must be new.
    async fn open(&self, client: usize, key: &str) -> Result<()>;
    /// Takes a lock that is free.
    async fn lock(&self, client: usize, key: &str) -> Result<Held>;
    async fn unlock(&self, client: usize, key: &str, held: Held) -> Result<()>;
    /// Waits for its turn.
    async fn wait_lock(&self, client: usize, key: &str) -> Result<Held>;
    async fn edit(&self, client: usize, key: &str, held: &Held, part: Part) -> Result<Edit>;
    /// The value of the last edit of each editor `0..editors`, read as fresh as possible; 0 if there is none.
    async fn values(&self, key: &str, editors: usize) -> Result<Vec<u64>>;
    async fn read(&self, client: usize, key: &str, reading: Reading) -> Result<()>;
    /// Takes the lock away from whoever has it.
    async fn take_over(&self, client: usize, key: &str) -> Result<Held>;

    async fn renew(&self, _client: usize, _key: &str, _held: &Held) -> Result<()> {
        bail!("{} has no renewals", self.label())
    }
    /// Yields an item for each signal about this key, from the return of this call on.
    async fn signals(&self, _client: usize, _key: &str) -> Result<BoxStream<'static, ()>> {
        bail!("{} has no signals", self.label())
    }
    /// Causes one signal; returns when that is committed.
    async fn cause_signal(&self, _client: usize, _key: &str, _held: &Held, _value: u64) -> Result<()> {
        bail!("{} has no signals", self.label())
    }
    /// Reads one page of so many entries; returns how many came.
    async fn list(&self, _client: usize, _limit: usize) -> Result<usize> {
        bail!("{} has no list", self.label())
    }
    /// Kills the process that serves this key, with SIGKILL.
    async fn kill_owner(&self, _key: &str) -> Result<()> {
        bail!("{} has no owners", self.label())
    }
    /// Starts again what was killed, and returns when it serves.
    async fn revive(&self) -> Result<()> {
        bail!("{} has no owners", self.label())
    }
    /// Takes a lock whose holder is then gone without a word. It ends by itself after 2 s.
    async fn lock_and_die(&self, _key: &str) -> Result<()> {
        bail!("{} has no expiry", self.label())
    }
    /// Restarts all processes in order, and connects anew.
    async fn restart(&mut self) -> Result<()>;
    async fn stop(self: Box<Self>);
}

impl fmt::Debug for dyn System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Starts a system with its data below `folder`.
///
/// # Errors
/// [`Missing`](super::process::Missing) when something is not installed.
pub(crate) async fn start(label: &str, folder: &Path) -> Result<Box<dyn System>> {
    std::fs::create_dir_all(folder)?;
    Ok(match label {
        "holdfast-1" => Box::new(holdfast::Holdfast::start("holdfast-1", folder, 1).await?),
        "holdfast-3" => Box::new(holdfast::Holdfast::start("holdfast-3", folder, 3).await?),
        "jetstream-1" => Box::new(jetstream::Jetstream::start("jetstream-1", folder, 1).await?),
        "jetstream-3" => Box::new(jetstream::Jetstream::start("jetstream-3", folder, 3).await?),
        "etcd-1" => Box::new(etcd::Etcd::start("etcd-1", folder, 1).await?),
        "etcd-3" => Box::new(etcd::Etcd::start("etcd-3", folder, 3).await?),
        "redis-1" => Box::new(redis::Redis::start("redis-1", folder).await?),
        "zookeeper-1" => Box::new(zookeeper::ZooKeeper::start("zookeeper-1", folder, 1).await?),
        "zookeeper-3" => Box::new(zookeeper::ZooKeeper::start("zookeeper-3", folder, 3).await?),
        other => bail!("there is no system {other}"),
    })
}

/// A document's content.
fn content() -> String {
    "x".repeat(CONTENT)
}
