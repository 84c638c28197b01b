//! `worker.drain` and `worker.undrain`.

use holdfast_protocol::internal::{SetState, StateSet, control};
use holdfast_protocol::reply::{Drained, WorkerState};
use holdfast_protocol::request::Drain;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Reason, WorkerName};

use crate::answer::Answer;
use crate::call::Incoming;
use crate::control::{Fault, ask, silent};
use crate::copies::Copies;
use crate::hub::Hub;

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
