//! [`Feed`] on a JetStream consumer with a pinned client, in the memory of one server. Its checkpoint is a key of the
//! bucket that only coordinators read and write.

use std::time::Duration;

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID, NATS_STREAM};
use async_nats::jetstream::consumer::pull::{Config, MessagesError, Stream as Pull};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, Info, PriorityPolicy};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::{self, stream::Stream};
use async_nats::{Client, Subject};
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use holdfast_protocol::Revision;
use holdfast_protocol::internal::RelayFloor;

use crate::feed::{Batch, Deliveries, Delivery, Feed, FeedConfig, FeedState, Posted};
use crate::jetstream::Jetstream;
use crate::trace::Traces;
use crate::write::{self, Outcome, Write};
use crate::{Storage, StoreError, read};

const PIN_ID: &str = "Nats-Pin-Id";

/// How long to wait for an answer about the consumer. Without a leader the request is dropped.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

fn unavailable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

async fn stream(store: &Jetstream) -> Result<Stream<()>, StoreError> {
    let mut context = jetstream::new(store.client.clone());
    context.set_timeout(ASK_TIMEOUT);
    context.get_stream_no_info(&store.stream).await.map_err(unavailable)
}

/// How far a consumer may be behind the checkpoint before it is replaced. Acknowledgements are not answered, so it is a
/// little behind at times; one whose server has restarted begins where it was created.
const BEHIND: u64 = 10_000;

/// The consumer, which is created behind the checkpoint if it is missing, has fallen behind it, or is one that an
/// earlier version made, with the state on all servers. Also everything up to where was done.
async fn consumer(store: &Jetstream, config: &FeedConfig) -> Result<(Consumer<Config>, FeedState), StoreError> {
    let stream = stream(store).await?;
    let checkpoint = checkpoint(store).await?;
    let done = match stream.consumer_info(config.name).await {
        Ok(info) => {
            let acknowledged = info.ack_floor.stream_sequence;
            let is_replicated = !info.config.memory_storage;
            if !is_replicated && acknowledged + BEHIND >= checkpoint {
                let state = state_of(&info, config);
                let consumer = stream.get_consumer(config.name).await.map_err(unavailable)?;
                return Ok((consumer, FeedState { acknowledged: acknowledged.max(checkpoint), ..state }));
            }
            if is_replicated {
                write_checkpoint(store, acknowledged.max(checkpoint)).await?;
            }
            stream.delete_consumer(config.name).await.map_err(unavailable)?;
            acknowledged.max(checkpoint)
        }
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => checkpoint,
        Err(error) => return Err(unavailable(error)),
    };
    let consumer = create(&stream, config, done).await?;
    let state = state_of(consumer.cached_info(), config);
    Ok((consumer, FeedState { acknowledged: done, ..state }))
}

async fn create(stream: &Stream<()>, config: &FeedConfig, done: u64) -> Result<Consumer<Config>, StoreError> {
    let durable = Config {
        durable_name: Some(config.name.to_owned()),
        description: Some(config.description.to_owned()),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: done + 1 },
        ack_policy: AckPolicy::All,
        ack_wait: config.ack_wait,
        max_ack_pending: config.unacknowledged_max,
        priority_policy: PriorityPolicy::PinnedClient,
        priority_groups: vec![config.group.to_owned()],
        priority_timeout: config.pin_timeout,
        num_replicas: 1,
        memory_storage: true,
        ..Config::default()
    };
    stream.create_consumer(durable).await.map_err(unavailable)
}

/// Everything up to here is done. 0 begins anew, which repeats signals and loses none: nothing was stored yet, the
/// stream was restored from a backup, or somebody else than a coordinator made nats-server answer there (see `secret`).
async fn checkpoint(store: &Jetstream) -> Result<u64, StoreError> {
    let name = format!("KV_{}", store.root.secrets_bucket());
    let stream = store.context.get_stream_no_info(name).await.map_err(unavailable)?;
    let Some(stored) = read::last(&stream, &store.root.relay_checkpoint()).await? else { return Ok(0) };
    let floor = serde_json::from_slice(&stored.payload).map_or(u64::MAX, |RelayFloor { floor }| floor);
    if stored.headers.get(NATS_STREAM).is_none() && floor <= store.last().await? {
        return Ok(floor);
    }
    tracing::warn!(floor, "the relay's checkpoint is not one of this stream; signals are announced from its beginning");
    Ok(0)
}

/// Replaces the checkpoint. It has no condition: with an older one, what was done is only done again.
async fn write_checkpoint(store: &Jetstream, floor: u64) -> Result<(), StoreError> {
    let payload = serde_json::to_vec(&RelayFloor { floor }).expect("a number is JSON").into();
    let (subject, headers) = (store.root.relay_checkpoint(), HeaderMap::new());
    let write = Write { subject, headers, payload, expected: Revision(0) };
    match write::publish(&store.client, &write).await? {
        Outcome::Stored(_) => Ok(()),
        Outcome::Mismatch | Outcome::MismatchAfterUnknown => Err(write.moved()),
    }
}

