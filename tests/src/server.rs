//! Provides servers for tests: a real nats-server with `deploy/nats/server.conf`, found as `holdfast up` finds it.
//!
//! | a test that | asks for |
//! |---|---|
//! | needs any server, and works in a namespace of its own | [`shared`] |
//! | needs three replicas | [`shared_cluster`] |
//! | stops, pauses or kills servers, or fills them | [`own`], [`own_cluster`] |
//!
//! Shared servers are shared by the tests of one process: `cargo test` runs all tests in one process, `nextest` each in
//! its own. Statics are never dropped, so shared servers end by the lifeline that ties every server to its process (see
//! `deploy`), and shared containers by a similar one (`container.rs`).

mod cluster;
mod container;
mod folder;
#[cfg(test)]
mod tests;

use std::env;
use std::io::Write;
use std::ops::{Deref, DerefMut};

use anyhow::{Context, Result, bail};
use holdfast_deploy::{Binary, Finder, Server, ServerOptions};
use tokio::sync::OnceCell;

pub use cluster::Cluster;
use container::Container;
use folder::Folder;

/// The environment variable that decides how [`shared`] runs its server: `local` or `container`. Without it, in a
/// container if an engine answers, and otherwise as a local process.
pub const TEST_SERVER_VARIABLE: &str = "HOLDFAST_TEST_SERVER";

/// How many servers a cluster of the tests has.
const CLUSTER_SIZE: usize = 3;

/// A server for all tests of this process.
pub struct Shared {
    url: String,
    // One of the two keeps the server running.
    _process: Option<Own>,
    _container: Option<Container>,
}

impl Shared {
    /// The server's URL, as in `nats://127.0.0.1:4222`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// The server that all tests of this process share. A test must use its own namespace and not stop the server.
///
/// # Errors
/// When no server can be started.
pub async fn shared() -> Result<&'static Shared> {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED.get_or_try_init(start_shared).await
}

/// The cluster of three that all tests of this process share; always local processes. A test must not change it.
///
/// # Errors
/// When it cannot be started.
pub async fn shared_cluster() -> Result<&'static Cluster> {
    static SHARED: OnceCell<OwnCluster> = OnceCell::const_new();
    Ok(&SHARED.get_or_try_init(own_cluster).await?.cluster)
}

/// A server for one test. It ends when dropped; its log is kept if the test failed.
pub struct Own {
    // Dropped in this order, because a server writes to its folder until it ends.
    server: Server,
    _folder: Folder,
}

/// A cluster for one test. It ends when dropped; its logs are kept if the test failed.
pub struct OwnCluster {
    cluster: Cluster,
    _folder: Folder,
}

/// Starts a server that only this test uses; `change` may change its options.
///
/// # Errors
/// When it cannot be started.
pub async fn own(change: impl FnOnce(&mut ServerOptions)) -> Result<Own> {
    let folder = Folder::create("own")?;
    let mut options = ServerOptions::new(&binary().await?.path, folder.path(), "test");
    change(&mut options);
    let server = Server::start(options).await?;
    Ok(Own { server, _folder: folder })
}

/// Starts a cluster of three that only this test uses.
///
/// # Errors
/// When it cannot be started.
pub async fn own_cluster() -> Result<OwnCluster> {
    let folder = Folder::create("cluster")?;
    let cluster = Cluster::start(&binary().await?.path, folder.path(), CLUSTER_SIZE).await?;
    Ok(OwnCluster { cluster, _folder: folder })
}

/// Starts a cluster of three that only this test uses, with options that `change` may set. It is not known yet whether
/// streams with three replicas can be created.
///
/// # Errors
/// When it cannot be started.
pub async fn own_cluster_with(change: impl Fn(&mut ServerOptions)) -> Result<OwnCluster> {
    let folder = Folder::create("cluster")?;
    let cluster = Cluster::start_with(&binary().await?.path, folder.path(), CLUSTER_SIZE, &change).await?;
    Ok(OwnCluster { cluster, _folder: folder })
}

/// The nats-server that local servers run.
///
/// # Errors
/// When there is none and none can be installed.
pub async fn binary() -> Result<&'static Binary> {
    static FOUND: OnceCell<Binary> = OnceCell::const_new();
    let find = async || Finder::from_env().find(&say).await;
    Ok(FOUND.get_or_try_init(find).await?)
}

async fn start_shared() -> Result<Shared> {
    let wanted = env::var(TEST_SERVER_VARIABLE).unwrap_or_default();
    match wanted.as_str() {
        "local" => start_process().await,
        "container" => start_container().await,
        "" if container::engine_answers().await => match start_container().await {
            Ok(shared) => Ok(shared),
            Err(error) => {
                say(&format!("test server: no container ({error:#}), so a local process"));
                start_process().await
            }
        },
        "" => start_process().await,
        other => bail!("{TEST_SERVER_VARIABLE} is {other:?}, and can be `local` or `container`"),
    }
}

async fn start_process() -> Result<Shared> {
    let own = own(|_| ()).await?;
    let Binary { path, version, .. } = binary().await?;
    say(&format!("test server: nats-server {version} ({}), log {}", path.display(), own.log().display()));
    Ok(Shared { url: own.url(), _process: Some(own), _container: None })
}

async fn start_container() -> Result<Shared> {
    let container = Container::start().await.context("starting nats-server in a container")?;
    say(&format!("test server: container {} of image {}", container.id(), container::IMAGE));
    Ok(Shared { url: container.url().to_owned(), _process: None, _container: Some(container) })
}

/// Writes a line to standard error, past the output capturing of `cargo test`.
fn say(line: &str) {
    // A closed standard error is ignored.
    writeln!(std::io::stderr(), "{line}").unwrap_or_default();
}

impl Deref for Own {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Own {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl Deref for OwnCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for OwnCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}
