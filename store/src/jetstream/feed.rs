//! [`Feed`] on a durable JetStream consumer with a pinned client.

use std::time::Duration;

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::jetstream::consumer::pull::{Config, MessagesError, Stream as Pull};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, Info, PriorityPolicy};
use async_nats::jetstream::{self, stream::Stream};
use async_nats::{Client, Subject};
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;

use crate::feed::{Batch, Deliveries, Delivery, Feed, FeedConfig, FeedState, Posted};
use crate::jetstream::Jetstream;
use crate::trace::Traces;
use crate::{StoreError, read};

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

async fn consumer(stream: &Stream<()>, config: &FeedConfig) -> Result<Consumer<Config>, StoreError> {
    let durable = Config {
        durable_name: Some(config.name.to_owned()),
        description: Some(config.description.to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::All,
        ack_wait: config.ack_wait,
        max_ack_pending: config.unacknowledged_max,
        priority_policy: PriorityPolicy::PinnedClient,
        priority_groups: vec![config.group.to_owned()],
        priority_timeout: config.pin_timeout,
        ..Config::default()
    };
    stream.get_or_create_consumer(config.name, durable).await.map_err(unavailable)
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
        let consumer = consumer(&stream(self).await?, config).await?;
        let pull = consumer.stream().group(config.group);
        let pull = pull.max_messages_per_batch(2 * config.batch).expires(config.pull_expires);
        let pulled = pull.messages().await.map_err(unavailable)?.ready_chunks(config.batch);
        Ok(Box::new(Pulled { pulled, fault: None }))
    }

    async fn ensure(&self, config: &FeedConfig) -> Result<FeedState, StoreError> {
        let consumer = consumer(&stream(self).await?, config).await?;
        Ok(state_of(&consumer.get_info().await.map_err(unavailable)?, config))
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
