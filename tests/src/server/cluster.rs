//! Several nats-servers on loopback as one cluster, for tests that need three replicas.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::jetstream;
use holdfast_deploy::{Server, ServerOptions, StartError, free_port};
use tokio::time::Instant;

/// A fresh cluster of three elects its leader in one to two seconds.
const FORM_DEADLINE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(50);

/// Without a leader some requests get no answer, so each is soon sent again.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// How many sets of ports are tried.
const PORT_TRIES: usize = 5;

/// A cluster of nats-servers. They end when it is dropped.
pub struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    /// Starts `size` servers named `n1`, `n2`, … with their data below `data`, and waits until streams with that many
    /// replicas can be created.
    ///
    /// # Errors
    /// When a server does not start, or they do not form a cluster; no process is left running then.
    pub async fn start(binary: &Path, data: &Path, size: usize) -> Result<Self> {
        let cluster = Self::start_with(binary, data, size, &|_| ()).await?;
        cluster.wait_for_replicas(FORM_DEADLINE).await?;
        Ok(cluster)
    }

    /// As [`Cluster::start`], with options that `change` may set, and without waiting for replicas.
    ///
    /// # Errors
    /// When a server does not start; no process is left running then.
    pub async fn start_with(
        binary: &Path,
        data: &Path,
        size: usize,
        change: &impl Fn(&mut ServerOptions),
    ) -> Result<Self> {
        let mut tried = 0;
        loop {
            tried += 1;
            match Self::start_servers(binary, data, size, change).await {
                Err(StartError::PortTaken { .. }) if tried < PORT_TRIES => {}
                other => return other.context("a server of the cluster did not start"),
            }
        }
    }

    async fn start_servers(
        binary: &Path,
        data: &Path,
        size: usize,
        change: &impl Fn(&mut ServerOptions),
    ) -> Result<Self, StartError> {
        let routes: Vec<String> =
            (0..size).map_while(|_| free_port()).map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut servers = Vec::with_capacity(size);
        for (route, number) in routes.iter().zip(1..) {
            let name = format!("n{number}");
            let mut options = ServerOptions::new(binary, data.join(&name), &name);
            let args = ["--cluster_name", "holdfast", "--cluster", route, "--routes", &routes.join(",")];
            options.args = args.map(str::to_owned).to_vec();
            change(&mut options);
            servers.push(Server::start(options).await?);
        }
        Ok(Self { servers })
    }

    /// Waits until the cluster can create a stream with a replica on every server: then it has a leader, and all
    /// servers take part. Use it after a fault too.
    ///
    /// # Errors
    /// After `deadline`, with the last failure.
    pub async fn wait_for_replicas(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let last = match tokio::time::timeout(ANSWER_DEADLINE, self.make_stream()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() + POLL >= end {
                bail!("the cluster has no {} replicas to give: {last}", self.servers.len());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Creates a stream with as many replicas as there are servers, waits until each has it, and removes it. Creating
    /// it is not enough, because a majority of the servers suffices for that.
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

    /// The URL of each server.
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

    /// The servers, `n1` first, for faults.
    pub fn servers_mut(&mut self) -> &mut [Server] {
        &mut self.servers
    }
}

/// Whether the stream has a leader, and all other replicas are up to date.
fn is_everywhere(stream: &jetstream::stream::Info, servers: usize) -> bool {
    let others = stream.cluster.iter().flat_map(|cluster| &cluster.replicas);
    others.filter(|replica| replica.current && !replica.offline).count() + 1 == servers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::binary;

    #[tokio::test]
    async fn a_cluster_gives_three_replicas_again_after_one_server_was_killed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut cluster = Cluster::start(&binary().await?.path, folder.path(), 3).await?;
        assert_eq!(cluster.urls().len(), 3);

        cluster.servers_mut()[0].kill9()?;
        let error = cluster.wait_for_replicas(Duration::from_secs(1)).await;
        assert!(error.unwrap_err().to_string().starts_with("the cluster has no 3 replicas to give: "));

        cluster.servers_mut()[0].restart().await?;
        cluster.wait_for_replicas(FORM_DEADLINE).await?;
        Ok(())
    }
}