fn state_of(info: &Info, config: &FeedConfig) -> FeedState {
    let group = info.priority_groups.iter().find(|group| group.group == config.group);
    let pinned = group.and_then(|group| group.pinned_client_id.clone()).filter(|id| !id.is_empty());
    let behind = info.num_pending + info.num_ack_pending as u64;
    FeedState { acknowledged: info.ack_floor.stream_sequence, behind, pinned }
}

#[async_trait]
impl Feed for Jetstream {
    async fn open(&self, config: &FeedConfig) -> Result<Box<dyn Deliveries>, StoreError> {
        let (consumer, _) = consumer(self, config).await?;
        let pull = consumer.stream().group(config.group);
        let pull = pull.max_messages_per_batch(2 * config.batch).expires(config.pull_expires);
        let pulled = pull.messages().await.map_err(unavailable)?.ready_chunks(config.batch);
        Ok(Box::new(Pulled { pulled, fault: None }))
    }

    async fn ensure(&self, config: &FeedConfig) -> Result<FeedState, StoreError> {
        Ok(consumer(self, config).await?.1)
    }

    async fn renew(&self, config: &FeedConfig) -> Result<(), StoreError> {
        let stream = stream(self).await?;
        // A consumer whose server is away is deleted without an answer.
        if let Err(error) = stream.delete_consumer(config.name).await {
            tracing::debug!(%error, "the relay's consumer was deleted without an answer");
        }
        create(&stream, config, checkpoint(self).await?).await.map(drop)
    }

    async fn checkpoint(&self, until: u64) -> Result<(), StoreError> {
        write_checkpoint(self, until).await
    }

    async fn state(&self, config: &FeedConfig) -> Result<FeedState, StoreError> {
        let info = stream(self).await?.consumer_info(config.name).await.map_err(unavailable)?;
        Ok(state_of(&info, config))
    }

    async fn acknowledge(&self, ack: &Subject) -> Result<(), StoreError> {
        acknowledge(&self.client, ack).await
    }

    async fn unpin(&self, config: &FeedConfig) -> Result<(), StoreError> {
        stream(self).await?.unpin_consumer(config.name, config.group).await.map_err(unavailable)
    }

    async fn first(&self, subject: Option<&str>, from: u64) -> Result<Option<Posted>, StoreError> {
        let raw = read::next_of_leader(&self.sessions, subject.unwrap_or(">"), from).await?;
        Ok(raw.map(|raw| Posted {
            sequence: raw.sequence,
            time: raw.time,
            has_write_id: has_write_id(Some(&raw.headers)),
            traces: Traces::read(&raw.headers),
            subject: raw.subject.into(),
            payload: raw.payload,
        }))
    }
}

/// Publishes an acknowledgement. It is a plain message and not a conditional write.
async fn acknowledge(client: &Client, ack: &Subject) -> Result<(), StoreError> {
    client.publish(ack.clone(), "+ACK".into()).await.map_err(unavailable)
}

fn has_write_id(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| headers.get(NATS_MESSAGE_ID).is_some())
}

struct Pulled {
    pulled: ReadyChunks<Pull>,
    /// The failure that came after the last returned messages.
    fault: Option<StoreError>,
}

impl Pulled {
    /// Returns the messages before the first failure, and keeps the failure for the next call.
    fn take(&mut self, chunk: Vec<Result<jetstream::Message, MessagesError>>) -> Result<Batch, StoreError> {
        let mut batch = Batch { deliveries: Vec::with_capacity(chunk.len()), pin: None };
        let mut last = None;
        for message in chunk {
            let delivered = message.map_err(unavailable).and_then(delivery);
            match delivered {
                Ok((delivery, headers)) => {
                    batch.deliveries.push(delivery);
                    last = headers;
                }
                Err(fault) => {
                    self.fault = Some(fault);
                    break;
                }
            }
        }
        batch.pin = last.and_then(|headers: HeaderMap| headers.get_last(PIN_ID).map(|id| id.as_str().to_owned()));
        if batch.deliveries.is_empty() { Err(self.next_fault()) } else { Ok(batch) }
    }

    fn next_fault(&mut self) -> StoreError {
        self.fault.take().unwrap_or_else(|| unavailable("the consumer's messages ended"))
    }
}

fn delivery(message: jetstream::Message) -> Result<(Delivery, Option<HeaderMap>), StoreError> {
    let (sequence, number, time) = {
        let info = message.info().map_err(unavailable)?;
        (info.stream_sequence, info.consumer_sequence, read::timestamp(info.published.unix_timestamp_nanos()))
    };
    let message = message.message;
    let ack = message.reply.ok_or_else(|| unavailable("a delivery does not say where it is acknowledged"))?;
    let has_write_id = has_write_id(message.headers.as_ref());
    let traces = message.headers.as_ref().map_or_else(Traces::default, Traces::read);
    let posted = Posted { sequence, time, subject: message.subject, has_write_id, traces, payload: message.payload };
    Ok((Delivery { number, posted, ack }, message.headers))
}

#[async_trait]
impl Deliveries for Pulled {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        match self.pulled.next().await {
            Some(chunk) => self.take(chunk),
            None => Err(self.next_fault()),
        }
    }
}
