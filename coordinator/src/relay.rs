//! The relay: reads the stream and publishes a signal for each committed event.
//!
//! Invariant: every commit is announced. A message is acknowledged, in stream order, only after its signals were
//! published and kept. One coordinator at a time holds the consumer's pin and relays; its successor reads again what
//! was delivered but not acknowledged. So signals are delivered at least once, and in commit order per session. The
//! consumer is in the memory of one server; if that is lost, the relay continues behind its last checkpoint.
//!
//! Deliberately absent: signals that are not commits (`lock.conflict`, `doc.failed`); `explain` publishes them.

use std::sync::Arc;
use std::time::Duration;

use holdfast_store::feed::{Deliveries, FeedConfig, FeedState};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{PIN_TIMEOUT, PULL_EXPIRES, RELAY_ACK_WAIT};
use crate::context::Context;

mod announce;
mod echo;
mod floor;
mod input;
mod keep;
mod pin;
mod progress;
mod translate;

pub(crate) use announce::is_kept;
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
/// How often in a row the consumer may not answer before it is created again. Each time takes a second.
const SILENT: u32 = 2;
/// How long a relay that ends tries to keep its last signals.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
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
    let mut silent = 0;
    while let Err(error) = relay(&context, &pin, &mut pause, &mut silent, &cancel).await {
        context.config.meters.relay_restarted();
        tracing::warn!(%error, "the relay restarts");
        let jittered = pause.mul_f64(chance::share(0.5..1.5));
        if cancel.run_until_cancelled(tokio::time::sleep(jittered)).await.is_none() {
            break;
        }
        pause = (pause * 2).min(RETRY.1);
    }
    pin.release(&context).await;
}

/// Reads and announces batches until a failure, or until `cancel`. `silent` counts how often in a row the consumer did
/// not answer.
async fn relay(
    context: &Context,
    pin: &Pin,
    pause: &mut Duration,
    silent: &mut u32,
    cancel: &CancellationToken,
) -> Result<(), RelayError> {
    let (mut progress, mut deliveries) = tokio::select! {
        biased;
        () = cancel.cancelled() => return Ok(()),
        begun = begin(context, silent) => begun?,
    };
    loop {
        let due = progress.due();
        let batch = tokio::select! {
            biased;
            () = cancel.cancelled() => {
                let finish = tokio::time::timeout(FINISH_TIMEOUT, progress.finish(context)).await;
                if !matches!(finish, Ok(Ok(()))) {
                    tracing::info!("the last signals were not kept; the next relay announces and keeps them again");
                }
                return Ok(());
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                progress.settle(context).await?;
                continue;
            }
            batch = deliveries.next() => batch.map_err(fault)?,
            () = tokio::time::sleep(IDLE_TICK) => {
                progress.finish(context).await?;
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

/// Finds or makes the consumer. One that does not answer, while the stream does, is replaced: its server is away.
async fn begin(context: &Context, silent: &mut u32) -> Result<(Progress, Box<dyn Deliveries>), RelayError> {
    let state = match context.feed.ensure(&CONSUMER).await {
        Ok(state) => state,
        Err(error) => {
            *silent += 1;
            if *silent >= SILENT && context.store.last().await.is_ok() {
                tracing::warn!(%error, "the relay's consumer does not answer and is created again");
                context.feed.renew(&CONSUMER).await.map_err(fault)?;
                *silent = 0;
            }
            return Err(fault(error));
        }
    };
    *silent = 0;
    let echo = Echo::on(&context.wire).await?;
    let progress = Progress::new(context.store.stream(), state.acknowledged, echo);
    Ok((progress, context.feed.open(&CONSUMER).await.map_err(fault)?))
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
