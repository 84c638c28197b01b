//! Which coordinator's relay it is whose turn it is.
//!
//! The server pins one client per consumer and says so in each message. A pin decides who works, not who is right: two
//! relays at once announce some events twice.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::jetstream;
use async_nats::jetstream::consumer::Info;

use crate::hub::Hub;
use crate::relay::{CONSUMER, GROUP, info, stream};

const PIN_ID: &str = "Nats-Pin-Id";

/// The pin that this coordinator was last seen to have.
#[derive(Debug, Default)]
pub(crate) struct Pin(Mutex<Option<String>>);

impl Pin {
    fn id(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns the pin that came with messages.
    pub(super) fn see(&self, messages: &[jetstream::Message]) {
        let Some(headers) = messages.last().and_then(|message| message.headers.as_ref()) else { return };
        let Some(id) = headers.get_last(PIN_ID) else { return };
        let mut known = self.id();
        if known.as_deref() != Some(id.as_str()) {
            tracing::info!("this coordinator relays now");
            *known = Some(id.as_str().to_owned());
        }
    }

    /// Whether nobody else relays.
    pub(super) fn is_ours_or_nobodys(&self, info: &Info) -> bool {
        let pinned = pinned(info);
        pinned.is_none() || pinned == self.id().as_deref()
    }

    /// Whether this coordinator is the one that does what one should do for all.
    /// `None`: not known just now.
    pub(crate) async fn is_leading(&self, hub: &Hub) -> Option<bool> {
        match info(hub).await {
            Ok(info) => Some(self.is_ours_or_nobodys(&info)),
            Err(error) => {
                tracing::debug!(%error, "not known who relays");
                None
            }
        }
    }

    /// Gives the pin up, if this coordinator has it, so that another takes over before it would time out.
    pub(super) async fn release(&self, hub: &Hub) {
        let Some(ours) = self.id().take() else { return };
        let release = async {
            let info = info(hub).await?;
            if pinned(&info) == Some(&ours) {
                let stream = stream(hub).await?;
                stream.unpin_consumer(CONSUMER, GROUP).await.map_err(super::fault)?;
            }
            Ok::<_, super::RelayError>(())
        };
        if let Err(error) = release.await {
            tracing::info!(%error, "the relay's pin was not given up; it times out");
        }
    }
}

fn pinned(info: &Info) -> Option<&str> {
    let group = info.priority_groups.iter().find(|group| group.group == GROUP)?;
    group.pinned_client_id.as_deref().filter(|id| !id.is_empty())
}
