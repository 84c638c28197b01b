//! Parts that can be killed. Each runs on its own threads, which end at once at any point, like those of a process that
//! got SIGKILL. Its connection to NATS ends with it, without any message before.

use std::future::Future;

use anyhow::{Context, Result};
use holdfast_coordinator::Coordinator;
use holdfast_deploy::Role;
use holdfast_worker::Worker;
use tokio::runtime::{Builder, Runtime};

use super::Fleet;

/// A part and its threads. Dropping it kills it too.
pub struct Mortal<Part> {
    part: Part,
    threads: Option<Runtime>,
}

impl<Part: Send + 'static> Mortal<Part> {
    async fn start(begin: impl Future<Output = Result<Part>> + Send + 'static) -> Result<Self> {
        let threads = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let begun = threads.spawn(begin).await;
        match begun.context("the part panicked").and_then(|begun| begun) {
            Ok(part) => Ok(Self { part, threads: Some(threads) }),
            Err(error) => {
                threads.shutdown_background();
                Err(error)
            }
        }
    }
}

impl<Part> Mortal<Part> {
    /// Kills it.
    pub fn kill(self) {
        drop(self);
    }
}

impl<Part> Drop for Mortal<Part> {
    fn drop(&mut self) {
        // Dropping a runtime waits for its threads, which a task must not do.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

impl Mortal<Worker> {
    pub(super) fn sessions(&self) -> usize {
        self.part.sessions()
    }
}

impl Fleet {
    /// One more worker without workspaces, which [`Fleet::kill_worker`] can kill.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add_mortal_worker(&mut self, name: &str) -> Result<()> {
        let begin =
            super::begin_worker(self.options(&self.url, Role::Worker), super::worker_config(&self.root, name, &[])?);
        self.mortal_workers.insert(name.to_owned(), Mortal::start(begin).await?);
        Ok(())
    }

    /// Kills a worker: its sessions stay its own until a coordinator notices.
    ///
    /// # Panics
    /// When there is no mortal worker of that name.
    pub fn kill_worker(&mut self, name: &str) {
        self.take_mortal_worker(name).kill();
    }

    /// Gives a worker to the test to kill.
    ///
    /// # Panics
    /// When there is no mortal worker of that name.
    pub fn take_mortal_worker(&mut self, name: &str) -> Mortal<Worker> {
        self.mortal_workers.remove(name).expect("a mortal worker of that name")
    }

    /// A coordinator for the test to kill, connected to `url`.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn begin_mortal_coordinator(&self, url: &str) -> Result<Mortal<Coordinator>> {
        Mortal::start(super::begin_coordinator(
            self.options(url, Role::Coordinator),
            self.coordinator_config(),
            self.secret.clone(),
        ))
        .await
    }
}
