//! Reading a session's log back, from whichever replica answers.
//!
//! Invariant: a log is complete once its end was told by a replica that has the reader's own fence, because nobody else can
//! append behind that; and every replica that has the last frame has all before it. So reading needs no write, and no number
//! of failovers makes a log longer.

use std::time::Duration;

use holdfast_protocol::{Revision, SessionKey};
use tokio::time::Instant;

use crate::jetstream::Jetstream;
use crate::read::{Query, READ_TIMEOUT};
use crate::{LogEnd, StoreError, StoredFrame, read};

/// The end of the log, on a replica that has the stream up to `through`.
///
/// One batched get asks for the last messages of record and log together, under the replica's lock; its end says how far that
/// replica has come (`Nats-UpTo-Sequence`, `getDirectMulti` in server/stream.go, in 2.14.4 as in 2.15).
pub(crate) async fn end(store: &Jetstream, key: &SessionKey, through: u64) -> Result<LogEnd, StoreError> {
    let subjects = [store.root.record(key), store.root.log(key)];
    let query = Query::LastOf { multi_last: &subjects, batch: subjects.len() };
    let deadline = Instant::now() + READ_TIMEOUT;
    loop {
        let (messages, up_to) = read::batch_up_to(&store.client, &store.stream, &query).await?;
        if up_to.is_some_and(|up_to| up_to >= through) {
            let last = |subject: &str| messages.iter().find(|raw| raw.subject == subject).map_or(0, |raw| raw.sequence);
            return Ok(LogEnd { record: Revision(last(&subjects[0])), last: last(&subjects[1]) });
        }
        if Instant::now() > deadline {
            return Err(StoreError::Unavailable(format!("no replica has sequence {through} yet")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The frames behind `after`, up to and with the one at `until`, which is the log's end.
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
    // A KV client's purge of the log leaves a message without a body, which is no frame.
    let frames = messages.into_iter().filter(|raw| !raw.is_marker());
    Ok(frames.map(|raw| StoredFrame { sequence: raw.sequence, value: raw.payload }).collect())
}
