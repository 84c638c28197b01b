//! Redis, one server that writes its log to the disk before it answers. A lock is a key with a token and a TTL
//! (`SET NX PX`); everything else about it is a script that compares the token, as Redis's own pages describe it.
//!
//! Redis gives no number that grows with each grant, so what a holder writes elsewhere cannot be fenced.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Script};

use super::{Ability, CONNECTIONS, Edit, Held, Part, Reading, System, TTL_MS, content};
use crate::peers::pause;
use crate::peers::process::{Launch, Process, pids, port, program, version};

/// The default of the client is half a second, which is short for a busy disk.
const PATIENCE: Duration = Duration::from_secs(30);

static UNLOCK: LazyLock<Script> = LazyLock::new(|| {
    Script::new("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")
});
static EDIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
         redis.call('HSET', KEYS[2], ARGV[2], ARGV[3]) return 1",
    )
});
static ANNOUNCED_EDIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end \
         redis.call('HSET', KEYS[2], ARGV[2], ARGV[3]) redis.call('PUBLISH', KEYS[2], ARGV[3]) return 1",
    )
});
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0",
    )
});

pub(super) struct Redis {
    label: &'static str,
    version: String,
    process: Process,
    client: Client,
    connections: Vec<MultiplexedConnection>,
}

impl Redis {
    pub(super) async fn start(label: &'static str, folder: &Path) -> Result<Self> {
        let server = program("redis-server", "redis-server")?;
        let version = version(&server, "--version")?;
        let version = version.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or(&version);
        let version = format!("Redis {version}");
        let port = port()?;
        let args = [
            ("--port", port.to_string()),
            ("--bind", "127.0.0.1".to_owned()),
            ("--dir", folder.display().to_string()),
            ("--appendonly", "yes".to_owned()),
            ("--appendfsync", "always".to_owned()),
            ("--save", String::new()),
            // The sockets of 1,000 subscribers.
            ("--maxclients", "4000".to_owned()),
        ];
        let args = args.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        let process =
            Process::start(Launch { name: "redis".to_owned(), program: server, args, folder: folder.into() })?;
        let client = Client::open(format!("redis://127.0.0.1:{port}"))?;
        let mut redis = Self { label, version, process, client, connections: Vec::new() };
        redis.serve().await?;
        Ok(redis)
    }

    async fn serve(&mut self) -> Result<()> {
        let client = &self.client;
        let answers = async || match client.get_multiplexed_async_connection().await {
            // It refuses commands while it loads its log.
            Ok(mut connection) => redis::cmd("GET").arg("none").query_async::<()>(&mut connection).await.is_ok(),
            Err(_) => false,
        };
        self.process.ready(answers).await?;
        self.connections.clear();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        for _ in 0..CONNECTIONS {
            self.connections.push(self.client.get_multiplexed_async_connection_with_config(&config).await?);
        }
        Ok(())
    }

    fn connection(&self, client: usize) -> MultiplexedConnection {
        self.connections[client % CONNECTIONS].clone()
    }

    async fn set_if_free(&self, client: usize, key: &str, ttl_ms: u64) -> Result<Option<Held>> {
        let token = uuid::Uuid::new_v4().to_string();
        let mut command = redis::cmd("SET");
        command.arg(lock_key(key)).arg(&token).arg("NX").arg("PX").arg(ttl_ms);
        let reply: Option<String> = command.query_async(&mut self.connection(client)).await?;
        Ok(reply.map(|_| Held { proof: token, fence: None }))
    }
}

fn lock_key(key: &str) -> String {
    format!("lock:{key}")
}

fn document(key: &str) -> String {
    format!("doc:{key}")
}

