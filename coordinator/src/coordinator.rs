//! A running coordinator: its tasks, and how they end.
//!
//! Invariant: [`Coordinator::stop`] waits for the end of every task. Requests that were accepted are answered. The pin
//! of the relay is released, so that another coordinator relays at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use holdfast_meters::Part;
use holdfast_protocol::token::Secret;
use holdfast_store::{SharedFeed, SharedWire};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::context::Context;
use crate::countdown;
use crate::endpoint::Endpoints;
use crate::error::StartError;
use crate::grants;
use crate::health;
use crate::lines;
use crate::micro::Micro;
use crate::relay::{self, Pin};
use crate::secrets;
use crate::sweep;

/// The part of a grace period that is kept for each of the two steps after the last answer: releasing the relay's pin,
/// and dropping the tasks that are left.
const ENDING: Duration = Duration::from_secs(1);

/// A running coordinator.
pub struct Coordinator {
    context: Arc<Context>,
    /// Tasks that run until all requests are answered.
    background: TaskTracker,
    /// Cancelled to end the background tasks in order.
    ending: CancellationToken,
}

impl Coordinator {
    /// Starts a coordinator on a provisioned store. Any number of coordinators share the work.
    ///
    /// # Errors
    /// [`StartError`] when the connection takes no subscriptions.
    pub async fn start(
        wire: SharedWire,
        store: SharedFeed,
        secret: Secret,
        config: Config,
    ) -> Result<Self, StartError> {
        let context = Arc::new(Context::new(wire, store, secret, config));
        let coordinator =
            Self { context: context.clone(), background: TaskTracker::new(), ending: CancellationToken::new() };
        let micro = Arc::new(Micro::new(&context.config, &context.instance, context.leaving.clone()));
        coordinator.begin_background(&micro).await?;
        let endpoints = Endpoints::new(context.clone(), micro);
        for subscriber in endpoints.subscribe().await? {
            context.tasks.spawn(coordinator.abortable(endpoints.clone().run(subscriber)));
        }
        relay::ready(&context).await;
        // The reply also proves that the server has the subscriptions, because they were sent before.
        if let Err(error) = context.fleet.refresh().await {
            tracing::warn!(%error, "workers are not known yet");
        }
        tracing::info!(root = %context.config.root, "coordinator started");
        Ok(coordinator)
    }

    async fn begin_background(&self, micro: &Arc<Micro>) -> Result<(), StartError> {
        let context = &self.context;
        let subject = context.config.root.relay_floor();
        let floor = context.wire.subscribe(subject.clone().into(), None).await;
        let floor = floor.map_err(|source| StartError::Subscribe { subject, source })?;
        self.begin(self.until_ending(relay::follow_floor(context.clone(), floor)));
        let words = grants::subscribe(context).await?;
        self.begin(self.until_ending(grants::watch(context.clone(), words)));
        let subject = context.config.root.coordinators(holdfast_protocol::internal::coordinators::LINE);
        let questions = lines::subscribe(context).await;
        let questions = questions.map_err(|source| StartError::Subscribe { subject, source })?;
        self.begin(self.until_ending(lines::tell(context.clone(), questions)));
        self.begin(countdown::run(context.clone(), self.ending.clone()));
        let news = secrets::subscribe(context).await?;
        self.begin(self.until_ending(secrets::follow(context.clone(), news)));
        let questions = micro.listen(&*context.wire).await?;
        let (micro, wire) = (micro.clone(), context.wire.clone());
        self.begin(self.until_ending(async move { micro.answer(&*wire, questions).await }));
        let (fleet, ending) = (context.clone(), self.ending.clone());
        self.begin(async move { fleet.fleet.run(fleet.config.lease_poll, ending).await });
        let pin = Arc::new(Pin::default());
        self.begin(relay::run(context.clone(), pin.clone(), self.ending.clone()));
        if let Some(interval) = context.config.self_check {
            self.begin(health::run(context.clone(), pin.clone(), interval, self.ending.clone()));
        }
        self.begin(sweep::run(context.clone(), pin, self.ending.clone()));
        Ok(())
    }

    /// This coordinator as it shows itself.
    pub fn part(&self) -> Arc<dyn Part> {
        Arc::new(health::Shown(self.context.clone()))
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
        let abort = self.context.abort.clone();
        async move {
            abort.run_until_cancelled(task).await;
        }
    }

    /// Drops all tasks at once, like a killed process: answers nothing and releases nothing. For simulations.
    pub fn abandon(self) {
        self.context.abort.cancel();
    }

    /// Accepts no more requests, answers those that were accepted, releases the relay's pin, and ends. This takes at
    /// most `grace`, even while NATS is away. Tasks that are left then are dropped: their clients see a timeout and ask
    /// again with the same `request_id`.
    pub async fn stop(self, grace: Duration) {
        let until = Instant::now() + grace;
        let ending = ENDING.min(grace / 4);
        self.context.leaving.cancel();
        self.context.tasks.close();
        if tokio::time::timeout_at(until - 2 * ending, self.context.tasks.wait()).await.is_err() {
            tracing::warn!(requests = self.context.tasks.len(), "requests are dropped without an answer");
        }
        self.ending.cancel();
        self.background.close();
        if tokio::time::timeout_at(until - ending, self.background.wait()).await.is_err() {
            tracing::warn!(tasks = self.background.len(), "tasks are dropped");
        }
        self.context.abort.cancel();
        let rest = async {
            self.context.tasks.wait().await;
            self.background.wait().await;
            // The last replies must leave before the caller closes the connection.
            self.context.wire.flush().await
        };
        match tokio::time::timeout_at(until, rest).await {
            Ok(Ok(())) => tracing::info!("coordinator stopped"),
            Ok(Err(error)) => tracing::debug!(%error, "the connection is closed"),
            Err(_) => tracing::warn!("coordinator stopped with tasks left"),
        }
    }
}
