//! Confirms that published messages have reached the server.
//!
//! Invariant: when [`Echo::confirm`] returns true, the server has received everything that was published since the
//! epoch was taken. async-nats cannot tell this: `flush` waits for its buffers only, a lost connection drops what the
//! buffers held, and commands in its queue are sent on the next connection.

use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_store::SharedWire;
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::wire::{Outgoing, Subscription};
use tokio::time::timeout;

use crate::relay::{RelayError, fault};

/// How long to wait for an echo. It may have been lost with the connection.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A subject that only this connection subscribes to.
pub(super) struct Echo {
    wire: SharedWire,
    subject: Subject,
    heard: Subscription,
    said: u64,
}

/// Which connection it is: the number of connects so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

impl Echo {
    pub(super) async fn on(wire: &SharedWire) -> Result<Self, RelayError> {
        let subject: Subject = wire.new_inbox().into();
        let heard = wire.subscribe(subject.clone(), None).await.map_err(fault)?;
        Ok(Self { wire: wire.clone(), subject, heard, said: 0 })
    }

    /// The current epoch. Take it before publishing.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.wire.connects())
    }

    /// Whether everything that was published since the epoch `since` has reached the server.
    pub(super) async fn confirm(&mut self, since: Epoch) -> bool {
        if mutant::is(Mutant::EchoNotAwaited) {
            return true;
        }
        self.said += 1;
        let word = Bytes::from(self.said.to_string());
        if self.wire.publish(Outgoing::to(self.subject.clone(), word.clone())).await.is_err() {
            return false;
        }
        let back = async {
            while let Some(message) = self.heard.next().await {
                if message.payload == word {
                    return true;
                }
            }
            false
        };
        timeout(TIMEOUT, back).await.unwrap_or(false) && self.epoch() == since
    }
}
