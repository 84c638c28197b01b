//! What coordinators tell each other about those who wait for a lock: each has a line of its own.
//!
//! Invariant: it is for people. A coordinator that does not tell in time, or is of an earlier version, is left out.

use std::sync::Arc;

use futures_util::StreamExt;
use holdfast_protocol::SessionKey;
use holdfast_protocol::internal::{AskLine, Line, coordinators};
use holdfast_store::wire::{Outgoing, Subscription, WireError};
use tokio::time::{Instant, timeout_at};

use crate::config::TELL_TIMEOUT;
use crate::context::Context;

/// How many waiters of one line are named.
const NAMED: usize = 20;

/// Subscribes to what other coordinators, and this one, ask.
pub(crate) async fn subscribe(context: &Context) -> Result<Subscription, WireError> {
    context.wire.subscribe(context.config.root.coordinators(coordinators::LINE).into(), None).await
}

/// Tells about this coordinator's lines, until the subscription ends.
pub(crate) async fn tell(context: Arc<Context>, mut questions: Subscription) {
    while let Some(question) = questions.next().await {
        let Some(reply) = question.reply.filter(|reply| context.config.root.may_answer(reply)) else { continue };
        let Ok(AskLine { namespace, id }) = serde_json::from_slice(&question.payload) else { continue };
        let line = context.waiters.line(&SessionKey::new(namespace, id), NAMED);
        let Ok(body) = serde_json::to_vec(&line) else { continue };
        if let Err(error) = context.wire.publish(Outgoing::to(reply, body)).await {
            tracing::debug!(%error, "another coordinator was not told who waits");
        }
    }
}

/// The lines of all coordinators for the lock of `key`, as far as they tell within [`TELL_TIMEOUT`].
pub(crate) async fn ask(context: &Context, key: &SessionKey) -> Vec<Line> {
    let until = Instant::now() + TELL_TIMEOUT;
    let inbox = context.wire.new_inbox();
    let Ok(mut answers) = context.wire.subscribe(inbox.clone().into(), None).await else { return Vec::new() };
    let ask = AskLine { namespace: key.namespace.clone(), id: key.id.clone() };
    let Ok(body) = serde_json::to_vec(&ask) else { return Vec::new() };
    let subject = context.config.root.coordinators(coordinators::LINE);
    if context.wire.publish(Outgoing::to(subject, body).with_reply(inbox)).await.is_err() {
        return Vec::new();
    }
    let mut lines = Vec::new();
    // Nobody knows how many coordinators there are, so the whole time is waited.
    while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
        lines.extend(serde_json::from_slice::<Line>(&answer.payload));
    }
    lines
}
