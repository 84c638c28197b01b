//! Records in number: the revisions of one, and the last revisions of many.

use futures_util::TryStreamExt;
use holdfast_protocol::{Namespace, Revision, SessionKey};

use crate::jetstream::Jetstream;
use crate::read::{self, BATCH, Query};
use crate::{StoreError, Stored};

/// The stored revisions of `key`, oldest first.
pub(crate) async fn read(store: &Jetstream, key: &SessionKey) -> Result<Vec<Stored>, StoreError> {
    let subject = store.root.record(key);
    let Some(last) = read::last(&store.sessions, &subject).await? else { return Ok(Vec::new()) };
    let messages = read::range(&store.client, &store.stream, &subject, 0, last.sequence).await?;
    Ok(messages.into_iter().filter_map(|raw| store.stored(raw)).collect())
}

/// The revision that the write `id` made, if it landed.
pub(crate) async fn find(store: &Jetstream, key: &SessionKey, id: &str) -> Result<Option<Revision>, StoreError> {
    // Not to know this is not to know the outcome.
    let revisions = read(store, key).await.map_err(|error| StoreError::Unknown(error.to_string()))?;
    Ok(revisions.iter().find(|stored| stored.write_id.as_deref() == Some(id)).map(|stored| stored.revision))
}

/// The keys of all records, in order.
pub(crate) async fn keys(store: &Jetstream, namespace: Option<&Namespace>) -> Result<Vec<SessionKey>, StoreError> {
    let fault = |why: String| StoreError::Unavailable(format!("the records could not be listed: {why}"));
    let subjects = store
        .sessions
        .info_with_subjects(store.root.records(namespace))
        .await
        .map_err(|error| fault(error.to_string()))?;
    let found: Vec<(String, usize)> = subjects.try_collect().await.map_err(|error| fault(error.to_string()))?;
    let mut keys: Vec<SessionKey> = found.iter().filter_map(|(subject, _)| store.root.parse_record(subject)).collect();
    keys.sort_unstable();
    Ok(keys)
}

/// The last revisions of `keys`.
pub(crate) async fn read_many(store: &Jetstream, keys: &[SessionKey]) -> Result<Vec<Stored>, StoreError> {
    let mut found = Vec::with_capacity(keys.len());
    for chunk in keys.chunks(BATCH) {
        let subjects: Vec<String> = chunk.iter().map(|key| store.root.record(key)).collect();
        let query = Query::LastOf { multi_last: &subjects, batch: BATCH };
        let messages = read::batch(&store.client, &store.stream, &query).await?;
        found.extend(messages.into_iter().filter_map(|raw| store.stored(raw)));
    }
    Ok(found)
}
