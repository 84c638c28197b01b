//! `worker.drain` and `worker.undrain`.
//!
//! Invariant: what a worker confirmed is an act, also if it confirmed a late copy: the coordinator that got the first
//! copy may have ended before it kept the act. An answer that the store remembers was given after that.

use std::sync::Arc;

use holdfast_protocol::act::Done;
use holdfast_protocol::internal::{SetState, StateSet, control};
use holdfast_protocol::reply::{Drained, WorkerState};
use holdfast_protocol::request::Drain;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, Reason, WorkerName};

use crate::acts;
use crate::context::Context;
use crate::control::{Fault, ask, silent};
use crate::copies::Copies;
use crate::operation::Incoming;
use crate::response::Response;

/// Drains a worker, or lets it take sessions again.
pub(crate) async fn set_state(
    context: &Arc<Context>,
    verb: Verb,
    name: &WorkerName,
    incoming: &Incoming,
) -> Result<Response, Error> {
    let (request, operation) = incoming.parse::<Drain>(&context.config.limits)?;
    let state = if verb == Verb::WorkerDrain { WorkerState::Draining } else { WorkerState::Ready };
    let copies = Copies::of(&operation, &format!("{verb:?} {name}"));
    if let Some(drained) = copies.answer::<Drained>(context, &operation).await? {
        return Response::of(&drained);
    }
    let lease = context.fleet.find(name, operation.deadline).await?;
    let request_id = operation.by_caller.then(|| operation.request_id.clone());
    let reason = request.reason;
    let body = SetState {
        state,
        reason: reason.clone(),
        actor: operation.actor.clone(),
        actor_proven: operation.actor_proven.clone(),
        request_id,
    };
    let StateSet { drained, late } =
        ask(context, &lease, control::STATE, &body, &operation).await.map_err(|fault| match fault {
            Fault::Refused(error) => error,
            Fault::Unheard => Error::new(Reason::NoWorker, format!("worker {name} is not there any more")),
            Fault::Silent => silent(&format!("worker {name} did not answer in time; it may do so still")),
        })?;
    if !late {
        context.fleet.told(name, drained.state);
    }
    let (process, sessions_left) = (lease.process(), drained.sessions_left);
    let done = match verb {
        Verb::WorkerDrain => Done::Drained { process, sessions_left },
        _ => Done::Undrained { process, sessions_left },
    };
    let unkept = acts::begin(context, &done, &operation, &reason).wait(&operation).await;
    copies.keep(context, &drained).await;
    Ok(Response::of(&drained)?.unkept(unkept))
}
