//! A coordinator that leaves passes its waiters on to another coordinator.
//!
//! Invariant: waiters are passed on in the order of their queue, with the rest of their time; the other coordinator
//! answers them. If there is no other coordinator, they are told to ask again.

use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use futures_util::StreamExt;
use holdfast_protocol::internal::REPLY_HEADER;
use holdfast_protocol::request::Acquire;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Reason, SessionKey};
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::wire::{Outgoing, Request};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::asker::{Asker, told_again};
use crate::context::Context;
use crate::error;
use crate::micro::PING;
use crate::operation::Operation;

/// How long other coordinators may take to answer a ping.
const ANSWER: Duration = Duration::from_millis(250);

/// How long another coordinator may take to confirm a request that is passed on.
const CONFIRM: Duration = Duration::from_secs(1);

/// Whether another coordinator runs. Found out once, when this one leaves.
pub(crate) async fn is_anybody_else_there(context: &Context) -> bool {
    *context.others.get_or_init(|| async { timeout(ANSWER, another(context)).await.unwrap_or(false) }).await
}

async fn another(context: &Context) -> bool {
    let inbox = context.wire.new_inbox();
    let Ok(mut answers) = context.wire.subscribe(inbox.clone().into(), None).await else { return false };
    if context.wire.publish(Outgoing::to(PING, "").with_reply(inbox)).await.is_err() {
        return false;
    }
    while let Some(answer) = answers.next().await {
        // Coordinators of another installation may run on the same servers.
        let is_one = |Pong { id, metadata }: Pong| {
            id != context.instance && metadata.root == context.config.root.as_str() && metadata.leaving == "false"
        };
        if serde_json::from_slice::<Pong>(&answer.payload).is_ok_and(is_one) {
            return true;
        }
    }
    false
}

/// The members of a ping reply that matter here.
#[derive(serde::Deserialize)]
struct Pong {
    id: String,
    metadata: Metadata,
}

#[derive(serde::Deserialize)]
struct Metadata {
    root: String,
    leaving: String,
}

/// Passes a request that waits until `until` on to another coordinator.
///
/// # Errors
/// `busy` / `draining` when that cannot be done.
pub(super) async fn pass_on(
    context: &Context,
    key: &SessionKey,
    request: &Acquire,
    operation: &Operation,
    asker: &Asker,
    until: Instant,
) -> Result<(), Error> {
    let leaving = || error::busy(Reason::Draining, "this coordinator is leaving; ask again to wait at another");
    if mutant::is(Mutant::WaitNotPassedOn) || !is_anybody_else_there(context).await {
        return Err(leaving());
    }
    let left = until.saturating_duration_since(Instant::now()).as_millis();
    let body = json!({
        "owner": request.owner, "rotate": request.rotate, "ttl_ms": request.ttl_ms, "actor": request.actor,
        // A key that this coordinator made is not secret, so it is not passed on; the other coordinator makes its own.
        "request_id": operation.by_caller.then(|| operation.request_id.as_str()),
        "wait_ms": u64::try_from(left).unwrap_or(u64::MAX).max(1),
    });
    let headers = told_again(operation.actor_proven.as_deref());
    if asker.is_imported() {
        return pass_on_import(context, key, &asker.reply, headers, body.to_string()).await.ok_or_else(leaving);
    }
    let subject = context.config.root.session_request(Verb::LockAcquire, key);
    let message = Outgoing { headers, ..Outgoing::to(subject, body.to_string()).with_reply(asker.reply.clone()) };
    let passed = context.wire.publish(message).await;
    passed.map_err(|_| leaving())
}

/// Passes on a request that came over a service import. nats-server does not let a client publish with the reply
/// subject that it made for the import, so the reply subject goes in a header, on a subject that only coordinators may
/// use. The other coordinator confirms it.
async fn pass_on_import(
    context: &Context,
    key: &SessionKey,
    reply: &Subject,
    headers: Option<HeaderMap>,
    body: String,
) -> Option<()> {
    let mut headers = headers.unwrap_or_default();
    headers.insert(REPLY_HEADER, reply.as_str());
    let subject = context.config.root.waiter(key).into();
    let request = Request { subject, headers: Some(headers), payload: body.into(), timeout: CONFIRM };
    context.wire.request(request).await.ok().map(|_| ())
}
