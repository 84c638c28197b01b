//! Several nats-servers on loopback as one cluster, for what must be tested with three replicas.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream;
use tokio::time::Instant;

use crate::error::StartError;
use crate::port::free_port;
use crate::server::{ClusterOptions, Server, ServerOptions};

/// A fresh cluster of three elects its leader in one to two seconds.
const FORM_DEADLINE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(50);

/// While there is no leader some requests are not answered at all, so ask again soon.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// How often other ports are tried.
const PORT_TRIES: usize = 5;

/// Why a cluster did not start. None of its servers is left running.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// One of the servers did not start.
    #[error("server {name} of the cluster did not start")]
    Start {
        /// Its name.
        name: String,
        /// Why.
        source: StartError,
    },
    /// The servers run, but a stream with that many replicas cannot be made.
    #[error("the cluster has no {replicas} replicas to give: {last}")]
    NotFormed {
        /// The size of the cluster.
        replicas: usize,
        /// What was last answered.
        last: String,
    },
}

/// A cluster of nats-servers that we started; they end with it.
pub struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    /// Starts `size` servers named `n1`, `n2`, … with their data below `data`, and waits until streams
    /// with that many replicas can be made.
    ///
    /// # Errors
    /// [`ClusterError`]; no process is left then.
    pub async fn start(binary: &Path, data: &Path, size: usize) -> Result<Self, ClusterError> {
        let mut tried = 0;
        let cluster = loop {
            tried += 1;
            match Self::start_servers(binary, data, size).await {
                Err(ClusterError::Start { source: StartError::PortTaken { .. }, .. }) if tried < PORT_TRIES => {}
                other => break other?,
            }
        };
        cluster.wait_for_replicas(FORM_DEADLINE).await?;
        Ok(cluster)
    }

    async fn start_servers(binary: &Path, data: &Path, size: usize) -> Result<Self, ClusterError> {
        let ports = (0..size).map_while(|_| free_port());
        let routes: Vec<u16> = ports.collect();
        let mut servers = Vec::with_capacity(size);
        for (&port, number) in routes.iter().zip(1..) {
            let name = format!("n{number}");
            let mut options = ServerOptions::new(binary, data.join(&name), &name);
            options.cluster = Some(ClusterOptions { name: "holdfast".to_owned(), port, routes: routes.clone() });
            let started = Server::start(options).await;
            servers.push(started.map_err(|source| ClusterError::Start { name, source })?);
        }
        Ok(Self { servers })
    }

    /// Waits until the cluster can make a stream with a replica on every server: then it has a leader,
    /// and all of its servers take part. So it is also the thing to wait for after a fault.
    ///
    /// # Errors
    /// [`ClusterError::NotFormed`] after `deadline`, with what was last answered.
    pub async fn wait_for_replicas(&self, deadline: Duration) -> Result<(), ClusterError> {
        let end = Instant::now() + deadline;
        loop {
            let last = match tokio::time::timeout(ANSWER_DEADLINE, self.make_stream()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() + POLL >= end {
                return Err(ClusterError::NotFormed { replicas: self.servers.len(), last });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Makes a stream with as many replicas as there are servers, waits until each of them has it,
    /// and removes it. Making alone proves too little: a majority of the servers is enough for it.
    async fn make_stream(&self) -> Result<(), async_nats::Error> {
        let client = async_nats::connect(self.urls()).await?;
        let jetstream = jetstream::new(client);
        let stream = jetstream::stream::Config {
            name: "HOLDFAST_PROBE".to_owned(),
            subjects: vec!["holdfast-probe".to_owned()],
            num_replicas: self.servers.len(),
            ..Default::default()
        };
        let stream = jetstream.create_stream(stream).await?;
        while !is_everywhere(&stream.get_info().await?, self.servers.len()) {
            tokio::time::sleep(POLL).await;
        }
        jetstream.delete_stream("HOLDFAST_PROBE").await?;
        Ok(())
    }

    /// Where to connect to: the URL of each server.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }

    /// The URLs of all servers in one string, separated by commas.
    pub fn url(&self) -> String {
        self.urls().join(",")
    }

    /// The servers, `n1` first.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The servers, `n1` first, to do something bad to.
    pub fn servers_mut(&mut self) -> &mut [Server] {
        &mut self.servers
    }
}

/// Whether the stream has its leader and all other replicas at hand and up to date.
fn is_everywhere(stream: &jetstream::stream::Info, servers: usize) -> bool {
    let others = stream.cluster.iter().flat_map(|cluster| &cluster.replicas);
    others.filter(|replica| replica.current && !replica.offline).count() + 1 == servers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Finder;

    #[tokio::test]
    async fn a_cluster_gives_three_replicas_again_after_one_server_was_killed() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let binary = Finder::from_env().find(&|line| eprintln!("{line}")).await?;
        let mut cluster = Cluster::start(&binary.path, folder.path(), 3).await?;
        assert_eq!(cluster.urls().len(), 3);

        cluster.servers_mut()[0].kill9()?;
        let error = cluster.wait_for_replicas(Duration::from_secs(1)).await;
        assert!(matches!(error, Err(ClusterError::NotFormed { replicas: 3, .. })), "{error:?}");

        cluster.servers_mut()[0].restart().await?;
        cluster.wait_for_replicas(FORM_DEADLINE).await?;
        Ok(())
    }
}
