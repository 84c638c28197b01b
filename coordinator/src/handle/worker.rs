//! `worker.list`, `worker.drain`, `worker.undrain` and `admin.reclaim`: what is asked of workers as a whole.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_protocol::internal::{ReclaimIdle, ReclaimedIdle, SetState, StateSet, WorkerLease, control};
use holdfast_protocol::reply::{Drained, Reclaimed, WorkerList, WorkerState};
use holdfast_protocol::request::{Drain, Empty, Reclaim};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Boot, Error, Namespace, Reason, SessionId, WorkerName};
use holdfast_store::StoreError;
use holdfast_store::wire::{Request, RequestError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout_at;

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
    let copies = Copies::of(&call, &format!("{verb:?} {name}"));
    if let Some(drained) = copies.answer::<Drained>(hub, &call).await? {
        return Answer::of(&drained);
    }
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
    copies.keep(hub, &drained).await;
    Answer::of(&drained)
}

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

/// Answers with more bytes are not remembered.
const REMEMBERED_BYTES: usize = 512 * 1024;

/// The late copies of a request to workers: other processes than those that the first one reached must not act on them.
struct Copies(Option<String>);

impl Copies {
    /// `what` tells apart what one request id may be used for.
    fn of(call: &Call, what: &str) -> Self {
        let named = || blake3::hash(format!("{what} {}", call.request_id).as_bytes()).to_hex().to_string();
        Self(call.by_caller.then(named))
    }

    /// What the first one was answered.
    async fn answer<Reply: DeserializeOwned>(&self, hub: &Hub, call: &Call) -> Result<Option<Reply>, Error> {
        let Some(request) = &self.0 else { return Ok(None) };
        let late = |_| Err(StoreError::Unavailable("earlier answers were not read in time".to_owned()));
        let found = timeout_at(call.deadline, hub.store.answered(request)).await.unwrap_or_else(late);
        let found = found.map_err(|error| error::storage_unavailable(&error.to_string()))?;
        Ok(found.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    async fn keep<Reply: Serialize>(&self, hub: &Hub, reply: &Reply) {
        let (Some(request), Ok(json)) = (&self.0, serde_json::to_vec(reply)) else { return };
        if json.len() > REMEMBERED_BYTES {
            return;
        }
        if let Err(error) = hub.store.remember_answer(request, json.into()).await {
            // What was asked for is done, so that this is no reason to refuse it.
            tracing::warn!(%error, "an answer is not remembered; a late copy of its request may act again");
        }
    }
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
    let request = Request { subject: subject.into(), headers: None, payload, timeout: patience };
    match hub.wire.request(request).await {
        Ok(message) => match agent::refusal(&message) {
            Some(error) => Err(Fault::Refused(error)),
            None => serde_json::from_slice(&message.payload).map_err(|error| bug(&error)),
        },
        Err(RequestError::NoResponders) => {
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
