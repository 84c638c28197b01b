//! The relay: reads the stream and publishes a signal for each committed event.
//!
//! Invariant: every commit is announced. A message is acknowledged, in stream order, only after its signals were
//! published. One coordinator at a time holds the consumer's pin and relays; its successor reads again what was
//! delivered but not acknowledged. So signals are delivered at least once, and in commit order per session.
//!
//! Deliberately absent: signals that are not commits (`lock.conflict`, `doc.failed`); `explain` publishes them.

use std::sync::Arc;
use std::time::Duration;

use holdfast_store::feed::{FeedConfig, FeedState};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{PIN_TIMEOUT, PULL_EXPIRES, RELAY_ACK_WAIT};
use crate::context::Context;

mod announce;
mod echo;
mod floor;
mod input;
mod pin;
mod progress;
mod translate;

use echo::Echo;
pub(crate) use floor::{follow_floor, learn_floor};
use holdfast_store::chance;
pub(crate) use pin::Pin;
use progress::Progress;

/// The consumer, one for all coordinators. One batch is one step.
const CONSUMER: FeedConfig = FeedConfig {
    name: "relay",
    group: "relay",
    description: "Holdfast: turns what was committed into signals",
    ack_wait: RELAY_ACK_WAIT,
    unacknowledged_max: 4_096,
    pin_timeout: PIN_TIMEOUT,
    pull_expires: PULL_EXPIRES,
    batch: 256,
};
/// How often an idle relay publishes its progress, for coordinators that have just started.
const IDLE_TICK: Duration = Duration::from_secs(2);
/// A step with fewer messages is followed by a short rest, so that the next one is larger: announcing competes with
/// requests for the processor, and each step costs one acknowledgement, however many messages it has.
const SMALL_STEP: usize = 64;
/// How long that rest is. It delays a signal by at most this.
const REST: Duration = Duration::from_millis(3);
/// How long a starting coordinator waits for the consumer.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// The bounds of the pause before the relay restarts after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Why the relay restarts. No error ends it for good.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error("the relay's consumer is not available: {0}")]
    Consumer(String),
    #[error("the stream could not be read: {0}")]
    Read(String),
    #[error("signals could not be stored: {0}")]
    Announce(String),
}

/// Relays whenever this coordinator is pinned, until `cancel`. Then releases the pin, so that another one relays at
/// once.
pub(crate) async fn run(context: Arc<Context>, pin: Arc<Pin>, cancel: CancellationToken) {
    let mut pause = RETRY.0;
    while let Some(outcome) = cancel.run_until_cancelled(relay(&context, &pin, &mut pause)).await {
        if let Err(error) = outcome {
            context.config.meters.relay_restarted();
            tracing::warn!(%error, "the relay restarts");
        }
        let jittered = pause.mul_f64(chance::share(0.5..1.5));
        if cancel.run_until_cancelled(tokio::time::sleep(jittered)).await.is_none() {
            break;
        }
        pause = (pause * 2).min(RETRY.1);
    }
    pin.release(&context).await;
}

/// Reads and announces batches until a failure.
async fn relay(context: &Context, pin: &Pin, pause: &mut Duration) -> Result<(), RelayError> {
    let state = context.feed.ensure(&CONSUMER).await.map_err(fault)?;
    let echo = Echo::on(&context.wire).await?;
    let mut progress = Progress::new(context.store.stream(), state.acknowledged, echo);
    let mut deliveries = context.feed.open(&CONSUMER).await.map_err(fault)?;
    loop {
        let batch = tokio::select! {
            biased;
            batch = deliveries.next() => batch.map_err(fault)?,
            () = tokio::time::sleep(IDLE_TICK) => {
                tick(context, pin).await?;
                continue;
            }
        };
        pin.see(batch.pin.as_deref());
        let is_small = batch.deliveries.len() < SMALL_STEP;
        progress.step(context, batch.deliveries).await?;
        *pause = RETRY.0;
        if is_small {
            tokio::time::sleep(REST).await;
        }
    }
}

/// Waits, for at most [`READY_TIMEOUT`], until the consumer answers: from then on commits are announced at once.
pub(crate) async fn ready(context: &Context) {
    let deadline = Instant::now() + READY_TIMEOUT;
    while let Err(error) = context.feed.ensure(&CONSUMER).await {
        if Instant::now() >= deadline {
            tracing::warn!(%error, "the relay's consumer is not ready; signals will be late");
            return;
        }
        tokio::time::sleep(RETRY.0).await;
    }
}

async fn tick(context: &Context, pin: &Pin) -> Result<(), RelayError> {
    let state = state(context).await?;
    context.floor.advance(state.acknowledged);
    if pin.is_ours_or_nobodys(&state) {
        floor::publish(context, state.acknowledged).await;
    }
    Ok(())
}

/// The consumer's progress, and which reader is pinned.
pub(crate) async fn state(context: &Context) -> Result<FeedState, RelayError> {
    context.feed.state(&CONSUMER).await.map_err(fault)
}

fn fault(error: impl std::fmt::Display) -> RelayError {
    RelayError::Consumer(error.to_string())
}
