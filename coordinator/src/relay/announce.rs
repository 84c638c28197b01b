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
use holdfast_protocol::signal::HANDED_OVER;
use holdfast_protocol::trace::TRACEPARENT;
use holdfast_store::wire::{Outgoing, Request};
use holdfast_store::{chance, trace};
use serde::Deserialize;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::context::Context;
use crate::relay::RelayError;
use crate::relay::echo::Echo;
use crate::relay::translate::Announcement;

/// How long to wait for the acknowledgement of one copy of a signal before the next copy is sent.
const COPY_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long publishing a signal is attempted. After that the relay restarts from what is acknowledged.
const TIMEOUT: Duration = Duration::from_secs(8);
/// The bounds of the pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    stream: String,
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    #[serde(default)]
    description: String,
}

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
        if is_kept(group) {
            let subject = subject.into();
            let request = Request { subject, headers: Some(headers), payload, timeout: COPY_TIMEOUT };
            keep(context, request).instrument(span).await?;
        } else {
            let sent = context.wire.publish(Outgoing::to(subject, payload).with_headers(headers)).await;
            sent.map_err(|error| RelayError::Announce(error.to_string()))?;
        }
        context.config.meters.announced(1);
    }
    Ok(())
}

/// Publishes one signal until its stream has it.
async fn keep(context: &Context, request: Request) -> Result<(), RelayError> {
    let deadline = Instant::now() + TIMEOUT;
    let stream = context.config.root.signals_stream();
    let mut pause = PAUSE.0;
    loop {
        let why = match context.wire.request(request.clone()).await {
            Ok(message) => match serde_json::from_slice::<Ack>(&message.payload) {
                Ok(Ack { error: None, stream: by }) if by == stream => return Ok(()),
                Ok(Ack { error: Some(error), .. }) => error.description,
                Ok(_) | Err(_) => format!("the answer is not one of the stream {stream}"),
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() + pause >= deadline {
            return Err(RelayError::Announce(why));
        }
        tracing::debug!(subject = %request.subject, why, "signal not stored yet");
        tokio::time::sleep(pause.mul_f64(chance::share(0.5..1.5))).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}
