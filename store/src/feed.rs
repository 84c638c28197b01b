//! The stream of sessions read in order, once for all coordinators: what the relay needs of storage.
//!
//! Invariant: a message is delivered until it is acknowledged, and acknowledging one acknowledges all before it.
//! Deliveries are numbered without gaps, so that a reader sees what it missed. Of all who read, one is pinned and gets
//! messages; a pin decides who works, not who is right.
//!
//! Deliberately absent: what the messages mean, and what to do about a gap (the relay).

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::{Storage, StoreError};

/// The one consumer of a feed. All who read it have the same settings.
#[derive(Clone, Copy, Debug)]
pub struct FeedConfig {
    /// The consumer's name.
    pub name: &'static str,
    /// Its priority group, of which one member is pinned.
    pub group: &'static str,
    /// What it is for, shown to operators.
    pub description: &'static str,
    /// How long an acknowledgement is waited for before a message is delivered again.
    pub ack_wait: Duration,
    /// How many messages may be under way unacknowledged.
    pub unacknowledged_max: i64,
    /// How long the pinned reader may ask for nothing before another one is pinned.
    pub pin_timeout: Duration,
    /// How long one question for messages waits; each renews the pin.
    pub pull_expires: Duration,
    /// How many messages come at once at most.
    pub batch: usize,
}

/// A message as it stands in the stream.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Stream sequence.
    pub sequence: u64,
    /// When it was stored, by the clock of the server.
    pub time: Timestamp,
    /// Its subject.
    pub subject: Subject,
    /// Whether its writer gave it an id, as Holdfast does and KV clients do not.
    pub has_write_id: bool,
    /// The body.
    pub payload: Bytes,
}

/// A message as the consumer delivers it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its number among all deliveries, to whomever they went.
    pub number: u64,
    /// The message.
    pub posted: Posted,
    /// Where it is acknowledged.
    pub ack: Subject,
}

/// Some deliveries, in order; at least one.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The messages.
    pub deliveries: Vec<Delivery>,
    /// The pin that the last of them came under.
    pub pin: Option<String>,
}

/// How far the consumer is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedState {
    /// Everything up to this sequence is acknowledged.
    pub acknowledged: u64,
    /// The pin of whoever reads now.
    pub pinned: Option<String>,
}

/// One reader's deliveries.
#[async_trait]
pub trait Deliveries: Send {
    /// Waits for the next ones. Dropping the future loses none.
    ///
    /// # Errors
    /// When the reader must be opened again.
    async fn next(&mut self) -> Result<Batch, StoreError>;
}

/// Storage whose stream can be read in order.
#[async_trait]
pub trait Feed: Storage {
    /// Begins to read; makes the consumer where it is missing.
    async fn open(&self, config: &FeedConfig) -> Result<Box<dyn Deliveries>, StoreError>;

    /// Makes the consumer where it is missing, and says how far it is.
    async fn ensure(&self, config: &FeedConfig) -> Result<FeedState, StoreError>;

    /// How far the consumer is.
    async fn state(&self, config: &FeedConfig) -> Result<FeedState, StoreError>;

    /// Acknowledges a delivery and all before it. It may get lost.
    async fn acknowledge(&self, ack: &Subject) -> Result<(), StoreError>;

    /// Takes the pin from whoever has it.
    async fn unpin(&self, config: &FeedConfig) -> Result<(), StoreError>;

    /// The first message at or behind a sequence, from the leader; of `subject`, or of all.
    async fn first(&self, subject: Option<&str>, from: u64) -> Result<Option<Posted>, StoreError>;
}

/// A shared feed, which is a [`crate::Store`] as well.
pub type SharedFeed = Arc<dyn Feed>;
