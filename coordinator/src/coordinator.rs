//! A running coordinator: its tasks, and how they end.
//!
//! Invariant: every task has an end that [`Coordinator::stop`] waits for. Requests that were taken are answered; the relay's
//! pin is given up, so that another coordinator goes on at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::token::Secret;
use holdfast_store::{SharedFeed, SharedWire};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::countdown;
use crate::endpoint::Endpoints;
use crate::error::StartError;
use crate::grants;
use crate::hub::Hub;
use crate::micro::Micro;
use crate::relay::{self, Pin};
use crate::sweep;

/// How much of a grace period is kept for each of the two steps that follow the last answer: giving the relay up, and
/// dropping what has not ended.
const ENDING: Duration = Duration::from_secs(1);

/// A running coordinator.
pub struct Coordinator {
    hub: Arc<Hub>,
    /// Tasks that go on until all requests are answered.
    background: TaskTracker,
    /// Ends them in order.
    ending: CancellationToken,
}

impl Coordinator {
    /// Starts one on a provisioned store. Any number of them share the work.
    ///
    /// # Errors
    /// [`StartError`] when the connection takes no subscriptions.
    pub async fn start(
        wire: SharedWire,
        store: SharedFeed,
        secret: Secret,
        config: Config,
    ) -> Result<Self, StartError> {
        let hub = Arc::new(Hub::new(wire, store, secret, config));
        let coordinator = Self { hub: hub.clone(), background: TaskTracker::new(), ending: CancellationToken::new() };
        let micro = Arc::new(Micro::new(&hub.config, &hub.instance, hub.leaving.clone()));
        coordinator.begin_background(&micro).await?;
        let endpoints = Endpoints::new(hub.clone(), micro);
        for subscriber in endpoints.subscribe().await? {
            hub.tasks.spawn(coordinator.abortable(endpoints.clone().run(subscriber)));
        }
        relay::ready(&hub).await;
        // Its answer also says that the server has the subscriptions: they were sent before.
        if let Err(error) = hub.registry.refresh().await {
            tracing::warn!(%error, "workers are not known yet");
        }
        tracing::info!(root = %hub.config.root, "coordinator started");
        Ok(coordinator)
    }

    async fn begin_background(&self, micro: &Arc<Micro>) -> Result<(), StartError> {
        let hub = &self.hub;
        let subject = hub.config.root.relay_floor();
        let floor = hub.wire.subscribe(subject.clone().into(), None).await;
        let floor = floor.map_err(|source| StartError::Subscribe { subject, source })?;
        self.begin(self.until_ending(relay::follow_floor(hub.clone(), floor)));
        let words = grants::subscribe(hub).await?;
        self.begin(self.until_ending(grants::watch(hub.clone(), words)));
        self.begin(countdown::run(hub.clone(), self.ending.clone()));
        let questions = micro.listen(&*hub.wire).await?;
        let (micro, wire) = (micro.clone(), hub.wire.clone());
        self.begin(self.until_ending(async move { micro.answer(&*wire, questions).await }));
        let (registry, ending) = (hub.clone(), self.ending.clone());
        self.begin(async move { registry.registry.run(registry.config.lease_poll, ending).await });
        let pin = Arc::new(Pin::default());
        self.begin(relay::run(hub.clone(), pin.clone(), self.ending.clone()));
        self.begin(sweep::run(hub.clone(), pin, self.ending.clone()));
        Ok(())
    }

    fn begin(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.background.spawn(self.abortable(task));
    }

    fn until_ending<F: Future<Output = ()>>(&self, task: F) -> impl Future<Output = ()> + use<F> {
        let ending = self.ending.clone();
        async move {
            ending.run_until_cancelled(task).await;
        }
    }

    fn abortable<F: Future<Output = ()>>(&self, task: F) -> impl Future<Output = ()> + use<F> {
        let abort = self.hub.abort.clone();
        async move {
            abort.run_until_cancelled(task).await;
        }
    }

    /// Ends at once, wherever its tasks are, as a process that is killed: nothing is answered and nothing given up. For
    /// simulations.
    pub fn abandon(self) {
        self.hub.abort.cancel();
    }

    /// Stops taking requests, answers those that were taken, lets another coordinator relay, and ends, within `grace`
    /// whatever is away. What has not ended by then is dropped where it is: clients see a timeout, and ask again with
    /// the same `request_id`.
    pub async fn stop(self, grace: Duration) {
        let until = Instant::now() + grace;
        let ending = ENDING.min(grace / 4);
        self.hub.leaving.cancel();
        self.hub.tasks.close();
        if tokio::time::timeout_at(until - 2 * ending, self.hub.tasks.wait()).await.is_err() {
            tracing::warn!(requests = self.hub.tasks.len(), "requests are dropped unanswered");
        }
        self.ending.cancel();
        self.background.close();
        if tokio::time::timeout_at(until - ending, self.background.wait()).await.is_err() {
            tracing::warn!(tasks = self.background.len(), "tasks are dropped");
        }
        self.hub.abort.cancel();
        let rest = async {
            self.hub.tasks.wait().await;
            self.background.wait().await;
            // So that the last replies have left when the caller closes the connection.
            self.hub.wire.flush().await
        };
        match tokio::time::timeout_at(until, rest).await {
            Ok(Ok(())) => tracing::info!("coordinator stopped"),
            Ok(Err(error)) => tracing::debug!(%error, "the connection is closed"),
            Err(_) => tracing::warn!("coordinator stopped with tasks left"),
        }
    }
}
