//! `worker.list`.

use holdfast_protocol::Error;
use holdfast_protocol::reply::WorkerList;
use holdfast_protocol::request::Empty;

use crate::context::Context;
use crate::operation::Incoming;
use crate::response::Response;

/// Lists the live workers.
pub(crate) async fn list(context: &Context, incoming: &Incoming) -> Result<Response, Error> {
    let (_, operation) = incoming.parse::<Empty>(&context.config.limits)?;
    context.fleet.refresh_or_explain(operation.deadline).await?;
    Response::of(&WorkerList { workers: context.fleet.live() })
}
