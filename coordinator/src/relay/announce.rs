//! Publishes signals, each session's in commit order. They are plain messages; an echo on the same connection confirms
//! them. Those of the groups `session` and `lock` are kept in a stream as well, a little later: see `keep`.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use bytes::Bytes;
use holdfast_protocol::SessionKey;
use holdfast_protocol::signal::HANDED_OVER;
use holdfast_protocol::trace::TRACEPARENT;
use holdfast_store::trace;
use holdfast_store::wire::Outgoing;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::context::Context;
use crate::relay::RelayError;
use crate::relay::echo::Echo;
use crate::relay::keep::Kept;
use crate::relay::translate::Announcement;

/// How long publishing is attempted. After that the relay restarts from what is acknowledged.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Publishes all of them. Each signal is published once, unless the connection is lost meanwhile. Returns those that
/// must be kept.
pub(super) async fn all(
    context: &Context,
    echo: &mut Echo,
    announcements: impl IntoIterator<Item = (SessionKey, Announcement)>,
) -> Result<Vec<Kept>, RelayError> {
    let mut by_session: BTreeMap<SessionKey, Vec<Announcement>> = BTreeMap::new();
    for (key, announcement) in announcements {
        by_session.entry(key).or_default().push(announcement);
    }
    for announcements in by_session.values_mut() {
        announcements.sort_by_key(|announcement| announcement.place);
        announcements.dedup_by_key(|announcement| announcement.place);
    }
    if by_session.values().all(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let epoch = echo.epoch();
        let mut kept = Vec::new();
        for (key, announcements) in &by_session {
            for announcement in announcements {
                kept.extend(publish(context, key, announcement).await?);
            }
        }
        if echo.confirm(epoch).await {
            return Ok(kept);
        }
        if Instant::now() >= deadline {
            return Err(RelayError::Announce("the server does not confirm what was published".to_owned()));
        }
        tracing::info!("signals may have been lost with the connection and are published again");
    }
}

/// Whether signals of this group are kept in a stream.
pub(crate) fn is_kept(group: &str) -> bool {
    matches!(group, "session" | "lock")
}

/// Publishes one signal. Returns the message for the stream of signals, if it is kept.
async fn publish(context: &Context, key: &SessionKey, announcement: &Announcement) -> Result<Option<Kept>, RelayError> {
    let root = &context.config.root;
    let (group, event) = announcement.name.split_once('.').unwrap_or((&announcement.name, "unknown"));
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, announcement.signal.id.as_str());
    if announcement.is_handed_over {
        headers.insert(HANDED_OVER, "true");
    }
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
    let kept = is_kept(group).then(|| {
        let subject = root.kept_signal(key, group, event);
        Kept { key: key.clone(), message: Outgoing::to(subject, payload.clone()).with_headers(headers.clone()) }
    });
    let signal = Outgoing::to(root.signal(key, group, event), payload).with_headers(headers);
    let sent = context.wire.publish(signal).instrument(span).await;
    sent.map_err(|error| RelayError::Announce(error.to_string()))?;
    context.config.meters.announced(1);
    Ok(kept)
}
