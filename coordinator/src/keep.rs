//! Publishes messages that a stream keeps: signals, and acts of operators.
//!
//! Invariant: when [`keep`] returns `Ok`, the stream has stored the message, once, however many copies were sent: each
//! copy has the same `Nats-Msg-Id`, which the caller sets.
//!
//! Deliberately absent: writes on a condition, which are the store's (`store/src/write.rs`). Nobody may read here that
//! nothing was stored: after an error the message may still be there.

use std::time::Duration;

use holdfast_store::chance;
use holdfast_store::wire::Request;
use serde::Deserialize;
use tokio::time::Instant;

use crate::context::Context;

/// How long to wait for the acknowledgement of one copy before the next copy is sent.
pub(crate) const COPY_TIMEOUT: Duration = Duration::from_millis(1_500);
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

/// Publishes one message until `stream` has it, for at most about `patience`.
///
/// # Errors
/// What was wrong with the last copy.
pub(crate) async fn keep(context: &Context, stream: &str, request: Request, patience: Duration) -> Result<(), String> {
    let deadline = Instant::now() + patience;
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
            return Err(why);
        }
        tracing::debug!(subject = %request.subject, why, "a message is not stored yet");
        tokio::time::sleep(pause.mul_f64(chance::share(0.5..1.5))).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}
