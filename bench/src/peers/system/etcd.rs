//! etcd. A lock is a key with a lease that exists or not; its `mod_revision` is the fence, which a takeover changes by
//! one `put`, and which edits compare in their transaction.
//!
//! Waiting is the recipe of etcd's package `concurrency`, done by the client. etcd's lock service does the same in the
//! server, but opens its watches at an earlier revision, which etcd serves every 100 ms only: a hand-over took 100 ms.
//!
//! Compared is `mod_revision` and not `create_revision`: a transaction may not delete and create the same key, so a
//! takeover in one step keeps the `create_revision`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, LeaseKeepAliveStream, LeaseKeeper, PutOptions, SortOrder, SortTarget, Txn,
    TxnOp, WatchOptions,
};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::Mutex;

use super::{Ability, CONNECTIONS, Edit, Held, Part, Reading, System, content};
use crate::peers::process::{Launch, Process, pids, port, program, version};

/// How many clients have a lease; a lease is what holds a lock.
const LEASES: usize = 1024;
/// Leases outlive a run; the lock's own TTL is measured apart.
const LEASE_SECONDS: i64 = 3600;
/// Where documents are.
const PREFIX: &str = "doc/";

pub(super) struct Etcd {
    label: &'static str,
    version: String,
    processes: Vec<Process>,
    urls: Vec<String>,
    clients: Vec<Client>,
    leases: Vec<i64>,
    keepers: Vec<Mutex<Option<(LeaseKeeper, LeaseKeepAliveStream)>>>,
}

impl Etcd {
    pub(super) async fn start(label: &'static str, folder: &Path, size: usize) -> Result<Self> {
        let etcd = program("etcd", "etcd-server")?;
        let version = version(&etcd, "--version")?.replace("etcd Version: ", "etcd ");
        let ports: Vec<(u16, u16)> = (0..size).map(|_| Ok((port()?, port()?))).collect::<Result<_>>()?;
        let peers: Vec<String> =
            ports.iter().zip(1..).map(|((_, peer), n)| format!("e{n}=http://127.0.0.1:{peer}")).collect();
        let mut processes = Vec::new();
        for ((client, peer), number) in ports.iter().zip(1..) {
            let (name, client) = (format!("e{number}"), format!("http://127.0.0.1:{client}"));
            let peer = format!("http://127.0.0.1:{peer}");
            let args = [
                ("--name", name.as_str()),
                ("--data-dir", &folder.join(&name).display().to_string()),
                ("--listen-client-urls", &client),
                ("--advertise-client-urls", &client),
                ("--listen-peer-urls", &peer),
                ("--initial-advertise-peer-urls", &peer),
                ("--initial-cluster", &peers.join(",")),
                ("--initial-cluster-state", "new"),
                ("--quota-backend-bytes", "8589934592"),
                ("--log-level", "warn"),
            ];
            let args = args.iter().map(|(name, value)| format!("{name}={value}")).collect();
            processes.push(Process::start(Launch { name, program: etcd.clone(), args, folder: folder.into() })?);
        }
        let urls = ports.iter().map(|(client, _)| format!("http://127.0.0.1:{client}")).collect();
        let mut etcd =
            Self { label, version, processes, urls, clients: Vec::new(), leases: Vec::new(), keepers: Vec::new() };
        etcd.serve().await?;
        for client in 0..LEASES {
            let lease = etcd.client(client).lease_grant(LEASE_SECONDS, None).await?.id();
            etcd.leases.push(lease);
            etcd.keepers.push(Mutex::new(None));
        }
        Ok(etcd)
    }

    async fn serve(&mut self) -> Result<()> {
        for (process, url) in self.processes.iter_mut().zip(&self.urls) {
            let answers = async || match Client::connect([url], None).await {
                Ok(mut client) => client.get("none", None).await.is_ok(),
                Err(_) => false,
            };
            process.ready(answers).await?;
        }
        self.clients.clear();
        for _ in 0..CONNECTIONS {
            self.clients.push(Client::connect(&self.urls, None).await?);
        }
        Ok(())
    }

    fn client(&self, client: usize) -> Client {
        self.clients[client % CONNECTIONS].clone()
    }

