//! The receiving side of one subscription.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_nats::Message;
use async_trait::async_trait;
use futures_util::Stream;
use tokio::time::Sleep;

use super::Net;
use crate::wire::{Messages, WireError};

/// A subscription of a process. Dropping it ends it.
pub(super) struct Received {
    net: Net,
    id: u64,
    /// Until the next message arrives.
    arrival: Option<Pin<Box<Sleep>>>,
}

impl Received {
    pub(super) fn new(net: Net, id: u64) -> Self {
        Self { net, id, arrival: None }
    }
}

impl Stream for Received {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            let due = {
                let mut state = self.net.state();
                let state = &mut *state;
                // A dead process has no subscriptions, and waits for ever.
                let Some(subscribed) = state.interest.get_mut(self.id) else { return Poll::Pending };
                subscribed.waker = Some(context.waker().clone());
                if state.processes[subscribed.process].stands_still() {
                    return Poll::Pending;
                }
                match subscribed.take(tokio::time::Instant::now()) {
                    Ok(message) => return Poll::Ready(Some(message)),
                    Err(None) if subscribed.is_draining => return Poll::Ready(None),
                    Err(None) => return Poll::Pending,
                    Err(Some(due)) => due,
                }
            };
            let arrival = self.arrival.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if arrival.deadline() != due {
                arrival.as_mut().reset(due);
            }
            std::task::ready!(arrival.as_mut().poll(context));
            self.arrival = None;
        }
    }
}

#[async_trait]
impl Messages for Received {
    async fn drain(&mut self) -> Result<(), WireError> {
        self.net.state().interest.drain(self.id);
        Ok(())
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.net.state().interest.remove(self.id);
    }
}
