//! Keeps signals in their stream, in batches behind the announcement.
//!
//! Invariant: a message of the stream of sessions is acknowledged only when its signals are kept. So a relay that is
//! lost leaves no gap: its successor announces what was not acknowledged again, and keeps it.
//!
//! On three servers a batch is atomic (nats-server's ADR-50), so that it costs one replicated write. Where that is not
//! possible, each session's signals are stored one after the other. The event's id is the message's id, so that the
//! stream stores it once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::try_join_all;
use holdfast_protocol::SessionKey;
use holdfast_store::chance;
use holdfast_store::wire::{BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, Outgoing, Request};
use tokio::time::Instant;

use crate::context::Context;
use crate::keep::{COPY_TIMEOUT, ask, keep};
use crate::relay::RelayError;

/// How long a signal waits for others at most.
pub(super) const LATEST: Duration = Duration::from_millis(100);
/// With so many signals of one session they do not wait longer: a session may change 24 times before the relay must
/// have come on.
const MOST_OF_SESSION: usize = 12;
/// With so many signals they do not wait longer. A server takes 1,000 in a batch.
const MOST: usize = 256;
/// How long storing a signal is attempted. After that the relay restarts from what is acknowledged.
const TIMEOUT: Duration = Duration::from_secs(8);
/// nats-server's error code for a stream without atomic batches.
const BATCHES_DISABLED: u64 = 10174;

/// A signal that was announced and must be kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Its session.
    pub(super) key: SessionKey,
    /// The message for the stream of signals.
    pub(super) message: Outgoing,
}

/// The signals that wait for the next batch.
#[derive(Default)]
pub(super) struct Keeping {
    waiting: Vec<Kept>,
    of_session: BTreeMap<SessionKey, usize>,
    since: Option<Instant>,
    /// Whether the stream takes no atomic batches.
    is_single: bool,
}

impl Keeping {
    /// Adds signals, each session's in commit order.
    pub(super) fn add(&mut self, kept: Vec<Kept>) {
        for Kept { key, .. } in &kept {
            *self.of_session.entry(key.clone()).or_default() += 1;
        }
        self.waiting.extend(kept);
        if !self.waiting.is_empty() {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// When the next batch must be stored; `None` when nothing waits.
    pub(super) fn due(&self) -> Option<Instant> {
        let is_full = self.waiting.len() >= MOST || self.of_session.values().any(|count| *count >= MOST_OF_SESSION);
        self.since.map(|since| if is_full { since } else { since + LATEST })
    }

    /// Stores everything that waits.
    pub(super) async fn store(&mut self, context: &Context) -> Result<(), RelayError> {
        let waiting = std::mem::take(&mut self.waiting);
        self.of_session.clear();
        self.since = None;
        for batch in waiting.chunks(MOST) {
            if batch.len() > 1 && !self.is_single && self.is_stored_at_once(context, batch).await {
                continue;
            }
            let mut by_session: BTreeMap<&SessionKey, Vec<&Outgoing>> = BTreeMap::new();
            for Kept { key, message } in batch {
                by_session.entry(key).or_default().push(message);
            }
            try_join_all(by_session.into_values().map(|messages| store_in_order(context, messages))).await?;
        }
        Ok(())
    }

    /// Sends one atomic batch. If it is not acknowledged, nothing may have been stored, or all of it: its messages are
    /// then stored singly, and the stream knows their ids.
    async fn is_stored_at_once(&mut self, context: &Context, batch: &[Kept]) -> bool {
        let id = chance::id().simple().to_string();
        let last = batch.len();
        for (number, Kept { message, .. }) in (1..).zip(batch) {
            let mut headers = message.headers.clone().unwrap_or_default();
            headers.insert(BATCH_ID, id.as_str());
            headers.insert(BATCH_SEQUENCE, number.to_string().as_str());
            if number < last {
                if context.wire.publish(Outgoing { headers: Some(headers), ..message.clone() }).await.is_err() {
                    return false;
                }
                continue;
            }
            headers.insert(BATCH_COMMIT, "1");
            let Outgoing { subject, payload, .. } = message.clone();
            let request = Request { subject, headers: Some(headers), payload, timeout: COPY_TIMEOUT };
            return match ask(context, &context.config.root.signals_stream(), request).await {
                Ok(()) => true,
                Err(refused) => {
                    self.is_single |= refused.code == BATCHES_DISABLED;
                    tracing::debug!(why = refused.why, "a batch of signals was not stored; they are stored singly");
                    false
                }
            };
        }
        false
    }
}

async fn store_in_order(context: &Context, messages: Vec<&Outgoing>) -> Result<(), RelayError> {
    for message in messages {
        let Outgoing { subject, headers, payload, .. } = message.clone();
        let request = Request { subject, headers, payload, timeout: COPY_TIMEOUT };
        let stream = context.config.root.signals_stream();
        keep(context, &stream, request, TIMEOUT).await.map_err(RelayError::Announce)?;
    }
    Ok(())
}
