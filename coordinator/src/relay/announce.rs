//! Publishes signals: many sessions concurrently, each session's in order.
//!
//! Signals of the groups `session` and `lock` are kept in a stream. Each is published as a request, with the event's id
//! for deduplication, and the stream's acknowledgement is awaited before the session's next one. Signals of the group
//! `doc` are plain messages; an echo on the same connection confirms them.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use bytes::Bytes;
use futures_util::future::try_join_all;
use holdfast_protocol::SessionKey;
use holdfast_protocol::trace::TRACEPARENT;
use holdfast_store::trace;
use holdfast_store::wire::{Outgoing, Request};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::context::Context;
use crate::keep::{COPY_TIMEOUT, keep};
use crate::relay::RelayError;
use crate::relay::echo::Echo;
use crate::relay::translate::Announcement;

/// How long publishing a signal is attempted. After that the relay restarts from what is acknowledged.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Publishes all of them: sessions concurrently, each session's in commit order. Each signal is published once, unless
/// the connection is lost meanwhile.
pub(super) async fn all(
    context: &Context,
    echo: &mut Echo,
    announcements: impl IntoIterator<Item = (SessionKey, Announcement)>,
) -> Result<(), RelayError> {
    let mut by_session: BTreeMap<SessionKey, Vec<Announcement>> = BTreeMap::new();
    for (key, announcement) in announcements {
        by_session.entry(key).or_default().push(announcement);
    }
    for announcements in by_session.values_mut() {
        announcements.sort_by_key(|announcement| announcement.place);
        announcements.dedup_by_key(|announcement| announcement.place);
    }
    let is_plain =
        |announcement: &Announcement| !is_kept(announcement.name.split_once('.').map_or("", |(group, _)| group));
    let has_plain = by_session.values().flatten().any(is_plain);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let epoch = echo.epoch();
        try_join_all(by_session.iter().map(|(key, announcements)| of_session(context, key, announcements))).await?;
        if !has_plain || echo.confirm(epoch).await {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(RelayError::Announce("the server does not confirm what was published".to_owned()));
        }
        tracing::info!("signals may have been lost with the connection and are published again");
    }
}

/// Whether signals of this group are kept in a stream.
fn is_kept(group: &str) -> bool {
    matches!(group, "session" | "lock")
}

async fn of_session(context: &Context, key: &SessionKey, announcements: &[Announcement]) -> Result<(), RelayError> {
    for announcement in announcements {
        let (group, event) = announcement.name.split_once('.').unwrap_or((&announcement.name, "unknown"));
        let subject = context.config.root.signal(key, group, event);
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, announcement.signal.id.as_str());
        let span = match announcement.trace {
            Some(_) => {
                tracing::info_span!("signal", session = %key.id, namespace = %key.namespace, signal = announcement.name)
            }
            None => Span::none(),
        };
        if let Some(trace) = trace::begin(&span, announcement.trace) {
            headers.insert(TRACEPARENT, trace.to_string());
        }
        let payload: Bytes = announcement.signal.to_json().into();
        if is_kept(group) {
            let subject = subject.into();
            let request = Request { subject, headers: Some(headers), payload, timeout: COPY_TIMEOUT };
            let stream = context.config.root.signals_stream();
            keep(context, &stream, request, TIMEOUT).instrument(span).await.map_err(RelayError::Announce)?;
        } else {
            let sent = context.wire.publish(Outgoing::to(subject, payload).with_headers(headers)).await;
            sent.map_err(|error| RelayError::Announce(error.to_string()))?;
        }
        context.config.meters.announced(1);
    }
    Ok(())
}
