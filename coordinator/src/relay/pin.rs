//! Which coordinator's relay it is whose turn it is.
//!
//! The server pins one client per consumer and says so in each message. A pin decides who works, not who is right: two
//! relays at once announce some events twice.

use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_store::feed::FeedState;

use crate::context::Context;
use crate::relay::{CONSUMER, state};

/// The pin that this coordinator was last seen to have.
#[derive(Debug, Default)]
pub(crate) struct Pin(Mutex<Option<String>>);

impl Pin {
    fn id(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns the pin that came with messages.
    pub(super) fn see(&self, pin: Option<&str>) {
        let mut known = self.id();
        if pin.is_some() && known.as_deref() != pin {
            tracing::info!("this coordinator relays now");
            *known = pin.map(str::to_owned);
        }
    }

    /// Whether nobody else relays.
    pub(super) fn is_ours_or_nobodys(&self, state: &FeedState) -> bool {
        state.pinned.is_none() || state.pinned == *self.id()
    }

    /// Whether this coordinator is the one that does what one should do for all.
    /// `None`: not known just now.
    pub(crate) async fn is_leading(&self, context: &Context) -> Option<bool> {
        match state(context).await {
            Ok(state) => Some(self.is_ours_or_nobodys(&state)),
            Err(error) => {
                tracing::debug!(%error, "not known who relays");
                None
            }
        }
    }

    /// Gives the pin up, if this coordinator has it, so that another takes over before it would time out.
    pub(super) async fn release(&self, context: &Context) {
        let Some(ours) = self.id().take() else { return };
        let release = async {
            if state(context).await?.pinned == Some(ours) {
                context.feed.unpin(&CONSUMER).await.map_err(super::fault)?;
            }
            Ok::<_, super::RelayError>(())
        };
        if let Err(error) = release.await {
            tracing::info!(%error, "the relay's pin was not given up; it times out");
        }
    }
}