    async fn put_lock(&self, client: usize, key: &str, only_if_free: bool) -> Result<Option<Held>> {
        let name = lock_key(key);
        let put =
            TxnOp::put(name.as_str(), client.to_string(), Some(PutOptions::new().with_lease(self.leases[client])));
        let if_free = only_if_free.then(|| Compare::create_revision(name, CompareOp::Equal, 0));
        let txn = Txn::new().when(Vec::from_iter(if_free)).and_then([put]);
        let reply = self.client(client).txn(txn).await?;
        let revision = reply.header().context("an answer has a header")?.revision();
        reply.succeeded().then(|| held(revision)).transpose()
    }
}

fn held(revision: i64) -> Result<Held> {
    Ok(Held { proof: revision.to_string(), fence: Some(u64::try_from(revision)?) })
}

fn lock_key(key: &str) -> String {
    format!("lock/{key}")
}

/// Where waiters of a key stand in line, in the order in which their places were made.
fn line(key: &str) -> String {
    format!("line/{key}/")
}

/// The place of the client with this lease.
fn place(key: &str, lease: i64) -> String {
    format!("{}{lease:x}", line(key))
}

#[async_trait(?Send)]
impl System for Etcd {
    fn label(&self) -> &'static str {
        self.label
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn settings(&self) -> &'static str {
        "defaults (fsync of its log before an answer); lock: a transaction that puts a key with a lease if it does not \
         exist; unlock and edit compare `mod_revision`; waiting by the recipe of its package \
         `concurrency` (a key per waiter, which watches the one before it); signals by watches"
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        (ability == Ability::KillOwner).then_some("no owner")
    }

    fn pids(&self) -> Vec<(String, u32)> {
        pids(&self.processes)
    }

    async fn prepare(&self, key: &str) -> Result<()> {
        self.client(0).put(format!("{PREFIX}{key}/0"), "0", None).await?;
        Ok(())
    }

    async fn open(&self, client: usize, key: &str) -> Result<()> {
        let name = format!("{PREFIX}{key}/content");
        let txn = Txn::new()
            .when([Compare::create_revision(name.as_str(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(name.as_str(), content(), None)]);
        ensure!(self.client(client).txn(txn).await?.succeeded(), "{key} exists");
        Ok(())
    }

    async fn lock(&self, client: usize, key: &str) -> Result<Held> {
        self.put_lock(client, key, true).await?.with_context(|| format!("{key} is locked by another client"))
    }

    async fn unlock(&self, client: usize, key: &str, held: Held) -> Result<()> {
        // A place in line is a key of its own, which only its client deletes.
        if held.proof.starts_with("line/") {
            let gone = self.client(client).delete(held.proof, None).await?;
            ensure!(gone.deleted() == 1, "the place in line for {key} was lost");
            return Ok(());
        }
        let name = lock_key(key);
        let txn = Txn::new()
            .when([Compare::mod_revision(name.as_str(), CompareOp::Equal, held.proof.parse()?)])
            .and_then([TxnOp::delete(name.as_str(), None)]);
        ensure!(self.client(client).txn(txn).await?.succeeded(), "the lock of {key} was lost");
        Ok(())
    }

    async fn wait_lock(&self, client: usize, key: &str) -> Result<Held> {
        let mut etcd = self.client(client);
        let (line, own) = (line(key), place(key, self.leases[client]));
        let put = PutOptions::new().with_lease(self.leases[client]);
        let place = etcd.put(own.as_str(), "", Some(put)).await?;
        let revision = place.header().context("an answer has a header")?.revision();
        loop {
            let before = GetOptions::new()
                .with_prefix()
                .with_max_create_revision(revision - 1)
                .with_sort(SortTarget::Create, SortOrder::Descend)
                .with_limit(1);
            let reply = etcd.get(line.as_str(), Some(before)).await?;
            let Some(previous) = reply.kvs().first() else {
                return Ok(Held { proof: own, fence: Some(u64::try_from(revision)?) });
            };
            // A watch from now on is served at once; one from an earlier revision waits for etcd's loop of 100 ms.
            let mut watch = etcd.watch(previous.key(), None).await?;
            ensure!(watch.message().await?.is_some_and(|reply| reply.created()), "the watch was not made");
            let now = etcd.get(previous.key(), None).await?;
            if now.kvs().first().is_some_and(|kv| kv.create_revision() == previous.create_revision()) {
                watch.message().await?.context("the watch has ended")?;
            }
        }
    }

    async fn edit(&self, client: usize, key: &str, held: &Held, part: Part) -> Result<Edit> {
        let txn = Txn::new()
            .when([Compare::mod_revision(lock_key(key), CompareOp::Equal, held.proof.parse()?)])
            .and_then([TxnOp::put(format!("{PREFIX}{key}/{}", part.editor), part.value.to_string(), None)]);
        Ok(if self.client(client).txn(txn).await?.succeeded() { Edit::Done } else { Edit::Refused })
    }

    async fn values(&self, key: &str, editors: usize) -> Result<Vec<u64>> {
        let mut values = Vec::new();
        for editor in 0..editors {
            let reply = self.client(0).get(format!("{PREFIX}{key}/{editor}"), None).await?;
            values.push(reply.kvs().first().map(|kv| anyhow::Ok(kv.value_str()?.parse()?)).transpose()?.unwrap_or(0));
        }
        Ok(values)
    }

    async fn read(&self, client: usize, key: &str, reading: Reading) -> Result<()> {
        let options = (reading == Reading::Local).then(|| GetOptions::new().with_serializable());
        let reply = self.client(client).get(format!("{PREFIX}{key}/content"), options).await?;
        ensure!(!reply.kvs().is_empty(), "{key} is not there");
        Ok(())
    }

    async fn take_over(&self, client: usize, key: &str) -> Result<Held> {
        self.put_lock(client, key, false).await?.context("a transaction without a condition was refused")
    }

    async fn renew(&self, client: usize, _key: &str, _held: &Held) -> Result<()> {
        let mut keeper = self.keepers[client].lock().await;
        if keeper.is_none() {
            *keeper = Some(self.client(client).lease_keep_alive(self.leases[client]).await?);
        }
        let (asking, answers) = keeper.as_mut().context("the stream of renewals is open")?;
        asking.keep_alive().await?;
        let answer = answers.message().await?.context("the stream of renewals has ended")?;
        ensure!(answer.ttl() > 0, "the lease has expired");
        Ok(())
    }

    async fn signals(&self, client: usize, key: &str) -> Result<BoxStream<'static, ()>> {
        let options = WatchOptions::new().with_prefix();
        let mut watch = self.client(client).watch(format!("{PREFIX}{key}/"), Some(options)).await?;
        let created = watch.message().await?.context("the watch has ended")?;
        ensure!(created.created(), "the watch was not made");
        let events = watch.flat_map(|reply| {
            // A watch that ends is seen as signals that do not come.
            let count = reply.map(|reply| reply.events().len()).unwrap_or_default();
            futures_util::stream::iter(std::iter::repeat_n((), count))
        });
        Ok(events.boxed())
    }

    async fn cause_signal(&self, client: usize, key: &str, held: &Held, value: u64) -> Result<()> {
        let edit = self.edit(client, key, held, Part { editor: 0, value }).await?;
        ensure!(edit == Edit::Done, "the lock was lost");
        Ok(())
    }

    async fn list(&self, client: usize, limit: usize) -> Result<usize> {
        let options = GetOptions::new().with_prefix().with_limit(i64::try_from(limit)?);
        Ok(self.client(client).get(PREFIX, Some(options)).await?.kvs().len())
    }

    async fn lock_and_die(&self, key: &str) -> Result<()> {
        let mut client = self.client(0);
        let lease = client.lease_grant(2, None).await?.id();
        client.put(place(key, lease), "", Some(PutOptions::new().with_lease(lease))).await?;
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        self.clients.clear();
        for process in &mut self.processes {
            process.end(std::time::Duration::from_secs(20)).await?;
        }
        for process in &mut self.processes {
            process.restart().await?;
        }
        self.serve().await
    }

    async fn stop(mut self: Box<Self>) {
        self.clients.clear();
        self.processes.clear();
    }
}
