//! Dispatches a parsed subject to the function that answers it: `session.open` is in `verb/session/open.rs`, and so on.
//!
//! Deliberately absent: the verbs that an agent answers; `route` relays them without parsing.

use std::sync::Arc;

use holdfast_protocol::Error;
use holdfast_protocol::subject::{RequestSubject, Verb};

use crate::context::Context;
use crate::error;
use crate::operation::Incoming;
use crate::response::Response;
use crate::route;

mod admin;
pub(crate) mod lock;
pub(crate) mod session;
mod worker;

pub(crate) use lock::acquire::{Acquiring, acquire, begin as begin_acquire};

/// Answers one request. Not `lock.acquire`, which may wait: see [`begin_acquire`] and [`acquire()`].
///
/// # Errors
/// Those that the contract names for the verb.
pub(crate) async fn answer(
    context: &Arc<Context>,
    subject: RequestSubject,
    incoming: &Incoming,
) -> Result<Response, Error> {
    match &subject {
        RequestSubject::Session(verb, key) => match verb {
            Verb::SessionGet => session::get::get(context, key, incoming).await,
            Verb::LockValidate => lock::validate::validate(context, key, incoming).await,
            Verb::LockRelease => lock::release::release(context, key, incoming).await,
            Verb::AdminTakeover => admin::takeover::takeover(context, key, incoming).await,
            Verb::AdminUnlock => admin::unlock::unlock(context, key, incoming).await,
            Verb::AdminPreview => admin::preview::preview(context, key, incoming).await,
            Verb::AdminMove => admin::r#move::answer(context, key, incoming).await,
            verb if verb.is_relayed() => route::relay(context, *verb, key, incoming).await,
            verb => Err(not_answered(*verb)),
        },
        RequestSubject::Namespace(verb, namespace) => match verb {
            Verb::SessionOpen => session::open::open(context, namespace, incoming).await,
            Verb::SessionList => session::list::list(context, namespace, incoming).await,
            Verb::AdminReclaim => admin::reclaim::reclaim(context, namespace, incoming).await,
            verb => Err(not_answered(*verb)),
        },
        RequestSubject::Worker(verb, name) => match verb {
            Verb::WorkerDrain | Verb::WorkerUndrain => worker::drain::set_state(context, *verb, name, incoming).await,
            verb => Err(not_answered(*verb)),
        },
        RequestSubject::Fleet(Verb::AdminRotateSecret) => admin::rotate_secret::rotate(context, incoming).await,
        RequestSubject::Fleet(Verb::WorkerList) => worker::list::list(context, incoming).await,
        RequestSubject::Fleet(verb) => Err(not_answered(*verb)),
    }
}

/// A bug: `protocol` parses this verb with a target that no handler here takes.
fn not_answered(verb: Verb) -> Error {
    error::bug(&format!("{verb} is not answered for what its subject names"))
}
