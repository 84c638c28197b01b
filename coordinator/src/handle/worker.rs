//! `worker.list`, `worker.drain`, `worker.undrain` and `admin.reclaim`: what is asked of workers as a whole.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_protocol::internal::{ReclaimIdle, ReclaimedIdle, SetState, StateSet, WorkerLease, control};
use holdfast_protocol::reply::{Reclaimed, WorkerList, WorkerState};
use holdfast_protocol::request::{Drain, Empty, Reclaim};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Boot, Error, Namespace, Reason, SessionId, WorkerName};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::agent;
use crate::answer::Answer;
use crate::call::{Call, Incoming};
use crate::error;
use crate::hub::Hub;

/// Lists the live workers.
pub(crate) async fn list(hub: &Hub, incoming: &Incoming) -> Result<Answer, Error> {
    let (_, call) = incoming.parse::<Empty>(&hub.config.limits)?;
    hub.registry.refresh_or_explain(call.deadline).await?;
    Answer::of(&WorkerList { workers: hub.registry.live() })
}

/// Empties a worker, or lets it take sessions again.
pub(crate) async fn set_state(hub: &Hub, verb: Verb, name: &WorkerName, incoming: &Incoming) -> Result<Answer, Error> {
    let (request, call) = incoming.parse::<Drain>(&hub.config.limits)?;
    let state = if verb == Verb::WorkerDrain { WorkerState::Draining } else { WorkerState::Ready };
    let lease = hub.registry.find(name, call.deadline).await?;
    let request_id = call.by_caller.then(|| call.request_id.clone());
    let body = SetState { state, reason: request.reason, actor: call.actor.clone(), request_id };
    let StateSet { drained, late } =
        ask(hub, &lease, control::STATE, &body, &call).await.map_err(|fault| match fault {
            Fault::Refused(error) => error,
            Fault::Unheard => Error::new(Reason::NoWorker, format!("worker {name} is not there any more")),
            Fault::Silent => silent(&format!("worker {name} did not answer in time; it may do so still")),
        })?;
    if !late {
        hub.registry.told(name, drained.state);
    }
    Answer::of(&drained)
}

/// Reclaims what has been idle for long, on every live worker at once.
pub(crate) async fn reclaim(hub: &Hub, namespace: &Namespace, incoming: &Incoming) -> Result<Answer, Error> {
    let (request, call) = incoming.parse::<Reclaim>(&hub.config.limits)?;
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
    Answer::of(&Reclaimed { reclaimed })
}

/// What became of a call to a worker.
pub(crate) enum Fault {
    Refused(Error),
    Unheard,
    Silent,
}

/// Asks a worker as a whole, and waits for at most `patience`.
pub(crate) async fn ask_boot<Reply: DeserializeOwned>(
    hub: &Hub,
    (worker, boot): (&WorkerName, Boot),
    what: &str,
    body: &impl Serialize,
    patience: Duration,
) -> Result<Reply, Fault> {
    let subject = hub.config.root.worker_control(worker, boot, what);
    let payload: Bytes = serde_json::to_vec(body).map_err(|error| bug(&error))?.into();
    let request = Request::new().payload(payload).timeout(Some(patience));
    match hub.client.send_request(subject, request).await {
        Ok(message) => match agent::refusal(&message) {
            Some(error) => Err(Fault::Refused(error)),
            None => serde_json::from_slice(&message.payload).map_err(|error| bug(&error)),
        },
        Err(error) if error.kind() == RequestErrorKind::NoResponders => {
            hub.registry.unheard(worker, boot);
            Err(Fault::Unheard)
        }
        Err(_) => Err(Fault::Silent),
    }
}

async fn ask<Reply: DeserializeOwned>(
    hub: &Hub,
    lease: &WorkerLease,
    what: &str,
    body: &impl Serialize,
    call: &Call,
) -> Result<Reply, Fault> {
    ask_boot(hub, (&lease.worker, lease.boot), what, body, call.left()).await
}

fn bug(error: &serde_json::Error) -> Fault {
    Fault::Refused(error::bug(&format!("a worker was not understood: {error}")))
}

fn silent(message: &str) -> Error {
    Error::new(Reason::AckTimeout, message)
}
