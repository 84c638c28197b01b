//! Asking a worker as a whole.

use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::internal::WorkerLease;
use holdfast_protocol::{Boot, Error, Reason, WorkerName};
use holdfast_store::wire::{Request, RequestError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::Call;
use crate::error;
use crate::hub::Hub;
use crate::link;

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
        Ok(message) => match link::refusal(&message) {
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

pub(crate) async fn ask<Reply: DeserializeOwned>(
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

pub(crate) fn silent(message: &str) -> Error {
    Error::new(Reason::AckTimeout, message)
}
