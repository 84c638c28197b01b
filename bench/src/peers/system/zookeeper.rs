//! ZooKeeper with its recipe for locks: an ephemeral sequential node per claim, the lowest one holds, and each waiter
//! watches the one before it. An edit checks the holder's node in the same transaction. The fence is the id of the
//! transaction that made the node.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zookeeper_client::{Acls, AddWatchMode, Client, CreateMode, Error, MultiWriteError, MultiWriteResult};

use super::{Ability, CONNECTIONS, Edit, Held, Part, Reading, System, content};
use crate::peers::process::{Launch, Process, missing, pids, port, program};

/// Where Debian puts it.
const JAR: &str = "/usr/share/java/zookeeper.jar";
/// Half a second, so that a session may end after one second already; the default of 2 s would allow 4.
const TICK_MS: u64 = 500;
const SESSION: Duration = Duration::from_secs(10);
const NODE: &str = "n-";
/// How many digits a sequence has.
const DIGITS: usize = 10;

pub(super) struct ZooKeeper {
    label: &'static str,
    version: String,
    processes: Vec<Process>,
    ports: Vec<u16>,
    clients: Vec<Client>,
}

impl ZooKeeper {
    pub(super) async fn start(label: &'static str, folder: &Path, size: usize) -> Result<Self> {
        let java = program("java", "default-jre-headless")?;
        if !Path::new(JAR).exists() {
            return Err(missing(JAR, "zookeeper"));
        }
        let mut ports = Vec::new();
        let mut members = String::new();
        for number in 1..=size {
            ports.push(port()?);
            members += &format!("server.{number}=127.0.0.1:{}:{}\n", port()?, port()?);
        }
        let mut processes = Vec::new();
        for (port, number) in ports.iter().zip(1..) {
            let name = format!("z{number}");
            let launch =
                launch(&java, &folder.join(&name), &name, *port, number, if size > 1 { &members } else { "" })?;
            processes.push(Process::start(launch)?);
        }
        let version = "ZooKeeper".to_owned();
        let mut zookeeper = Self { label, version, processes, ports, clients: Vec::new() };
        zookeeper.serve().await?;
        let status = status(zookeeper.ports[0]).await?;
        zookeeper.version = version_in(&status).context("ZooKeeper tells no version")?;
        for path in ["/lock", "/doc"] {
            zookeeper.clients[0].create(path, b"", &PERSISTENT).await?;
        }
        Ok(zookeeper)
    }

    async fn serve(&mut self) -> Result<()> {
        for (process, &port) in self.processes.iter_mut().zip(&self.ports) {
            process.ready(async || status(port).await.is_ok_and(|text| text.contains("Mode: "))).await?;
        }
        self.clients.clear();
        for client in 0..CONNECTIONS {
            self.clients.push(self.connect(client, SESSION).await?);
        }
        Ok(())
    }

    /// A session, beginning with one of the servers.
    async fn connect(&self, client: usize, timeout: Duration) -> Result<Client> {
        let mut ports = self.ports.clone();
        ports.rotate_left(client % self.ports.len());
        let cluster = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
        Ok(Client::connector().with_session_timeout(timeout).connect(&cluster).await?)
    }

    fn client(&self, client: usize) -> &Client {
        &self.clients[client % CONNECTIONS]
    }

    async fn claim(&self, client: &Client, key: &str) -> Result<Held> {
        let folder = folder(key);
        let (stat, sequence) = client.create(&format!("{folder}/{NODE}"), b"", &EPHEMERAL).await?;
        let own = format!("{NODE}{sequence}");
        loop {
            let mut before = client.list_children(&folder).await?;
            before.retain(|name| order(name) < order(&own));
            let Some(previous) = before.into_iter().max_by(|a, b| order(a).cmp(order(b))) else {
                return Ok(Held { proof: format!("{folder}/{own}"), fence: Some(u64::try_from(stat.czxid)?) });
            };
            let (there, watch) = client.check_and_watch_stat(&format!("{folder}/{previous}")).await?;
            if there.is_some() {
                watch.changed().await;
            }
        }
    }
}

