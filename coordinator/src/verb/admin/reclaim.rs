//! `admin.reclaim`: passivates or closes idle sessions, on all live workers concurrently.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use holdfast_protocol::internal::{ReclaimIdle, ReclaimedIdle, control};
use holdfast_protocol::reply::Reclaimed;
use holdfast_protocol::request::Reclaim;
use holdfast_protocol::{Error, Namespace, SessionId};

use crate::context::Context;
use crate::control::{Fault, ask, silent};
use crate::copies::Copies;
use crate::operation::Incoming;
use crate::response::Response;

/// Reclaims the sessions that have been idle for `max_idle_ms`, on all live workers concurrently.
pub(crate) async fn reclaim(context: &Context, namespace: &Namespace, incoming: &Incoming) -> Result<Response, Error> {
    let (request, operation) = incoming.parse::<Reclaim>(&context.config.limits)?;
    let copies = Copies::of(&operation, &format!("reclaim {namespace}"));
    if let Some(reclaimed) = copies.answer::<Reclaimed>(context, &operation).await? {
        return Response::of(&reclaimed);
    }
    context.fleet.refresh_or_explain(operation.deadline).await?;
    let body = ReclaimIdle {
        namespace: namespace.clone(),
        max_idle_ms: request.max_idle_ms,
        actor: operation.actor.clone(),
        actor_proven: operation.actor_proven.clone(),
        request_id: operation.request_id.clone(),
    };
    let live = context.fleet.live();
    let answers = join_all(live.iter().map(|lease| ask(context, lease, control::RECLAIM, &body, &operation))).await;
    let mut reclaimed: BTreeSet<SessionId> = BTreeSet::new();
    let mut in_doubt: Vec<&str> = Vec::new();
    for (lease, answer) in live.iter().zip(answers) {
        match answer {
            Ok(ReclaimedIdle { reclaimed: ids }) => reclaimed.extend(ids),
            // Its sessions move with their next request or with the next sweep.
            Err(Fault::Unheard) => {}
            Err(Fault::Refused(error)) => return Err(error),
            Err(Fault::Silent) => in_doubt.push(lease.worker.as_str()),
        }
    }
    let reclaimed: Vec<SessionId> = reclaimed.into_iter().collect();
    if !in_doubt.is_empty() {
        let message = format!("did not answer in time, and may reclaim sessions still: {}", in_doubt.join(", "));
        return Err(silent(&message).detail("reclaimed", serde_json::json!(reclaimed)));
    }
    let reclaimed = Reclaimed { reclaimed };
    copies.keep(context, &reclaimed).await;
    Response::of(&reclaimed)
}
