//! Follows one session's signals.
//!
//! Invariant: a follower gets each committed event once, in order, or an [`Event::Gap`], after which it must read the
//! state again. NATS silently drops messages for a slow or disconnected subscriber, so gaps are detected by the
//! revisions in the signals and by reconnections of the client. A missed last signal is detected only when another one
//! follows.

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
use crate::denials::Watch;
use crate::error::Error;
use chain::{Chain, Link};

/// How often an idle follower checks whether the client has reconnected.
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

/// What a follower gets.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A signal.
    Signal(Box<Signal>),
    /// Signals were missed: read the state again. The signal that revealed the gap comes next.
    Gap(Gap),
    /// NATS does not let this user receive these signals: `forbidden` / `permission_denied`. Nothing follows.
    Denied(Error),
}

/// How a gap was detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The next change of the document did not begin at the revision at which the last one ended.
    Document {
        /// The last revision that was signalled.
        last: u64,
        /// The revision at which the next change began.
        next: u64,
    },
    /// The next change of the lock did not follow the last one.
    Lock {
        /// The last signalled lock revision.
        last: u64,
        /// The next signalled lock revision.
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
    subject: String,
    denied: Watch,
    chain: Chain,
    connects: u64,
    look: Interval,
    /// The signal that revealed a gap.
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
                error = self.denied.of_subscription(&self.subject) => return Some(Event::Denied(error)),
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
        // The first message after a reconnection may arrive before the next check.
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
    /// Subscribes to the session's signals, or to one group of them. Read the state after this and not before, so that
    /// no change in between is missed.
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
    ///         Event::Denied(error) => return Err(error.into()),
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
        let subject = self.signals_subject(group.map(Group::as_str));
        let denied = self.client.denials.watch();
        let subscription = nats.subscribe(subject.clone()).await?;
        if let Err(error) = nats.flush().await {
            // The subscription is sent with the next connection, which is reported as a gap.
            tracing::debug!(%error, "the subscription is not sent yet");
        }
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Follower { nats, subscription, subject, denied, chain: Chain::default(), connects, look, pending: None })
    }
}
