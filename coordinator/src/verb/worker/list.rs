//! `worker.list`.

use holdfast_protocol::Error;
use holdfast_protocol::reply::WorkerList;
use holdfast_protocol::request::Empty;

use crate::answer::Answer;
use crate::call::Incoming;
use crate::hub::Hub;

/// Lists the live workers.
pub(crate) async fn list(hub: &Hub, incoming: &Incoming) -> Result<Answer, Error> {
    let (_, call) = incoming.parse::<Empty>(&hub.config.limits)?;
    hub.registry.refresh_or_explain(call.deadline).await?;
    Answer::of(&WorkerList { workers: hub.registry.live() })
}
