//! [`Feed`] over [`Memory`]: one consumer with a pinned reader, as in JetStream.
//!
//! Invariant: a message that is not acknowledged is delivered, and again after the acknowledgement wait, each time to
//! the reader that is pinned then.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Subject;
use async_trait::async_trait;
use holdfast_protocol::subject::Root;
use tokio::time::Instant;

use super::inner::Inner;
use super::{Accepted, Memory};
use crate::StoreError;
use crate::feed::{Batch, Deliveries, Delivery, Feed, FeedConfig, FeedState, Posted};
use crate::trace::Traces;

/// The prefix of acknowledgement subjects; the sequence follows.
const ACK: &str = "ACK.";

/// The shortest wait between two checks.
const TICK: Duration = Duration::from_millis(1);

/// The consumer's state.
#[derive(Default)]
pub(super) struct Consumer {
    /// Everything up to here was delivered at least once.
    delivered: u64,
    /// The number of the last delivery.
    number: u64,
    acknowledged: u64,
    /// For each message that was delivered and not acknowledged, when it is delivered again.
    pending: BTreeMap<u64, Instant>,
    pin: Option<Pin>,
    /// Which of all consumers it is.
    serial: u64,
}

/// The pinned reader, and when its pin expires.
struct Pin {
    id: String,
    reader: u64,
    until: Instant,
}

impl Consumer {
    /// Whether another one than `reader` is pinned; renews its own pin. A server pins with the first message only, so
    /// that nobody is pinned while nothing is delivered.
    fn is_anothers(&mut self, reader: u64, timeout: Duration, now: Instant) -> bool {
        self.pin.take_if(|pin| pin.until <= now && pin.reader != reader);
        match &mut self.pin {
            Some(pin) if pin.reader == reader => {
                pin.until = now + timeout;
                false
            }
            Some(_) => true,
            None => false,
        }
    }

    fn pin(&mut self, reader: u64, timeout: Duration, now: Instant) {
        let id = format!("pin-{}-{reader}", self.number);
        self.pin.get_or_insert(Pin { id, reader, until: now + timeout });
    }

    fn acknowledge(&mut self, sequence: u64) {
        if sequence <= self.delivered {
            self.acknowledged = self.acknowledged.max(sequence);
            self.pending = self.pending.split_off(&(sequence + 1));
        }
    }
}

impl Inner {
    /// The messages in the stream from `from` on.
    fn posted(&self, from: u64) -> impl Iterator<Item = Posted> {
        let begin = self.accepted.partition_point(|accepted| accepted.sequence() < from);
        self.accepted[begin..].iter().filter(|accepted| self.is_there(accepted)).map(posted)
    }

    fn is_there(&self, accepted: &Accepted) -> bool {
        match accepted {
            Accepted::Record(stored) => self.records.get(&stored.key).is_some_and(|revisions| {
                revisions.binary_search_by_key(&stored.revision, |revision| revision.revision).is_ok()
            }),
            Accepted::Frame { key, sequence, .. } => {
                self.logs.get(key).is_some_and(|log| log.binary_search_by_key(sequence, |frame| frame.sequence).is_ok())
            }
        }
    }

    /// The consumer; a new one behind the checkpoint if there is none.
    fn ensure_consumer(&mut self) -> &mut Consumer {
        let (checkpoint, consumers) = (self.checkpoint, &mut self.consumers);
        self.consumer.get_or_insert_with(|| {
            *consumers += 1;
            Consumer { delivered: checkpoint, acknowledged: checkpoint, serial: *consumers, ..Consumer::default() }
        })
    }

    /// The deliveries to `reader` that are due, if it is pinned; or else when to ask again.
    fn deliver(&mut self, reader: u64, config: &FeedConfig, now: Instant) -> Result<Batch, Instant> {
        let Some(mut consumer) = self.consumer.take() else { return Err(now + config.pull_expires) };
        let delivered = self.deliver_from(&mut consumer, reader, config, now);
        self.consumer = Some(consumer);
        delivered
    }

    fn deliver_from(
        &self,
        consumer: &mut Consumer,
        reader: u64,
        config: &FeedConfig,
        now: Instant,
    ) -> Result<Batch, Instant> {
        if consumer.is_anothers(reader, config.pin_timeout, now) {
            return Err(consumer.pin.as_ref().map_or(now, |pin| pin.until));
        }
        let again: Vec<u64> = consumer.pending.iter().filter(|(_, at)| **at <= now).map(|(seq, _)| *seq).collect();
        let mut posts: Vec<Posted> = Vec::new();
        for sequence in again.into_iter().take(config.batch) {
            match self.posted(sequence).next().filter(|posted| posted.sequence == sequence) {
                Some(posted) => posts.push(posted),
                // It was removed from the stream meanwhile.
                None => drop(consumer.pending.remove(&sequence)),
            }
        }
        let under_way = usize::try_from(config.unacknowledged_max).unwrap_or(0).saturating_sub(consumer.pending.len());
        let room = under_way.min(config.batch - posts.len());
        posts.extend(self.posted(consumer.delivered + 1).take(room));
        if posts.is_empty() {
            let again = consumer.pending.values().min().copied();
            let pull = now + config.pull_expires;
            return Err(again.map_or(pull, |again| again.min(pull)));
        }
        consumer.pin(reader, config.pin_timeout, now);
        let deliveries = posts.into_iter().map(|posted| {
            consumer.number += 1;
            consumer.delivered = consumer.delivered.max(posted.sequence);
            consumer.pending.insert(posted.sequence, now + config.ack_wait);
            let ack = format!("{ACK}{}", posted.sequence).into();
            Delivery { number: consumer.number, posted, ack }
        });
        let deliveries = deliveries.collect();
        Ok(Batch { deliveries, pin: consumer.pin.as_ref().map(|pin| pin.id.clone()) })
    }

