//! Removing what a session left that ended long ago, and messages that only look like frames.
//!
//! Invariant: of a session, only what stands at or before the delete marker goes. Whoever opens the session again does
//! so behind it, and a zombie's late frame has an older fence than the marker; when the marker is gone too, its fence
//! is no sequence that the key can have again.

use async_nats::jetstream::stream::{State, Stream};
use holdfast_protocol::id::RESERVED_NAMESPACES;
use holdfast_protocol::{Namespace, Revision, SessionKey};
use jiff::Timestamp;

use crate::StoreError;
use crate::jetstream::Jetstream;
use crate::read;

/// The log first: without it, a new session that finds no record would read it as its own.
pub(crate) async fn session(store: &Jetstream, key: &SessionKey, marker: Revision) -> Result<(), StoreError> {
    until(&store.sessions, store.root.log(key), marker).await?;
    until(&store.sessions, store.root.record(key), marker).await
}

async fn until(stream: &Stream<()>, subject: String, last: Revision) -> Result<(), StoreError> {
    // The server keeps what stands at the sequence and behind it.
    let purged = stream.purge().filter(subject).sequence(last.0 + 1).await;
    purged.map(drop).map_err(|error| StoreError::Unavailable(format!("what is left could not be purged: {error}")))
}

/// Removes messages of logs that belong to no session: a reserved namespace has none, but whoever may publish requests
/// like `<root>.*.session.open` can store one under `<root>.log.session.open`. Returns from how many namespaces
/// something went.
///
/// A namespace that was reserved later may have sessions of before, so one that has any record stays as it is. What is
/// written after the look stays as well: a record that is not there yet has its frames behind the stream's end of now.
pub(crate) async fn strays(store: &Jetstream) -> Result<usize, StoreError> {
    let last = state(store).await?.last_sequence;
    let mut cleared = 0;
    for namespace in RESERVED_NAMESPACES {
        let Ok(namespace) = Namespace::parse(namespace) else { continue };
        let (logs, records) = (store.root.logs_of(&namespace), store.root.records(Some(&namespace)));
        let has_any = async |subject: &str| Ok(read::next_of_leader(&store.sessions, subject, 1).await?.is_some());
        if has_any(&logs).await? && !has_any(&records).await? {
            until(&store.sessions, logs, Revision(last)).await?;
            cleared += 1;
        }
    }
    Ok(cleared)
}

/// When the stream was last written to.
pub(crate) async fn clock(store: &Jetstream) -> Result<Timestamp, StoreError> {
    Ok(read::timestamp(state(store).await?.last_timestamp.unix_timestamp_nanos()))
}

/// The stream's state, from its leader.
pub(crate) async fn state(store: &Jetstream) -> Result<State, StoreError> {
    let info = store.sessions.get_info().await;
    Ok(info.map_err(|error| StoreError::Unavailable(format!("the stream's state is not known: {error}")))?.state)
}
