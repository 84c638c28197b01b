//! Reading a session's log back.

use holdfast_protocol::SessionKey;

use crate::jetstream::Jetstream;
use crate::{StoreError, StoredFrame, read};

/// The frames behind `after`, up to and with the one at `until`; complete, whichever replica served it, because the caller's
/// own barrier stands at `until`.
pub(crate) async fn read(
    store: &Jetstream,
    key: &SessionKey,
    after: u64,
    until: u64,
) -> Result<Vec<StoredFrame>, StoreError> {
    let messages = read::range(&store.client, &store.stream, &store.root.log(key), after, until).await?;
    // A KV client's purge of the log leaves a message without a body, which is no frame.
    let frames = messages.into_iter().filter(|raw| !raw.is_marker());
    Ok(frames.map(|raw| StoredFrame { sequence: raw.sequence, value: raw.payload }).collect())
}
