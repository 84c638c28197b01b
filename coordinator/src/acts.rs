//! Keeps what operators did to workers and to the secret of tokens in a stream of its own, `HF_AUDIT`.
//!
//! Invariant: an act is published only after it took effect, and no request waits longer than [`WAIT`] for that: an
//! operator must be able to drain a worker while the stream is away. Publishing goes on after that for a while, because
//! workers are drained just when servers are restarted and streams change their leader.
//!
//! Deliberately absent: the line in the log, which each request of an operator has (`audit`).

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use holdfast_protocol::act::{Act, Done, Origin};
use holdfast_store::chance;
use holdfast_store::wire::Request;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::context::Context;
use crate::keep::{COPY_TIMEOUT, keep};
use crate::operation::Operation;

/// How long a request waits until its act is stored.
const WAIT: Duration = Duration::from_secs(2);
/// How long it waits at least when its own time is almost over.
const LEAST_WAIT: Duration = Duration::from_millis(250);
/// How long an act is published again and again. Longer than streams take to elect a leader.
const PATIENCE: Duration = Duration::from_secs(30);
// The next copy is on its way before the request stops waiting.
const _: () = assert!(COPY_TIMEOUT.as_millis() < WAIT.as_millis());

/// An act that is being kept.
#[must_use]
pub(crate) struct Keeping(JoinHandle<Option<Result<(), String>>>);

/// Begins to keep what `operation` has done. It goes on if nobody waits for it.
pub(crate) fn begin(context: &Arc<Context>, done: &Done, operation: &Operation, reason: &str) -> Keeping {
    let time = arrival(operation).to_string();
    let origin = Origin {
        request_id: &operation.request_id,
        actor: operation.actor.as_deref(),
        actor_proven: operation.actor_proven.as_deref(),
        reason,
        time: &time,
    };
    let act = Act::of(done, origin);
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, act.id.as_str());
    let root = &context.config.root;
    let (subject, stream) = (root.act(done.event()).into(), root.audit_stream());
    let request = Request { subject, headers: Some(headers), payload: act.to_json().into(), timeout: COPY_TIMEOUT };
    let publishing = context.clone();
    let task = async move {
        let kept = keep(&publishing, &stream, request, PATIENCE).await;
        if let Err(why) = &kept {
            tracing::warn!(act = act.kind, request_id = act.correlationid.as_str(), why, "an act is not in {stream}");
        }
        kept
    };
    Keeping(context.tasks.spawn(context.abort.clone().run_until_cancelled_owned(task)))
}

impl Keeping {
    /// Waits a moment until it is stored. Returns why it is not.
    pub(crate) async fn wait(self, operation: &Operation) -> Option<String> {
        match timeout(operation.left().clamp(LEAST_WAIT, WAIT), self.0).await {
            Ok(Ok(Some(kept))) => kept.err(),
            Ok(Ok(None) | Err(_)) => Some("this coordinator ends".to_owned()),
            Err(_) => Some("the stream has not confirmed it yet".to_owned()),
        }
    }
}

/// When the request arrived, by this machine's clock.
fn arrival(operation: &Operation) -> Timestamp {
    let now = chance::now();
    let elapsed = Instant::now().saturating_duration_since(operation.arrived);
    now.checked_sub(elapsed).unwrap_or(now)
}
