//! Removes the remains of sessions that ended long ago, and messages that only look like frames.
//!
//! Invariant: of a session, only messages at or before the delete marker are removed. A session that is opened again is
//! written after the marker. A zombie's late frame has an older fence than the marker and is refused; after the marker
//! is gone too, the key can never have that fence's revision again.

use async_nats::jetstream::stream::{State, Stream};
use holdfast_protocol::id::RESERVED_NAMESPACES;
use holdfast_protocol::{Namespace, Revision, SessionKey};
use jiff::Timestamp;

use crate::StoreError;
use crate::jetstream::Jetstream;
use crate::read;

/// Removes a session. The log goes first: if the record went first, a new session would read the old log as its own.
pub(crate) async fn session(store: &Jetstream, key: &SessionKey, marker: Revision) -> Result<(), StoreError> {
    until(&store.sessions, store.root.log(key), marker).await?;
    until(&store.sessions, store.root.record(key), marker).await
}

async fn until(stream: &Stream<()>, subject: String, last: Revision) -> Result<(), StoreError> {
    // The server keeps the message at the sequence and later ones.
    let purged = stream.purge().filter(subject).sequence(last.0 + 1).await;
    purged.map(drop).map_err(|error| StoreError::Unavailable(format!("what is left could not be purged: {error}")))
}

/// Removes messages in logs of reserved namespaces, which have no sessions: a client that may publish requests like
/// `<root>.*.session.open` can store a message under `<root>.log.session.open`. Returns the number of namespaces from
/// which something was removed.
///
/// A namespace that was reserved later may have older sessions, so a namespace that has any record is left alone.
/// Messages that are written after the check stay too: the frames of a record that does not exist yet come after the
/// stream's current end.
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
