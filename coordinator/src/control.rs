//! Sends requests to a worker process as a whole: drain, reclaim, resolve a path.
//!
//! Deliberately absent: messages to one session's agent (`link`).

use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Error, Process, Reason};
use holdfast_store::wire::{Request, RequestError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::error;
use crate::link;
use crate::operation::Operation;

/// Why a worker process gave no reply.
pub(crate) enum Fault {
    /// It answered with an error.
    Refused(Error),
    Unheard,
    Silent,
}

/// Sends the request `what` to `process` and waits for at most `patience`.
pub(crate) async fn ask_process<Reply: DeserializeOwned>(
    context: &Context,
    process: &Process,
    what: &str,
    body: &impl Serialize,
    patience: Duration,
) -> Result<Reply, Fault> {
    let subject = context.config.root.worker_control(&process.worker, process.boot, what);
    let payload: Bytes = serde_json::to_vec(body).map_err(|error| bug(&error))?.into();
    let request = Request { subject: subject.into(), headers: None, payload, timeout: patience };
    match context.wire.request(request).await {
        Ok(message) => match link::refusal(&message) {
            Some(error) => Err(Fault::Refused(error)),
            None => serde_json::from_slice(&message.payload).map_err(|error| bug(&error)),
        },
        Err(RequestError::NoResponders) => {
            context.fleet.unheard(process);
            Err(Fault::Unheard)
        }
        Err(_) => Err(Fault::Silent),
    }
}

pub(crate) async fn ask<Reply: DeserializeOwned>(
    context: &Context,
    lease: &WorkerLease,
    what: &str,
    body: &impl Serialize,
    operation: &Operation,
) -> Result<Reply, Fault> {
    ask_process(context, &lease.process(), what, body, operation.left()).await
}

fn bug(error: &serde_json::Error) -> Fault {
    Fault::Refused(error::bug(&format!("a worker's reply does not parse: {error}")))
}

pub(crate) fn silent(message: &str) -> Error {
    Error::new(Reason::AckTimeout, message)
}