    fn feed_state(&self) -> Option<FeedState> {
        let consumer = self.consumer.as_ref()?;
        let now = Instant::now();
        let pinned = consumer.pin.as_ref().filter(|pin| pin.until > now).map(|pin| pin.id.clone());
        let behind = self.posted(consumer.acknowledged + 1).count() as u64;
        Some(FeedState { acknowledged: consumer.acknowledged, behind, pinned })
    }
}

fn posted(accepted: &Accepted) -> Posted {
    let root = Root::default();
    match accepted {
        Accepted::Record(stored) => Posted {
            sequence: stored.revision.0,
            time: stored.time,
            subject: root.record(&stored.key).into(),
            has_write_id: stored.write_id.is_some(),
            traces: Traces::default(),
            payload: stored.value.clone().unwrap_or_default(),
        },
        Accepted::Frame { key, sequence, value, time, .. } => Posted {
            sequence: *sequence,
            time: *time,
            subject: root.log(key).into(),
            has_write_id: true,
            traces: Traces::default(),
            payload: value.clone(),
        },
    }
}

#[async_trait]
impl Feed for Memory {
    async fn open(&self, config: &FeedConfig) -> Result<Box<dyn Deliveries>, StoreError> {
        self.ensure(config).await?;
        let (reader, consumer) = {
            let mut inner = self.inner();
            inner.readers += 1;
            (inner.readers, inner.ensure_consumer().serial)
        };
        Ok(Box::new(Reader { memory: self.clone(), reader, consumer, config: *config }))
    }

    async fn ensure(&self, config: &FeedConfig) -> Result<FeedState, StoreError> {
        if self.look(|inner| inner.is_consumer_away).await? {
            return Err(StoreError::Unavailable("simulated: the consumer's server is away".to_owned()));
        }
        self.inner().ensure_consumer();
        self.state(config).await
    }

    async fn renew(&self, _: &FeedConfig) -> Result<(), StoreError> {
        self.look(|_| ()).await?;
        let mut inner = self.inner();
        inner.consumer = None;
        inner.is_consumer_away = false;
        inner.ensure_consumer();
        Ok(())
    }

    async fn checkpoint(&self, until: u64) -> Result<(), StoreError> {
        self.look(|_| ()).await?;
        self.inner().checkpoint = until;
        Ok(())
    }

    async fn state(&self, _: &FeedConfig) -> Result<FeedState, StoreError> {
        let state = self.look(|inner| inner.feed_state()).await?;
        state.ok_or_else(|| StoreError::Unavailable("simulated: there is no consumer".to_owned()))
    }

    async fn acknowledge(&self, ack: &Subject) -> Result<(), StoreError> {
        self.delay().await;
        let mut inner = self.inner();
        let lost = inner.faults.lost_ack;
        let is_lost = lost > 0 && inner.roll(1000) < lost;
        let sequence = ack.strip_prefix(ACK).and_then(|sequence| sequence.parse().ok());
        if let (Some(consumer), Some(sequence), false) = (&mut inner.consumer, sequence, is_lost) {
            consumer.acknowledge(sequence);
        }
        drop(inner);
        self.shared.grown.notify_waiters();
        Ok(())
    }

    async fn unpin(&self, _: &FeedConfig) -> Result<(), StoreError> {
        self.look(|_| ()).await?;
        if let Some(consumer) = &mut self.inner().consumer {
            consumer.pin = None;
        }
        self.shared.grown.notify_waiters();
        Ok(())
    }

    async fn first(&self, subject: Option<&str>, from: u64) -> Result<Option<Posted>, StoreError> {
        let is_wanted = |posted: &Posted| subject.is_none_or(|subject| posted.subject.as_str() == subject);
        self.look(|inner| inner.posted(from).find(is_wanted)).await
    }
}

struct Reader {
    memory: Memory,
    reader: u64,
    /// The consumer that it reads from.
    consumer: u64,
    config: FeedConfig,
}

#[async_trait]
impl Deliveries for Reader {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        self.memory.delay().await;
        let grown = &self.memory.shared.grown;
        loop {
            let mut news = std::pin::pin!(grown.notified());
            news.as_mut().enable();
            let delivered = {
                let mut inner = self.memory.inner();
                if inner.consumer.as_ref().is_some_and(|consumer| consumer.serial != self.consumer) {
                    return Err(StoreError::Unavailable("simulated: the consumer was deleted".to_owned()));
                }
                inner.deliver(self.reader, &self.config, Instant::now())
            };
            match delivered {
                Ok(batch) => return Ok(batch),
                // Never zero: a paused clock only advances when no task can run.
                Err(again) => drop(tokio::time::timeout_at(again.max(Instant::now() + TICK), news).await),
            }
        }
    }
}

#[cfg(test)]
mod tests;