const PERSISTENT: zookeeper_client::CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const EPHEMERAL: zookeeper_client::CreateOptions<'static> =
    CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());

/// Where the claims to a key are.
fn folder(key: &str) -> String {
    format!("/lock/{key}")
}

fn document(key: &str, editor: usize) -> String {
    format!("/doc/{key}.{editor}")
}

/// The part of a node's name that orders it.
fn order(name: &str) -> &str {
    &name[name.len().saturating_sub(DIGITS)..]
}

/// Writes the settings of one server.
fn launch(java: &Path, folder: &Path, name: &str, port: u16, number: usize, members: &str) -> Result<Launch> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("myid"), number.to_string())?;
    let settings = format!(
        "tickTime={TICK_MS}\ninitLimit=20\nsyncLimit=10\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
         maxClientCnxns=0\nadmin.enableServer=false\nforceSync=yes\n4lw.commands.whitelist=srvr\n{members}",
        folder.display()
    );
    let path = folder.join("zoo.cfg");
    std::fs::write(&path, settings)?;
    let args = ["-Xmx2g", "-cp", JAR, "org.apache.zookeeper.server.quorum.QuorumPeerMain", &path.display().to_string()];
    let args = args.map(str::to_owned).to_vec();
    Ok(Launch { name: name.to_owned(), program: java.to_owned(), args, folder: folder.to_owned() })
}

/// What a server says of itself; it has its place among the others when it tells its mode.
async fn status(port: u16) -> Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection.write_all(b"srvr").await?;
    let mut text = String::new();
    connection.read_to_string(&mut text).await?;
    Ok(text)
}

/// The version in `Zookeeper version: 3.8.0-${mvngit.commit.id}, built on …`.
fn version_in(status: &str) -> Option<String> {
    let version = status.lines().next()?.split_once("version: ")?.1;
    Some(format!("ZooKeeper {}", version.split(['-', ',']).next()?))
}

