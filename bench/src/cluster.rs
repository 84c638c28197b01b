//! The nats-servers of a measurement: one, or three as a cluster, with `deploy/nats/server.conf`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use holdfast_deploy::{Finder, Server, ServerOptions, StartError, Version, free_port};
use holdfast_store::connect::{ConnectOptions, connect};

/// A fresh cluster elects its leaders in some seconds.
const FORM_DEADLINE: Duration = Duration::from_secs(60);
/// A cluster without a leader does not answer, so each attempt is soon made again.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
const PORT_TRIES: usize = 5;

/// Servers, which end when this is dropped.
pub(crate) struct NatsServers {
    servers: Vec<Server>,
    pub(crate) version: Version,
}

impl NatsServers {
    /// Starts `size` servers with their data below `folder`, and waits until streams with that many replicas can be
    /// created.
    pub(crate) async fn start(folder: &Path, size: usize) -> Result<Self> {
        ensure!(size == 1 || size == 3, "there are measurements with one server and with three, not with {size}");
        let binary = Finder::from_env().find(&|line| eprintln!("{line}")).await?;
        let mut tried = 0;
        let servers = loop {
            tried += 1;
            match start_servers(&binary.path, folder, size).await {
                // Another process took a port after it was found free.
                Err(StartError::PortTaken { .. }) if tried < PORT_TRIES => {}
                started => break started.context("a nats-server did not start")?,
            }
        };
        let servers = Self { servers, version: binary.version };
        servers.wait_for_replicas().await?;
        Ok(servers)
    }

    /// The addresses of all servers, separated by commas.
    pub(crate) fn url(&self) -> String {
        self.servers.iter().map(Server::url).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn size(&self) -> usize {
        self.servers.len()
    }

    /// The name and the process id of each server that runs.
    #[cfg(feature = "peers")]
    pub(crate) fn pids(&self) -> Vec<(String, u32)> {
        let running = self.servers.iter().filter_map(|server| Some((server.name(), server.pid()?)));
        running.map(|(name, pid)| (format!("nats-server {name}"), pid)).collect()
    }

    /// Stops all servers in order, and starts them again with their data.
    #[cfg(feature = "peers")]
    pub(crate) async fn restart(&mut self) -> Result<()> {
        for server in &mut self.servers {
            server.stop(Duration::from_secs(20)).await?;
        }
        for server in &mut self.servers {
            server.restart().await?;
        }
        self.wait_for_replicas().await
    }

    /// Waits until each server has a replica of a stream that is made for this.
    async fn wait_for_replicas(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let last = match tokio::time::timeout(ANSWER_DEADLINE, self.make_stream()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if begin.elapsed() > FORM_DEADLINE {
                bail!("the nats-servers have no {} replicas to give: {last}", self.servers.len());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn make_stream(&self) -> Result<(), async_nats::Error> {
        let jetstream = jetstream::new(connect(&ConnectOptions::to(self.url())).await?);
        let config = jetstream::stream::Config {
            name: "PROBE".to_owned(),
            subjects: vec!["bench-probe".to_owned()],
            num_replicas: self.servers.len(),
            ..Default::default()
        };
        let stream = jetstream.create_stream(config).await?;
        loop {
            let state = stream.get_info().await?;
            let others = state.cluster.iter().flat_map(|cluster| &cluster.replicas);
            if others.filter(|replica| replica.current && !replica.offline).count() + 1 == self.servers.len() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        jetstream.delete_stream("PROBE").await?;
        Ok(())
    }

    pub(crate) async fn stop(mut self) {
        for server in &mut self.servers {
            if let Err(error) = server.stop(Duration::from_secs(2)).await {
                eprintln!("a nats-server did not stop in order: {error}");
            }
        }
    }
}

async fn start_servers(binary: &Path, folder: &Path, size: usize) -> Result<Vec<Server>, StartError> {
    if size == 1 {
        return Ok(vec![Server::start(ServerOptions::new(binary, folder.join("n1"), "n1")).await?]);
    }
    let routes: Vec<String> = (0..size)
        .map(|_| free_port().map(|port| format!("nats://127.0.0.1:{port}")).ok_or(StartError::NoFreePort))
        .collect::<Result<_, _>>()?;
    let mut servers = Vec::new();
    for (route, number) in routes.iter().zip(1..) {
        let name = format!("n{number}");
        let mut options = ServerOptions::new(binary, folder.join(&name), &name);
        let args = ["--cluster_name", "holdfast", "--cluster", route, "--routes", &routes.join(",")];
        options.args = args.map(str::to_owned).to_vec();
        servers.push(Server::start(options).await?);
    }
    Ok(servers)
}
