//! The relay: what was committed becomes signals, by reading the stream.
//!
//! Invariant: nothing committed goes unannounced. A message is acknowledged only after its signals were published, in stream
//! order; one coordinator at a time holds the consumer's pin and relays, and whoever takes over reads what was delivered to
//! the one before and never acknowledged. So signals come at least once, and per session in commit order.
//!
//! Deliberately absent: signals that are no commits (`lock.conflict`, `doc.failed`), which whoever refuses publishes.

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

/// The consumer, one for all coordinators. A batch makes one step.
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
/// How often an idle relay says how far it is, for those who have just come.
const IDLE_TICK: Duration = Duration::from_secs(2);
/// A step smaller than this is followed by a short rest, so that the next one is larger: announcing takes the processor from
/// the requests themselves, and an acknowledgement a step costs the same for one message as for many.
const SMALL_STEP: usize = 64;
/// How long that rest is. It delays a signal by as much at most.
const REST: Duration = Duration::from_millis(3);
/// How long a coordinator that starts waits for the consumer.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// The bounds of the pause before the relay begins again after a fault.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Why the relay begins again. None of them is an end.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("the relay's consumer is not available: {0}")]
    Consumer(String),
    #[error("the stream could not be read: {0}")]
    Read(String),
    #[error("signals could not be stored: {0}")]
    Announce(String),
}

/// Relays until `cancel`, whenever it is this coordinator's turn; then lets another take over at once.
pub(crate) async fn run(context: Arc<Context>, pin: Arc<Pin>, cancel: CancellationToken) {
    let mut pause = RETRY.0;
    while let Some(outcome) = cancel.run_until_cancelled(relay(&context, &pin, &mut pause)).await {
        if let Err(error) = outcome {
            tracing::warn!(%error, "the relay begins again");
        }
        let jittered = pause.mul_f64(chance::share(0.5..1.5));
        if cancel.run_until_cancelled(tokio::time::sleep(jittered)).await.is_none() {
            break;
        }
        pause = (pause * 2).min(RETRY.1);
    }
    pin.release(&context).await;
}

/// One life of the message stream.
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

/// Waits until the relay's consumer answers, so that what is committed from now on is announced at once; not for ever.
pub(crate) async fn ready(context: &Context) {
    let deadline = Instant::now() + READY_TIMEOUT;
    while let Err(error) = context.feed.ensure(&CONSUMER).await {
        if Instant::now() >= deadline {
            tracing::warn!(%error, "signals come later");
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

/// How far the consumer is, and whose it is.
async fn state(context: &Context) -> Result<FeedState, RelayError> {
    context.feed.state(&CONSUMER).await.map_err(fault)
}

fn fault(error: impl std::fmt::Display) -> RelayError {
    RelayError::Consumer(error.to_string())
}