#[async_trait(?Send)]
impl System for ZooKeeper {
    fn label(&self) -> &'static str {
        self.label
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn settings(&self) -> &'static str {
        "`forceSync=yes`, `tickTime=500`; lock: the recipe with ephemeral sequential nodes; an edit checks the holder's node \
         in its transaction; 8 sessions hold all locks"
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::Renew => Some("the session's heartbeat renews all its locks"),
            Ability::List => Some("`getChildren` has no pages"),
            Ability::KillOwner => Some("no owner"),
            _ => None,
        }
    }

    fn pids(&self) -> Vec<(String, u32)> {
        pids(&self.processes)
    }

    async fn prepare(&self, key: &str) -> Result<()> {
        for path in [folder(key), document(key, 0)] {
            match self.client(0).create(&path, b"0", &PERSISTENT).await {
                Ok(_) | Err(Error::NodeExists) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn open(&self, client: usize, key: &str) -> Result<()> {
        self.client(client).create(&format!("/doc/{key}"), content().as_bytes(), &PERSISTENT).await?;
        Ok(())
    }

    async fn lock(&self, client: usize, key: &str) -> Result<Held> {
        self.claim(self.client(client), key).await
    }

    async fn unlock(&self, client: usize, _key: &str, held: Held) -> Result<()> {
        Ok(self.client(client).delete(&held.proof, None).await?)
    }

    async fn wait_lock(&self, client: usize, key: &str) -> Result<Held> {
        self.claim(self.client(client), key).await
    }

    async fn edit(&self, client: usize, key: &str, held: &Held, part: Part) -> Result<Edit> {
        let client = self.client(client);
        let path = document(key, part.editor);
        loop {
            let mut transaction = client.new_multi_writer();
            transaction.add_check_version(&held.proof, 0)?;
            transaction.add_set_data(&path, part.value.to_string().as_bytes(), None)?;
            match transaction.commit().await {
                Ok(_) => return Ok(Edit::Done),
                Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => return Ok(Edit::Refused),
                Err(MultiWriteError::OperationFailed { index: 1, source: Error::NoNode }) => {
                    // The first edit of this editor.
                    client.create(&path, b"0", &PERSISTENT).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn values(&self, key: &str, editors: usize) -> Result<Vec<u64>> {
        let client = self.client(0);
        client.sync("/").await?;
        let mut values = Vec::new();
        for editor in 0..editors {
            values.push(match client.get_data(&document(key, editor)).await {
                Ok((data, _)) => String::from_utf8(data)?.parse()?,
                Err(Error::NoNode) => 0,
                Err(error) => return Err(error.into()),
            });
        }
        Ok(values)
    }

    async fn read(&self, client: usize, key: &str, reading: Reading) -> Result<()> {
        let (client, path) = (self.client(client), format!("/doc/{key}"));
        if reading == Reading::Latest {
            client.sync(&path).await?;
        }
        client.get_data(&path).await?;
        Ok(())
    }

    async fn take_over(&self, client: usize, key: &str) -> Result<Held> {
        let (client, folder) = (self.client(client), folder(key));
        loop {
            let claims = client.list_children(&folder).await?;
            let mut transaction = client.new_multi_writer();
            for claim in claims {
                transaction.add_delete(&format!("{folder}/{claim}"), None)?;
            }
            transaction.add_create(&format!("{folder}/{NODE}"), b"", &EPHEMERAL)?;
            match transaction.commit().await {
                Ok(mut results) => match results.pop() {
                    Some(MultiWriteResult::Create { path, .. }) => {
                        // ZooKeeper 3.8 tells no state of a node that a transaction made.
                        let stat = client.check_stat(&path).await?.context("the new claim is gone")?;
                        return Ok(Held { proof: path, fence: Some(u64::try_from(stat.czxid)?) });
                    }
                    _ => bail!("a transaction that made a node does not name it"),
                },
                // The holder released meanwhile.
                Err(MultiWriteError::OperationFailed { source: Error::NoNode, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn signals(&self, client: usize, key: &str) -> Result<BoxStream<'static, ()>> {
        // A server tells each session once, so each subscriber is a session of its own.
        let client = self.connect(client, SESSION).await?;
        let watch = client.watch(&document(key, 0), AddWatchMode::Persistent).await?;
        let events = futures_util::stream::unfold((client, watch), |(client, mut watch)| async move {
            watch.changed().await;
            Some(((), (client, watch)))
        });
        Ok(events.boxed())
    }

    async fn cause_signal(&self, client: usize, key: &str, held: &Held, value: u64) -> Result<()> {
        match self.edit(client, key, held, Part { editor: 0, value }).await? {
            Edit::Done => Ok(()),
            Edit::Refused => bail!("the lock was lost"),
        }
    }

    async fn lock_and_die(&self, key: &str) -> Result<()> {
        let servers = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
        let connector = Client::connector().with_session_timeout(Duration::from_secs(2)).with_detached();
        let client = connector.connect(&servers).await?;
        self.claim(&client, key).await.map(drop)
    }

    async fn restart(&mut self) -> Result<()> {
        self.clients.clear();
        for process in &mut self.processes {
            process.end(Duration::from_secs(20)).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_status() {
        let status = "Zookeeper version: 3.8.0-${mvngit.commit.id}, built on 2022-07-10 05:46 UTC\nMode: standalone\n";
        assert_eq!(version_in(status).unwrap(), "ZooKeeper 3.8.0");
        assert_eq!(version_in(""), None);
    }

    #[test]
    fn claims_are_ordered_by_their_sequence() {
        assert!(order("n-0000000009") < order("n-0000000010"));
        assert_eq!(order("x"), "x");
    }
}
