//! `admin.reclaim`: what has been idle for long leaves memory, on every live worker at once.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use holdfast_protocol::internal::{ReclaimIdle, ReclaimedIdle, control};
use holdfast_protocol::reply::Reclaimed;
use holdfast_protocol::request::Reclaim;
use holdfast_protocol::{Error, Namespace, SessionId};

use crate::answer::Answer;
use crate::call::Incoming;
use crate::control::{Fault, ask, silent};
use crate::copies::Copies;
use crate::hub::Hub;

/// Reclaims what has been idle for long, on every live worker at once.
pub(crate) async fn reclaim(hub: &Hub, namespace: &Namespace, incoming: &Incoming) -> Result<Answer, Error> {
    let (request, call) = incoming.parse::<Reclaim>(&hub.config.limits)?;
    let copies = Copies::of(&call, &format!("reclaim {namespace}"));
    if let Some(reclaimed) = copies.answer::<Reclaimed>(hub, &call).await? {
        return Answer::of(&reclaimed);
    }
    hub.registry.refresh_or_explain(call.deadline).await?;
    let body = ReclaimIdle {
        namespace: namespace.clone(),
        max_idle_ms: request.max_idle_ms,
        actor: call.actor.clone(),
        request_id: call.request_id.clone(),
    };
    let live = hub.registry.live();
    let answers = join_all(live.iter().map(|lease| ask(hub, lease, control::RECLAIM, &body, &call))).await;
    let mut reclaimed: BTreeSet<SessionId> = BTreeSet::new();
    let mut in_doubt: Vec<&str> = Vec::new();
    for (lease, answer) in live.iter().zip(answers) {
        match answer {
            Ok(ReclaimedIdle { reclaimed: ids }) => reclaimed.extend(ids),
            // Its sessions go to others with the next request, or with the next sweep.
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
    copies.keep(hub, &reclaimed).await;
    Answer::of(&reclaimed)
}