#[async_trait(?Send)]
impl System for Redis {
    fn label(&self) -> &'static str {
        self.label
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn settings(&self) -> &'static str {
        "`appendonly yes`, `appendfsync always`, `save \"\"`; one server (a replica would be asynchronous); `SET NX PX`, and \
         scripts that compare the token; waiting is a loop with a pause of 1 to 4 ms; **no fencing token**"
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::KillOwner => Some("no owner"),
            Ability::List => Some("`SCAN` has no pages of a size"),
            _ => None,
        }
    }

    fn pids(&self) -> Vec<(String, u32)> {
        pids(std::slice::from_ref(&self.process))
    }

    async fn prepare(&self, _key: &str) -> Result<()> {
        Ok(())
    }

    async fn open(&self, client: usize, key: &str) -> Result<()> {
        let mut command = redis::cmd("HSETNX");
        command.arg(document(key)).arg("content").arg(content());
        let made: bool = command.query_async(&mut self.connection(client)).await?;
        ensure!(made, "{key} exists");
        Ok(())
    }

    async fn lock(&self, client: usize, key: &str) -> Result<Held> {
        let held = self.set_if_free(client, key, TTL_MS).await?;
        held.with_context(|| format!("{key} is locked by another client"))
    }

    async fn unlock(&self, client: usize, key: &str, held: Held) -> Result<()> {
        let connection = &mut self.connection(client);
        let done: bool = UNLOCK.key(lock_key(key)).arg(held.proof).invoke_async(connection).await?;
        ensure!(done, "the lock of {key} was lost");
        Ok(())
    }

    async fn wait_lock(&self, client: usize, key: &str) -> Result<Held> {
        loop {
            if let Some(held) = self.set_if_free(client, key, TTL_MS).await? {
                return Ok(held);
            }
            pause().await;
        }
    }

    async fn edit(&self, client: usize, key: &str, held: &Held, part: Part) -> Result<Edit> {
        let mut call = EDIT.key(lock_key(key));
        let call = call.key(document(key)).arg(&held.proof).arg(part.editor).arg(part.value);
        let done: bool = call.invoke_async(&mut self.connection(client)).await?;
        Ok(if done { Edit::Done } else { Edit::Refused })
    }

    async fn values(&self, key: &str, editors: usize) -> Result<Vec<u64>> {
        let mut command = redis::cmd("HMGET");
        command.arg(document(key));
        for editor in 0..editors {
            command.arg(editor);
        }
        let values: Vec<Option<u64>> = command.query_async(&mut self.connection(0)).await?;
        Ok(values.into_iter().map(Option::unwrap_or_default).collect())
    }

    async fn read(&self, client: usize, key: &str, _reading: Reading) -> Result<()> {
        let mut command = redis::cmd("HGET");
        command.arg(document(key)).arg("content");
        let found: Option<Vec<u8>> = command.query_async(&mut self.connection(client)).await?;
        found.map(drop).with_context(|| format!("{key} is not there"))
    }

    async fn take_over(&self, client: usize, key: &str) -> Result<Held> {
        let token = uuid::Uuid::new_v4().to_string();
        let mut command = redis::cmd("SET");
        command.arg(lock_key(key)).arg(&token).arg("PX").arg(TTL_MS);
        command.query_async::<()>(&mut self.connection(client)).await?;
        Ok(Held { proof: token, fence: None })
    }

    async fn renew(&self, client: usize, key: &str, held: &Held) -> Result<()> {
        let mut call = RENEW.key(lock_key(key));
        let done: bool = call.arg(&held.proof).arg(TTL_MS).invoke_async(&mut self.connection(client)).await?;
        ensure!(done, "the lock of {key} was lost");
        Ok(())
    }

    async fn signals(&self, _client: usize, key: &str) -> Result<BoxStream<'static, ()>> {
        let mut connection = self.client.get_async_pubsub().await?;
        connection.subscribe(document(key)).await?;
        Ok(connection.into_on_message().map(drop).boxed())
    }

    async fn cause_signal(&self, client: usize, key: &str, held: &Held, value: u64) -> Result<()> {
        let mut call = ANNOUNCED_EDIT.key(lock_key(key));
        let call = call.key(document(key)).arg(&held.proof).arg(0).arg(value);
        let done: bool = call.invoke_async(&mut self.connection(client)).await?;
        ensure!(done, "the lock was lost");
        Ok(())
    }

    async fn lock_and_die(&self, key: &str) -> Result<()> {
        self.set_if_free(0, key, 2000).await?.map(drop).with_context(|| format!("{key} is locked"))
    }

    async fn restart(&mut self) -> Result<()> {
        self.connections.clear();
        self.process.restart().await?;
        self.serve().await
    }

    async fn stop(mut self: Box<Self>) {
        self.connections.clear();
    }
}
