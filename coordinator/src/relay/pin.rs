//! Which coordinator relays.
//!
//! The server pins one client per consumer and names the pin in each message. The pin only divides the work and is no
//! lock: two relays at once announce some events twice.

use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_store::feed::FeedState;

use crate::context::Context;
use crate::relay::{CONSUMER, state};

/// The last pin that this coordinator had.
#[derive(Debug, Default)]
pub(crate) struct Pin(Mutex<Option<String>>);

impl Pin {
    fn id(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns the pin that arrived with messages.
    pub(super) fn see(&self, pin: Option<&str>) {
        let mut known = self.id();
        if pin.is_some() && known.as_deref() != pin {
            tracing::info!("this coordinator now relays");
            *known = pin.map(str::to_owned);
        }
    }

    /// Whether this coordinator relays.
    pub(crate) fn is_ours(&self, state: &FeedState) -> bool {
        state.pinned.is_some() && state.pinned == *self.id()
    }

    /// Whether no other coordinator relays.
    pub(crate) fn is_ours_or_nobodys(&self, state: &FeedState) -> bool {
        state.pinned.is_none() || state.pinned == *self.id()
    }

    /// Whether this coordinator does the work that one does for all. `None`: not known just now.
    pub(crate) async fn is_leading(&self, context: &Context) -> Option<bool> {
        match state(context).await {
            Ok(state) => Some(self.is_ours_or_nobodys(&state)),
            Err(error) => {
                tracing::debug!(%error, "cannot tell which coordinator relays");
                None
            }
        }
    }

    /// Releases the pin, if this coordinator has it, so that another one need not wait until it times out.
    pub(super) async fn release(&self, context: &Context) {
        let Some(ours) = self.id().take() else { return };
        let release = async {
            if state(context).await?.pinned == Some(ours) {
                context.feed.unpin(&CONSUMER).await.map_err(super::fault)?;
            }
            Ok::<_, super::RelayError>(())
        };
        if let Err(error) = release.await {
            tracing::info!(%error, "the relay's pin was not released; it will time out");
        }
    }
}
