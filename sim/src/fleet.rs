//! A fleet: one net, one storage, coordinators and workers, each in a process that can be cut off, frozen and killed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_coordinator::{Config, Coordinator};
use holdfast_protocol::WorkerName;
use holdfast_protocol::subject::Root;
use holdfast_protocol::token::Secret;
use holdfast_store::memory::Memory;
use holdfast_store::net::{Link, Net, Process};
use holdfast_worker::{Worker, WorkerConfig};

use crate::client::Client;

/// How often coordinators look through all records. A lease that nobody counts any more is found by that, so it bounds
/// how long a run must rest.
const SWEEP: Duration = Duration::from_secs(15);

/// One coordinator or worker, in its process.
struct Part<T> {
    process: Process,
    running: T,
}

/// A fleet and what it runs on.
pub struct Fleet {
    /// The net: its faults and its history.
    pub net: Net,
    /// The storage: its faults and what it accepted.
    pub memory: Memory,
    coordinators: BTreeMap<String, Part<Coordinator>>,
    workers: BTreeMap<String, Part<Worker>>,
}

impl Fleet {
    /// A net and a storage without anybody, whose chances follow from `seed`.
    pub fn empty(seed: u64) -> Self {
        let (net, memory) = (Net::new(Root::default(), seed), Memory::default());
        Self { net, memory, coordinators: BTreeMap::new(), workers: BTreeMap::new() }
    }

    /// Coordinators `c1` to `c<coordinators>`, and workers `w1` to `w<workers>`.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start(seed: u64, coordinators: usize, workers: usize) -> Result<Self> {
        let mut fleet = Self::empty(seed);
        for n in 1..=workers {
            fleet.add_worker(&format!("w{n}"), |_| ()).await?;
        }
        for n in 1..=coordinators {
            fleet.add_coordinator(&format!("c{n}"), |_| ()).await?;
        }
        Ok(fleet)
    }

    /// One more coordinator, with settings of its own. A name that a killed one had may come again.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_coordinator(&mut self, name: &str, set: impl FnOnce(&mut Config)) -> Result<()> {
        let process = self.net.connect(name);
        let mut config = Config { name: name.to_owned(), sweep_interval: SWEEP, ..Config::default() };
        set(&mut config);
        let (wire, storage) = (process.wire(), process.reach(&self.memory));
        let running = Coordinator::start(wire, storage, Secret::new([7; 32]), config).await?;
        self.coordinators.insert(name.to_owned(), Part { process, running });
        Ok(())
    }

    /// One more worker, with settings of its own. A name that a killed one had may come again.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_worker(&mut self, name: &str, set: impl FnOnce(&mut WorkerConfig)) -> Result<()> {
        let process = self.net.connect(name);
        let mut config = WorkerConfig::new(WorkerName::parse(name)?);
        set(&mut config);
        let running = Worker::start(process.wire(), process.reach(&self.memory), config).await?;
        self.workers.insert(name.to_owned(), Part { process, running });
        Ok(())
    }

    /// A client with a connection of its own, which knows nothing but NATS and JSON.
    pub fn client(&self, name: &str) -> Client {
        Client::new(self.net.connect(name))
    }

    /// The process of a coordinator or worker.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn process(&self, name: &str) -> Result<&Process> {
        let coordinator = self.coordinators.get(name).map(|part| &part.process);
        coordinator.or(self.workers.get(name).map(|part| &part.process)).with_context(|| format!("there is no {name}"))
    }

    /// Changes how a coordinator or worker stands to all others.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn set_link(&self, name: &str, link: Link) -> Result<()> {
        self.process(name)?.set_link(link);
        Ok(())
    }

    /// Ends a coordinator or worker for good, as a killed process ends.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.set_link(name, Link::Dead)?;
        if let Some(part) = self.coordinators.remove(name) {
            part.running.abandon();
        }
        if let Some(part) = self.workers.remove(name) {
            part.running.abandon();
        }
        Ok(())
    }

    /// Stops a coordinator or worker in order.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn stop(&mut self, name: &str, grace: Duration) -> Result<()> {
        match (self.coordinators.remove(name), self.workers.remove(name)) {
            (Some(Part { process, running }), _) => {
                running.stop(grace).await;
                process.kill();
            }
            (None, Some(Part { process, running })) => {
                running.stop(grace).await;
                process.kill();
            }
            (None, None) => bail!("there is no {name}"),
        }
        Ok(())
    }

    /// The names of all coordinators and workers.
    pub fn names(&self) -> Vec<String> {
        self.coordinators.keys().chain(self.workers.keys()).cloned().collect()
    }

    /// The net's history, one line a message.
    pub fn history(&self) -> Vec<String> {
        self.net.published().iter().map(ToString::to_string).collect()
    }
}
