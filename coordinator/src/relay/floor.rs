//! The relay's progress (the floor): published by the relay, and read from the consumer when no message arrives.

use std::sync::Arc;

use futures_util::StreamExt;
use holdfast_protocol::internal::RelayFloor;
use holdfast_store::wire::{Outgoing, Subscription};

use crate::context::Context;
use crate::relay::state;

/// Publishes that everything up to `floor` was announced.
pub(super) async fn publish(context: &Context, floor: u64) {
    context.floor.advance(floor);
    let body = serde_json::to_vec(&RelayFloor { floor }).expect("a number is JSON");
    if let Err(error) = context.wire.publish(Outgoing::to(context.config.root.relay_floor(), body)).await {
        tracing::debug!(%error, "the relay's progress was not published");
    }
}

/// Reads the floor from the consumer.
pub(crate) async fn learn_floor(context: &Context) {
    match state(context).await {
        Ok(state) => context.floor.advance(state.acknowledged),
        Err(error) => tracing::debug!(%error, "the relay's progress was not read"),
    }
}

/// Follows the published floor, whichever coordinator relays.
pub(crate) async fn follow_floor(context: Arc<Context>, mut said: Subscription) {
    while let Some(message) = said.next().await {
        match serde_json::from_slice::<RelayFloor>(&message.payload) {
            Ok(RelayFloor { floor }) => context.floor.advance(floor),
            Err(error) => tracing::warn!(%error, "the relay's progress does not parse"),
        }
    }
}
