//! Holdfast as it is deployed: nats-servers, coordinators and workers, each in a process of its own. On one server
//! there is one of each; on three there are two coordinators and two workers.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::Client;
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use holdfast_protocol::subject::Root;
use holdfast_store::connect::{ConnectOptions, connect};
use serde_json::{Value, json};

use super::{Ability, CONNECTIONS, Edit, Held, Part, Reading, System, TTL_MS, content};
use crate::cluster::NatsServers;
use crate::peers::process::{Launch, Process, pids};

/// How long all parts may take until they serve.
const SERVING: Duration = Duration::from_secs(60);
/// How long a request may take, waiting for a lock included.
const PATIENCE: Duration = Duration::from_secs(70);
const WAIT_MS: u64 = 60_000;

pub(super) struct Holdfast {
    label: &'static str,
    version: String,
    folder: PathBuf,
    root: Root,
    servers: NatsServers,
    /// Coordinators first. Their lock is never held across an `await`.
    parts: Mutex<Vec<Process>>,
    clients: Vec<Client>,
}

impl Holdfast {
    pub(super) async fn start(label: &'static str, folder: &Path, size: usize) -> Result<Self> {
        let servers = NatsServers::start(folder, size).await?;
        let version = format!("{} on nats-server {}", env!("CARGO_PKG_VERSION"), servers.version);
        let (folder, root) = (folder.to_owned(), Root::default());
        let mut holdfast = Self { label, version, folder, root, servers, parts: Mutex::default(), clients: Vec::new() };
        holdfast.start_parts()?;
        holdfast.connect().await?;
        Ok(holdfast)
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Process>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many parts of each kind there are.
    fn each(&self) -> usize {
        if self.servers.size() == 1 { 1 } else { 2 }
    }

    fn start_parts(&self) -> Result<()> {
        let mut parts = self.parts();
        parts.clear();
        for (part, letter) in [("coordinator", 'c'), ("worker", 'w')] {
            for number in 1..=self.each() {
                let name = format!("{letter}{number}");
                let args = ["part", part, &self.servers.url(), &name].map(str::to_owned).to_vec();
                let program = std::env::current_exe()?;
                parts.push(Process::start(Launch { name, program, args, folder: self.folder.clone() })?);
            }
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<()> {
        self.clients.clear();
        for _ in 0..CONNECTIONS {
            self.clients.push(connect(&ConnectOptions::to(self.servers.url())).await?);
        }
        self.serving().await
    }

    /// Waits until all workers are known, on every connection.
    async fn serving(&self) -> Result<()> {
        let subject = format!("{}.sys.worker.list", self.root);
        let begin = Instant::now();
        for client in &self.clients {
            loop {
                let reply = client.request(subject.clone(), "".into()).await;
                let reply = reply.ok().and_then(|reply| serde_json::from_slice::<Value>(&reply.payload).ok());
                if reply.is_some_and(|reply| reply["workers"].as_array().is_some_and(|all| all.len() == self.each())) {
                    break;
                }
                ensure!(begin.elapsed() < SERVING, "Holdfast's parts do not serve after {SERVING:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    async fn ask(&self, client: usize, verb: &str, id: &str, body: Value) -> Result<Value> {
        let reply = self.try_ask(client, verb, id, body).await?;
        ensure!(reply.get("error").is_none(), "{verb}: {reply}");
        Ok(reply)
    }

    async fn try_ask(&self, client: usize, verb: &str, id: &str, body: Value) -> Result<Value> {
        let tail = if id.is_empty() { String::new() } else { format!(".{id}") };
        let subject = format!("{}.default.{verb}{tail}", self.root);
        let request = async_nats::Request::new().payload(body.to_string().into()).timeout(Some(PATIENCE));
        let reply = self.clients[client % CONNECTIONS].send_request(subject, request).await?;
        Ok(serde_json::from_slice(&reply.payload)?)
    }
}

fn grant(reply: &Value) -> Result<Held> {
    let proof = reply["lock_token"].as_str().context("a grant has a token")?.to_owned();
    Ok(Held { proof, fence: Some(reply["fence"].as_u64().context("a grant has a fence")?) })
}

#[async_trait(?Send)]
impl System for Holdfast {
    fn label(&self) -> &'static str {
        self.label
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn settings(&self) -> &'static str {
        "`deploy/nats/server.conf` (`sync_interval: always`), R1 or R3; one coordinator and one worker, on three servers \
         two of each; lock with `ttl_ms`, waiting by `wait_ms`; edit with `token`"
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        (ability == Ability::KillOwner && self.servers.size() == 1).then_some("one worker only")
    }

    fn pids(&self) -> Vec<(String, u32)> {
        [self.servers.pids(), pids(&self.parts())].concat()
    }

    async fn prepare(&self, key: &str) -> Result<()> {
        self.ask(0, "session.open", "", json!({ "id": key })).await.map(drop)
    }

    async fn open(&self, client: usize, key: &str) -> Result<()> {
        let body = json!({"id": key, "mode": "create", "content": {"body": content()}});
        self.ask(client, "session.open", "", body).await.map(drop)
    }

    async fn lock(&self, client: usize, key: &str) -> Result<Held> {
        grant(&self.ask(client, "lock.acquire", key, json!({"owner": client.to_string(), "ttl_ms": TTL_MS})).await?)
    }

    async fn unlock(&self, client: usize, key: &str, held: Held) -> Result<()> {
        self.ask(client, "lock.release", key, json!({"token": held.proof})).await.map(drop)
    }

    async fn wait_lock(&self, client: usize, key: &str) -> Result<Held> {
        let body = json!({"owner": client.to_string(), "ttl_ms": TTL_MS, "wait_ms": WAIT_MS});
        grant(&self.ask(client, "lock.acquire", key, body).await?)
    }

    async fn edit(&self, client: usize, key: &str, held: &Held, part: Part) -> Result<Edit> {
        let body = json!({"token": held.proof, "fields": {format!("e{}", part.editor): part.value}});
        let reply = self.try_ask(client, "doc.edit", key, body).await?;
        match reply["error"]["reason"].as_str() {
            None if reply.get("error").is_none() => Ok(Edit::Done),
            Some("stale_token" | "not_locked") => Ok(Edit::Refused),
            _ => bail!("doc.edit: {reply}"),
        }
    }

    async fn values(&self, key: &str, editors: usize) -> Result<Vec<u64>> {
        let document = self.ask(0, "doc.get", key, json!({"consistency": "linearizable"})).await?;
        let value = |editor| document["fields"][format!("e{editor}")].as_u64().unwrap_or_default();
        Ok((0..editors).map(value).collect())
    }

    async fn read(&self, client: usize, key: &str, reading: Reading) -> Result<()> {
        let consistency = match reading {
            Reading::Local => "local",
            Reading::Latest => "linearizable",
        };
        self.ask(client, "doc.get", key, json!({ "consistency": consistency })).await.map(drop)
    }

    async fn take_over(&self, client: usize, key: &str) -> Result<Held> {
        let body = json!({"owner": client.to_string(), "reason": "bench", "ttl_ms": TTL_MS});
        grant(&self.ask(client, "admin.takeover", key, body).await?)
    }

    async fn renew(&self, client: usize, key: &str, held: &Held) -> Result<()> {
        self.ask(client, "lock.renew", key, json!({"token": held.proof})).await.map(drop)
    }

    async fn signals(&self, client: usize, key: &str) -> Result<BoxStream<'static, ()>> {
        let subject = format!("{}.default.signal.{key}.doc.edited", self.root);
        let client = &self.clients[client % CONNECTIONS];
        let messages = client.subscribe(subject).await?;
        client.flush().await?;
        Ok(messages.map(drop).boxed())
    }

    async fn cause_signal(&self, client: usize, key: &str, held: &Held, value: u64) -> Result<()> {
        let edit = self.edit(client, key, held, Part { editor: 0, value }).await?;
        ensure!(edit == Edit::Done, "the lock was lost");
        Ok(())
    }

    async fn list(&self, client: usize, limit: usize) -> Result<usize> {
        let page = self.ask(client, "session.list", "", json!({ "limit": limit })).await?;
        page["sessions"].as_array().map(Vec::len).context("a page has sessions")
    }

    async fn kill_owner(&self, key: &str) -> Result<()> {
        let session = self.ask(0, "session.get", key, json!({})).await?;
        let owner = session["owner"]["worker"].as_str().context("the session has no owner")?;
        let mut parts = self.parts();
        let worker = parts.iter_mut().find(|part| part.name() == owner);
        worker.with_context(|| format!("there is no worker {owner}"))?.kill9()
    }

    async fn revive(&self) -> Result<()> {
        for part in self.parts().iter_mut().filter(|part| part.pid().is_none()) {
            part.run()?;
        }
        self.serving().await
    }

    async fn lock_and_die(&self, key: &str) -> Result<()> {
        self.ask(0, "lock.acquire", key, json!({"owner": "dead", "ttl_ms": 2000})).await.map(drop)
    }

    async fn restart(&mut self) -> Result<()> {
        self.clients.clear();
        self.parts().clear();
        self.servers.restart().await?;
        self.start_parts()?;
        self.connect().await
    }

    async fn stop(mut self: Box<Self>) {
        self.clients.clear();
        self.parts().clear();
        self.servers.stop().await;
    }
}
