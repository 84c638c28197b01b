//! Frees the locks that were granted under a secret that was revoked.
//!
//! The request that rotates walks all records. What a walk may miss is found later: the sweep looks at every record,
//! and the relay at each new revision, such as the first record of a session that a coordinator with an old secret
//! opened.
//!
//! Invariant: the record decides, by compare-and-set. A lock that is freed here fences its holder at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use holdfast_protocol::{Error, SessionKey, SessionRecord};
use holdfast_records::{Change, Known, NotDone, Wrote, change};
use holdfast_rules::{Decision, revoke};
use holdfast_store::{Page, StoreError, Walk};
use tokio::time::Instant;

use crate::context::Context;
use crate::error;
use crate::operation::Operation;
use crate::writer::Writer;

/// About how many messages of the stream one stretch covers.
const CHUNK: usize = 250;
/// How many records are written at once.
const SIDE_BY_SIDE: usize = 16;
/// How many times one record is attempted.
const TRIES: u32 = 20;
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(250);
/// Longer than any operation may take.
const NO_END: Duration = Duration::from_secs(3600);

/// Whether a lock of this record was revoked and is still there, or a coordinator with an old secret could grant one.
pub(crate) fn is_due(context: &Context, record: &SessionRecord) -> bool {
    revoke::is_due(record, context.secrets.now().revoked_below())
}

/// Brings all records to the current generation, in the name of `operation`. Counts the locks that it frees in `freed`.
pub(crate) async fn all(
    context: Arc<Context>,
    operation: Operation,
    reason: String,
    freed: Arc<AtomicU64>,
) -> Result<(), Error> {
    let fault = |fault: StoreError| error::storage_unavailable(&fault.to_string());
    let (mut after, until) = (0, context.store.last().await.map_err(fault)?);
    while after < until {
        let walk = Walk { namespace: None, after, until, most: CHUNK };
        let Page { records, looked_until } = context.store.page(&walk).await.map_err(fault)?;
        after = looked_until;
        let due = records.into_iter().filter_map(|found| {
            let record = SessionRecord::from_json(found.stored.value.as_deref()?, &found.stored.key).ok()?;
            is_due(&context, &record).then_some(found.stored.key)
        });
        let mut done = stream::iter(due)
            .map(|key| {
                let (context, operation, reason) = (&context, &operation, &reason);
                async move { one(context, &key, operation, reason).await }
            })
            .buffer_unordered(SIDE_BY_SIDE);
        while let Some(outcome) = done.next().await {
            if outcome? {
                freed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// Brings one record to the current generation, in nobody's name.
pub(crate) async fn found(context: &Context, key: &SessionKey) {
    let operation = Operation::own(context.config.request_timeout).urgent();
    if let Err(error) = one(context, key, &operation, "the secret of tokens was rotated").await {
        tracing::warn!(%key, %error, "a lock of a revoked secret was not freed yet");
    }
}

/// Returns whether a lock was freed.
async fn one(context: &Context, key: &SessionKey, operation: &Operation, reason: &str) -> Result<bool, Error> {
    let revoking = Revoking { generation: context.secrets.now().revoked_below(), reason };
    let mut tries = 0;
    loop {
        let operation = operation.again(Instant::now() + NO_END);
        match change(&mut Writer::new(context, key, &operation), &revoking).await {
            Ok(done) => return Ok(done.wrote != Wrote::Nothing && done.reply),
            Err(not_done) => {
                let is_final = matches!(not_done, NotDone::Refused(..));
                let error = error::of_not_done(not_done, key);
                tries += 1;
                if is_final || !error.retryable || tries >= TRIES {
                    return Err(error);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

struct Revoking<'a> {
    generation: u64,
    reason: &'a str,
}

impl Change<Writer<'_>> for Revoking<'_> {
    /// Whether a lock was freed.
    type Reply = bool;

    async fn decide(&self, writer: &Writer<'_>, known: &Known) -> Result<Decision<bool>, Error> {
        let author = writer.operation.author(Some(self.reason));
        Ok(match revoke::revoked(&known.record, self.generation, author) {
            Some(next) => Decision::Commit { next: Box::new(next), reply: known.record.lock.is_some() },
            None => Decision::Unchanged(false),
        })
    }
}
