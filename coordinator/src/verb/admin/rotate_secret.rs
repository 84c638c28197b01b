//! `admin.rotate_secret`: new tokens are derived from a new secret; old ones stay good until their lock ends, or are
//! revoked.
//!
//! Invariant: one request rotates once, however often it is sent and whichever coordinators get it: the stored secret
//! names the requests that rotated it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_protocol::act::Done;
use holdfast_protocol::reply::SecretRotated;
use holdfast_protocol::request::RotateSecret;
use holdfast_protocol::token::{OldTokens, Secret};
use holdfast_protocol::{Error, Reason};
use holdfast_store::{StoreError, fresh_secret};
use tokio::time::timeout_at;

use crate::acts::{self, Keeping};
use crate::context::Context;
use crate::error;
use crate::operation::{Incoming, Operation};
use crate::response::Response;
use crate::{revoke, secrets};

/// Rotates the secret.
pub(crate) async fn rotate(context: &Arc<Context>, incoming: &Incoming) -> Result<Response, Error> {
    let (request, operation) = incoming.parse::<RotateSecret>(&context.config.limits)?;
    let operation = operation.urgent();
    let old = if request.revoke == Some(true) { OldTokens::Revoke } else { OldTokens::Keep };
    let generation = stored(context, old, &operation).await?;
    let coordinators = secrets::tell(context).await;
    let (released, keeping) = match old {
        OldTokens::Keep => {
            let done = Done::Rotated { generation, revoke: false, released: Some(0) };
            (0, acts::begin(context, &done, &operation, &request.reason))
        }
        OldTokens::Revoke => freed(context, generation, &operation, request.reason).await?,
    };
    let unkept = keeping.wait(&operation).await;
    Ok(Response::of(&SecretRotated { generation, coordinators, released })?.unkept(unkept))
}

/// Stores a new secret, unless an earlier copy of this request did. Returns its generation.
async fn stored(context: &Context, old: OldTokens, operation: &Operation) -> Result<u64, Error> {
    let fault = |fault: &StoreError| error::storage_unavailable(&fault.to_string());
    loop {
        let why = match context.store.secret().await {
            Ok((revision, stored)) => {
                let unknown = || error::bug("the stored secret is not one of this version");
                let known = match stored {
                    Some(stored) => Secret::from_stored(&stored).ok_or_else(unknown)?,
                    None => context.secrets.now().as_ref().clone(),
                };
                if let Some(generation) = known.rotated_by(&operation.request_id) {
                    context.secrets.learn(known);
                    return Ok(generation);
                }
                let next = known.rotated(fresh_secret(), old, &operation.request_id);
                match context.store.put_secret(revision, next.to_stored().into()).await {
                    Ok(_) => {
                        let generation = next.generation();
                        context.secrets.learn(next);
                        return Ok(generation);
                    }
                    // Read back: another request may have been first, or this one may be stored.
                    Err(why) => why,
                }
            }
            Err(why) => why,
        };
        if matches!(why, StoreError::Refused(_)) || operation.left().is_zero() {
            return Err(match why {
                StoreError::Unknown(why) => Error::new(Reason::AckTimeout, format!("the secret may be rotated: {why}")),
                why => fault(&why),
            });
        }
        operation.pause().await;
    }
}

/// Frees the locks of earlier secrets, and begins to keep the act then. It goes on when this request's time is over.
async fn freed(
    context: &Arc<Context>,
    generation: u64,
    operation: &Operation,
    reason: String,
) -> Result<(u64, Keeping), Error> {
    let freed: Arc<AtomicU64> = Arc::default();
    let deadline = operation.deadline;
    let why = format!("the secret of tokens was rotated: {reason}");
    let all = revoke::all(context.clone(), operation.clone(), why.chars().take(256).collect(), freed.clone());
    let (context_of_act, operation, count) = (context.clone(), operation.clone(), freed.clone());
    let freeing = async move {
        let outcome = all.await;
        // The secret is rotated, whatever became of the locks.
        let released = outcome.is_ok().then(|| count.load(Ordering::Relaxed));
        let done = Done::Rotated { generation, revoke: true, released };
        let keeping = acts::begin(&context_of_act, &done, &operation, &reason);
        outcome.map(|()| keeping)
    };
    let task = context.tasks.spawn(context.abort.clone().run_until_cancelled_owned(freeing));
    match timeout_at(deadline, task).await {
        Ok(Ok(Some(outcome))) => outcome.map(|keeping| (freed.load(Ordering::Relaxed), keeping)),
        Ok(_) | Err(_) => {
            let message = "the secret is rotated, and locks of the old one are still being freed; ask again with the same \
                           request_id to see the end";
            Err(Error::new(Reason::AckTimeout, message).detail("released", freed.load(Ordering::Relaxed)))
        }
    }
}
