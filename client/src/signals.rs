//! Follows one session's signals.
//!
//! Invariant: a follower is given each committed event once, in order, or is told that it missed some ([`Event::Gap`]) and
//! must read the state again. NATS drops what a slow or disconnected subscriber does not take, and tells nobody; so the
//! revisions in the signals, and reconnections of the client, are what a gap is known by. What was missed last is
//! known only when something else follows.

mod chain;

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Message, SubscribeError, Subscriber};
use futures_util::StreamExt;
use holdfast_protocol::signal::Signal;
use serde::Deserialize;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::client::SessionClient;
use chain::{Chain, Link};

/// How often a follower that hears nothing looks whether the client had to connect again.
const LOOK: Duration = Duration::from_millis(500);

/// A group of signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Opened, activated, moved, passivated, reclaimed, closed.
    Session,
    /// Acquired, rotated, released, expired, taken over, changed by hand, conflict.
    Lock,
    /// Loaded, edited, saved, undone, redone, failed, diverged, converged.
    Doc,
}

impl Group {
    /// The word in the subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Lock => "lock",
            Self::Doc => "doc",
        }
    }
}

/// What a follower hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A signal.
    Signal(Box<Signal>),
    /// Signals were missed: read again what you follow. The signal that gave it away comes next.
    Gap(Gap),
}

/// How a gap was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The next change of the document began at another revision than the last one ended.
    Document {
        /// The last revision that was signalled.
        last: u64,
        /// Where the next change began.
        next: u64,
    },
    /// The next change of the lock was not the one after the last.
    Lock {
        /// The last lock revision that was signalled.
        last: u64,
        /// The next one that was.
        next: u64,
    },
    /// The client was disconnected for a while.
    Reconnected,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document { last, next } => {
                write!(f, "signals were missed between document revisions {last} and {next}")
            }
            Self::Lock { last, next } => write!(f, "signals were missed between lock revisions {last} and {next}"),
            Self::Reconnected => f.write_str("signals may have been missed while the connection was lost"),
        }
    }
}

/// A subscription to one session's signals.
pub struct Follower {
    nats: async_nats::Client,
    subscription: Subscriber,
    chain: Chain,
    connects: u64,
    look: Interval,
    /// The signal that gave a gap away.
    pending: Option<Box<Signal>>,
}

impl Follower {
    /// The next event; `None` when the connection is closed for good. Nothing is lost when this is cancelled.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(signal) = self.pending.take() {
            return Some(Event::Signal(signal));
        }
        loop {
            tokio::select! {
                biased;
                _ = self.look.tick() => if self.was_reconnected() {
                    return Some(Event::Gap(Gap::Reconnected));
                },
                message = self.subscription.next() => if let Some(event) = self.take(&message?) {
                    return Some(event);
                },
            }
        }
    }

    fn was_reconnected(&mut self) -> bool {
        let connects = connects(&self.nats);
        let again = connects != self.connects;
        self.connects = connects;
        if again {
            self.chain.forget_revisions();
        }
        again
    }

    fn take(&mut self, message: &Message) -> Option<Event> {
        let signal: Box<Signal> = match serde_json::from_slice(&message.payload) {
            Ok(signal) => signal,
            Err(error) => {
                tracing::warn!(subject = %message.subject, %error, "a signal does not parse");
                return None;
            }
        };
        let link = self.chain.add(&signal);
        if link == Link::Seen {
            return None;
        }
        // The first message after a reconnection may come before the next look.
        let gap = if self.was_reconnected() { Some(Gap::Reconnected) } else { link.gap() };
        Some(match gap {
            None => Event::Signal(signal),
            Some(gap) => {
                self.pending = Some(signal);
                Event::Gap(gap)
            }
        })
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("chain", &self.chain).finish_non_exhaustive()
    }
}

fn connects(nats: &async_nats::Client) -> u64 {
    nats.statistics().connects.load(Ordering::Relaxed)
}

impl SessionClient {
    /// Subscribes to the session's signals, or to one group of them. Read the state after this, not before: then what
    /// changes in between is signalled.
    ///
    /// ```no_run
    /// # use holdfast_client::{DocGet, Event, SessionClient};
    /// # async fn example(session: SessionClient) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut follower = session.follow(None).await?;
    /// let mut document = session.document(DocGet::default()).await?;
    /// while let Some(event) = follower.next().await {
    ///     match event {
    ///         Event::Signal(signal) => println!("{} {:?}", signal.kind, signal.data),
    ///         Event::Gap(_) => document = session.document(DocGet::default()).await?,
    ///     }
    /// }
    /// # let _ = document;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub async fn follow(&self, group: Option<Group>) -> Result<Follower, SubscribeError> {
        let nats = self.client.nats.clone();
        let connects = connects(&nats);
        let subscription = nats.subscribe(self.signals_subject(group.map(Group::as_str))).await?;
        if let Err(error) = nats.flush().await {
            // The subscription is made on the next connection, and that one is a gap.
            tracing::debug!(%error, "the subscription is not sent yet");
        }
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Follower { nats, subscription, chain: Chain::default(), connects, look, pending: None })
    }
}
