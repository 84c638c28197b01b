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
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Why a stream did not acknowledge a message.
pub(crate) struct Refused {
    /// nats-server's error code; 0 if it did not answer.
    pub(crate) code: u64,
    pub(crate) why: String,
}

/// Publishes one copy of a message to `stream`.
pub(crate) async fn ask(context: &Context, stream: &str, request: Request) -> Result<(), Refused> {
    let refused = |code, why| Err(Refused { code, why });
    match context.wire.request(request).await {
        Ok(message) => match serde_json::from_slice::<Ack>(&message.payload) {
            Ok(Ack { error: None, stream: by }) if by == stream => Ok(()),
            Ok(Ack { error: Some(error), .. }) => refused(error.err_code, error.description),
            Ok(_) | Err(_) => refused(0, format!("the answer is not one of the stream {stream}")),
        },
        Err(error) => refused(0, error.to_string()),
    }
}

/// Publishes one message until `stream` has it, for at most about `patience`.
///
/// # Errors
/// What was wrong with the last copy.
pub(crate) async fn keep(context: &Context, stream: &str, request: Request, patience: Duration) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    let mut pause = PAUSE.0;
    loop {
        let Err(Refused { why, .. }) = ask(context, stream, request.clone()).await else { return Ok(()) };
        if Instant::now() + pause >= deadline {
            return Err(why);
        }
        tracing::debug!(subject = %request.subject, why, "a message is not stored yet");
        tokio::time::sleep(pause.mul_f64(chance::share(0.5..1.5))).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}
