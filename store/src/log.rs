//! Reads a session's log back, from any replica.
//!
//! Invariant: a log's end is known once a replica that has the reader's own fence reports it, because nobody else can
//! append after that fence. A replica that has the last frame has all frames before it. So reading needs no write, and
//! failovers do not make a log longer.

use std::time::Duration;

use holdfast_protocol::SessionKey;
use tokio::time::Instant;

use crate::jetstream::Jetstream;
use crate::read::{Query, READ_TIMEOUT};
use crate::{StoreError, StoredFrame, read};

/// The sequence of the log's last frame, from a replica that has the stream up to `through`.
///
/// A batched get of the last message of subjects ends with the replica's last sequence at that moment
/// (`Nats-UpTo-Sequence`, `getDirectMulti` in server/stream.go, in 2.14.4 as in 2.15). Only the log's subject is asked
/// for at first: with the record's subject, which is recent, the server would walk from there back to the log, through
/// all blocks of a large stream. When nothing matches, the reply has no sequence; then the record is asked for too,
/// because it always exists.
pub(crate) async fn end(store: &Jetstream, key: &SessionKey, through: u64) -> Result<u64, StoreError> {
    let subjects = [store.root.log(key), store.root.record(key)];
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut asked = &subjects[..1];
    loop {
        let query = Query::LastOf { multi_last: asked, batch: asked.len() };
        let (messages, up_to) = read::batch_up_to(&store.client, &store.stream, &query).await?;
        if up_to.is_some_and(|up_to| up_to >= through) {
            return Ok(messages.iter().find(|raw| raw.subject == subjects[0]).map_or(0, |raw| raw.sequence));
        }
        if Instant::now() > deadline {
            return Err(StoreError::Unavailable(format!("no replica has sequence {through} yet")));
        }
        if up_to.is_none() && asked.len() == 1 {
            asked = &subjects;
        } else {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The frames after `after`, up to and including the one at `until`, which is the log's end.
pub(crate) async fn read(
    store: &Jetstream,
    key: &SessionKey,
    after: u64,
    until: u64,
) -> Result<Vec<StoredFrame>, StoreError> {
    let messages = read::range(&store.client, &store.stream, &store.root.log(key), after, until).await?;
    if messages.last().is_none_or(|last| last.sequence != until) {
        return Err(StoreError::Unavailable("the log was replaced while it was read".to_owned()));
    }
    // When a KV client purges the log, a message without a body stays, which is not a frame.
    let frames = messages.into_iter().filter(|raw| !raw.is_marker());
    Ok(frames.map(|raw| StoredFrame { sequence: raw.sequence, value: raw.payload }).collect())
}
