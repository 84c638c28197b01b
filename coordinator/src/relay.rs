//! The relay: what was committed becomes signals, by reading the stream.
//!
//! Invariant: nothing committed goes unannounced. A message is acknowledged only after its signals were published, in stream
//! order; one coordinator at a time holds the consumer's pin and relays, and whoever takes over reads what was delivered to
//! the one before and never acknowledged. So signals come at least once, and per session in commit order.
//!
//! Deliberately absent: signals that are no commits (`lock.conflict`, `doc.failed`), which whoever refuses publishes.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config as PullConfig, Stream as Pull};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, Info, PriorityPolicy};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self};
use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{PIN_TIMEOUT, PULL_EXPIRES, RELAY_ACK_WAIT};
use crate::hub::Hub;

mod announce;
mod echo;
mod floor;
mod input;
mod pin;
mod progress;
mod translate;

use echo::Echo;
pub(crate) use floor::{follow_floor, learn_floor};
pub(crate) use pin::Pin;
use progress::Progress;

/// The consumer's name, one for all coordinators.
const CONSUMER: &str = "relay";
/// Its priority group.
const GROUP: &str = "relay";
/// How many messages make one step at most.
const BATCH: usize = 256;
/// How many messages may be under way unacknowledged.
const MAX_ACK_PENDING: i64 = 4_096;
/// How often an idle relay says how far it is, for those who have just come.
const IDLE_TICK: Duration = Duration::from_secs(2);
/// A step smaller than this is followed by a short rest, so that the next one is larger: announcing takes the processor from
/// the requests themselves, and an acknowledgement a step costs the same for one message as for many.
const SMALL_STEP: usize = 64;
/// How long that rest is. It delays a signal by as much at most.
const REST: Duration = Duration::from_millis(3);
/// How long one question to the consumer or its stream may stay unanswered: without a leader it is dropped.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
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
pub(crate) async fn run(hub: Arc<Hub>, pin: Arc<Pin>, cancel: CancellationToken) {
    let mut pause = RETRY.0;
    while let Some(outcome) = cancel.run_until_cancelled(relay(&hub, &pin, &mut pause)).await {
        if let Err(error) = outcome {
            tracing::warn!(%error, "the relay begins again");
        }
        let jittered = pause.mul_f64(rand::random_range(0.5..1.5));
        if cancel.run_until_cancelled(tokio::time::sleep(jittered)).await.is_none() {
            break;
        }
        pause = (pause * 2).min(RETRY.1);
    }
    pin.release(&hub).await;
}

/// One life of the message stream.
async fn relay(hub: &Hub, pin: &Pin, pause: &mut Duration) -> Result<(), RelayError> {
    let stream = stream(hub).await?;
    let consumer = consumer(&stream).await?;
    let echo = Echo::on(&hub.client).await?;
    let mut progress = Progress::new(hub.store.stream(), floor::of(&consumer.get_info().await.map_err(fault)?), echo);
    let mut batches = pull(&consumer).await?;
    loop {
        let batch = tokio::select! {
            batch = batches.next() => batch.ok_or_else(|| RelayError::Consumer("its messages ended".to_owned()))?,
            () = tokio::time::sleep(IDLE_TICK) => {
                tick(hub, pin, &consumer).await?;
                continue;
            }
        };
        let (messages, end) = whole(batch);
        if !messages.is_empty() {
            pin.see(&messages);
            let is_small = messages.len() < SMALL_STEP;
            progress.step(hub, &stream, &consumer, messages).await?;
            *pause = RETRY.0;
            if is_small {
                tokio::time::sleep(REST).await;
            }
        }
        match end {
            Some(error) => return Err(RelayError::Consumer(error)),
            None => continue,
        }
    }
}

/// The messages of a batch up to the first fault, and that fault.
fn whole(
    batch: Vec<Result<jetstream::Message, jetstream::consumer::pull::MessagesError>>,
) -> (Vec<jetstream::Message>, Option<String>) {
    let mut messages = Vec::with_capacity(batch.len());
    for message in batch {
        match message {
            Ok(message) => messages.push(message),
            Err(error) => return (messages, Some(error.to_string())),
        }
    }
    (messages, None)
}

/// Waits until the relay's consumer answers, so that what is committed from now on is announced at once; not for ever.
pub(crate) async fn ready(hub: &Hub) {
    let deadline = Instant::now() + READY_TIMEOUT;
    while let Err(error) = answers(hub).await {
        if Instant::now() >= deadline {
            tracing::warn!(%error, "signals come later");
            return;
        }
        tokio::time::sleep(RETRY.0).await;
    }
}

async fn answers(hub: &Hub) -> Result<(), RelayError> {
    consumer(&stream(hub).await?).await?.get_info().await.map_err(fault).map(drop)
}

async fn tick(hub: &Hub, pin: &Pin, consumer: &Consumer<PullConfig>) -> Result<(), RelayError> {
    let info = consumer.get_info().await.map_err(fault)?;
    hub.floor.advance(floor::of(&info));
    if pin.is_ours_or_nobodys(&info) {
        floor::publish(hub, floor::of(&info)).await;
    }
    Ok(())
}

async fn stream(hub: &Hub) -> Result<Stream<()>, RelayError> {
    let mut context = jetstream::new(hub.client.clone());
    context.set_timeout(ASK_TIMEOUT);
    context.get_stream_no_info(hub.store.stream()).await.map_err(fault)
}

async fn consumer(stream: &Stream<()>) -> Result<Consumer<PullConfig>, RelayError> {
    let config = PullConfig {
        durable_name: Some(CONSUMER.to_owned()),
        description: Some("Holdfast: turns what was committed into signals".to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::All,
        ack_wait: RELAY_ACK_WAIT,
        max_ack_pending: MAX_ACK_PENDING,
        priority_policy: PriorityPolicy::PinnedClient,
        priority_groups: vec![GROUP.to_owned()],
        priority_timeout: PIN_TIMEOUT,
        ..PullConfig::default()
    };
    stream.get_or_create_consumer(CONSUMER, config).await.map_err(fault)
}

async fn pull(consumer: &Consumer<PullConfig>) -> Result<ReadyChunks<Pull>, RelayError> {
    let messages = consumer.stream().group(GROUP).max_messages_per_batch(2 * BATCH).expires(PULL_EXPIRES);
    Ok(messages.messages().await.map_err(fault)?.ready_chunks(BATCH))
}

fn fault(error: impl std::fmt::Display) -> RelayError {
    RelayError::Consumer(error.to_string())
}

/// The consumer's state, asked for by name.
async fn info(hub: &Hub) -> Result<Info, RelayError> {
    stream(hub).await?.consumer_info(CONSUMER).await.map_err(fault)
}
