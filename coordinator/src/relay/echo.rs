//! Making sure that what was published has left.
//!
//! Invariant: once [`Echo::confirm`] says yes, the server has taken in all that was published before on the connection
//! that was there at the mark. async-nats cannot tell by itself: `flush` waits for its buffers only, a lost connection
//! drops what they held, and commands that wait in its queue leave on the next one.

use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_store::SharedWire;
use holdfast_store::wire::{Outgoing, Subscription};
use tokio::time::timeout;

use crate::relay::{RelayError, fault};

/// How long an echo is waited for; it may have gone down with a connection.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A subject that this connection alone listens on.
pub(super) struct Echo {
    wire: SharedWire,
    subject: Subject,
    heard: Subscription,
    said: u64,
}

/// The connection at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

impl Echo {
    pub(super) async fn on(wire: &SharedWire) -> Result<Self, RelayError> {
        let subject: Subject = wire.new_inbox().into();
        let heard = wire.subscribe(subject.clone(), None).await.map_err(fault)?;
        Ok(Self { wire: wire.clone(), subject, heard, said: 0 })
    }

    /// To be taken before publishing.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.wire.connects())
    }

    /// Whether all that was published since the epoch `since` has reached the server.
    pub(super) async fn confirm(&mut self, since: Epoch) -> bool {
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
