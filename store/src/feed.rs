//! The stream of sessions, read in order, once for all coordinators: what the relay needs of the storage.
//!
//! Invariant: a message is delivered until it is acknowledged, and acknowledging one acknowledges all before it. The
//! consumer keeps this in the memory of one server, so that no step of the reader costs a replicated write. If that
//! server is lost, the reader continues behind its last checkpoint, and reads again what it had acknowledged since.
//! Deliveries are numbered without gaps, so a reader notices a missed one. One reader is pinned and gets the messages.
//! The pin only divides the work and is no lock.
//!
//! Deliberately absent: what the messages mean, and what to do about a gap (the relay).

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::trace::Traces;
use crate::{Storage, StoreError};

/// The consumer of a feed. All readers use the same settings.
#[derive(Clone, Copy, Debug)]
pub struct FeedConfig {
    /// The consumer's name.
    pub name: &'static str,
    /// Its priority group, of which one member is pinned.
    pub group: &'static str,
    /// Its description for operators.
    pub description: &'static str,
    /// How long the server waits for an acknowledgement before it delivers a message again.
    pub ack_wait: Duration,
    /// How many messages may be delivered and not acknowledged.
    pub unacknowledged_max: i64,
    /// How long the pinned reader may send no pull request before another one is pinned.
    pub pin_timeout: Duration,
    /// How long one pull request waits for messages. Each renews the pin.
    pub pull_expires: Duration,
    /// How many messages a batch has at most.
    pub batch: usize,
}

/// A message in the stream.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Stream sequence.
    pub sequence: u64,
    /// When it was stored, by the clock of the server.
    pub time: Timestamp,
    /// Its subject.
    pub subject: Subject,
    /// Whether it has a message id. Holdfast's writes have one, and those of KV clients do not.
    pub has_write_id: bool,
    /// The traces of the requests that caused it.
    pub traces: Traces,
    /// The body.
    pub payload: Bytes,
}

/// A message as the consumer delivers it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its number among all deliveries to all readers.
    pub number: u64,
    /// The message.
    pub posted: Posted,
    /// The subject to acknowledge it on.
    pub ack: Subject,
}

/// One or more deliveries, in order.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The messages.
    pub deliveries: Vec<Delivery>,
    /// The pin under which the last of them was delivered.
    pub pin: Option<String>,
}

/// The state of the consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedState {
    /// Everything up to this sequence is acknowledged.
    pub acknowledged: u64,
    /// How many messages are not acknowledged yet.
    pub behind: u64,
    /// The pin of the current reader.
    pub pinned: Option<String>,
}

/// One reader's deliveries.
#[async_trait]
pub trait Deliveries: Send {
    /// Waits for the next deliveries. Dropping the future loses none.
    ///
    /// # Errors
    /// When the reader must open the feed again.
    async fn next(&mut self) -> Result<Batch, StoreError>;
}

/// Storage whose stream can be read in order.
#[async_trait]
pub trait Feed: Storage {
    /// Starts reading. Creates the consumer if it is missing.
    async fn open(&self, config: &FeedConfig) -> Result<Box<dyn Deliveries>, StoreError>;

    /// Creates the consumer behind the checkpoint if it is missing or has fallen behind it. Returns its state.
    async fn ensure(&self, config: &FeedConfig) -> Result<FeedState, StoreError>;

    /// Puts another consumer in the place of one that does not answer, behind the checkpoint. Its server may be away,
    /// and with it what was acknowledged since.
    async fn renew(&self, config: &FeedConfig) -> Result<(), StoreError>;

    /// Stores that everything up to `until` is done: a consumer that is lost is created again behind it.
    async fn checkpoint(&self, until: u64) -> Result<(), StoreError>;

    /// The state of the consumer.
    async fn state(&self, config: &FeedConfig) -> Result<FeedState, StoreError>;

    /// Acknowledges a delivery and all before it. The acknowledgement may be lost.
    async fn acknowledge(&self, ack: &Subject) -> Result<(), StoreError>;

    /// Takes the pin from its reader.
    async fn unpin(&self, config: &FeedConfig) -> Result<(), StoreError>;

    /// The first message at or after a sequence, from the leader; of `subject`, or of all subjects.
    async fn first(&self, subject: Option<&str>, from: u64) -> Result<Option<Posted>, StoreError>;
}

/// A shared feed, which is a [`crate::Store`] as well.
pub type SharedFeed = Arc<dyn Feed>;
