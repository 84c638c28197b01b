//! Explains a refusal: who holds the lock, since when and until when. Publishes the signal of the conflict.
//!
//! Invariant: an explanation informs people and tells clients when to ask again; no decision depends on it. The lease
//! of a lock runs on the clock of the agent, so only the agent can say how long it still runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::path::CanonicalPath;
use holdfast_protocol::record::Lock;
use holdfast_protocol::signal::{self, Happening, Signal};
use holdfast_protocol::{Error, Reason, SessionKey};
use holdfast_store::chance;
use holdfast_store::wire::Outgoing;
use tokio::time::Instant;

use crate::context::Context;
use crate::link;
use crate::operation::{Operation, now};
use crate::relay::is_kept;
use holdfast_records::Known;

/// How many conflict signals a session may have per second.
const SIGNALS_PER_SECOND: u32 = 10;

/// Completes a refusal that was decided on `known`, and publishes its signal.
pub(crate) async fn conflict(context: &Context, known: &Known, mut error: Error, operation: &Operation) -> Error {
    complete(context, known, &mut error).await;
    announce(context, known, &error, operation).await;
    error
}

/// Completes a refusal that was decided on `known`.
pub(crate) async fn complete(context: &Context, known: &Known, error: &mut Error) {
    if !is_about_a_lock(error) {
        return;
    }
    let Some(held) = &known.record.lock else { return };
    holdfast_rules::conflict::explain(error, held_for_ms(held), expires_in_ms(context, known, held).await);
}

/// How long `held`, the lock of `known`, lives without renewal; `None`: until it is released, or not known.
pub(crate) async fn expires_in_ms(context: &Context, known: &Known, held: &Lock) -> Option<u64> {
    let ttl_ms = held.ttl_ms?;
    match link::lease(context, known).await {
        Some(view) if view.lock_revision == held.revision => view.expires_in_ms,
        // The agent has not heard of this lock yet, so the countdown has not begun.
        Some(view) if view.lock_revision < held.revision => Some(ttl_ms),
        Some(_) | None => None,
    }
}

fn is_about_a_lock(error: &Error) -> bool {
    matches!(error.reason, Reason::LockHeld | Reason::StaleToken | Reason::LockMoved)
}

/// Compares this machine's clock with the clock of the coordinator that granted the lock: for people only.
pub(crate) fn held_for_ms(held: &Lock) -> Option<u64> {
    let since: jiff::Timestamp = held.acquired_at.parse().ok()?;
    let held_for = chance::now().duration_since(since).as_millis();
    Some(u64::try_from(held_for).unwrap_or(0))
}

/// Publishes `lock.conflict`. Best effort, because a conflict is not a commit.
async fn announce(context: &Context, known: &Known, error: &Error, operation: &Operation) {
    let key = known.record.key();
    if !is_about_a_lock(error) || !context.conflicts.may_announce(&key) {
        return;
    }
    let happening = signal::of_conflict(error, operation.actor.as_deref(), &operation.request_id);
    publish(context, known, happening.proven(operation.actor_proven.as_deref())).await;
}

/// Publishes `doc.failed` for a load or save that an agent refused. Best effort, like a conflict.
pub(crate) async fn failed(context: &Context, known: &Known, error: &Error, operation: &Operation) {
    if context.conflicts.may_announce(&known.record.key()) {
        let path = known.record.path.as_ref().map(CanonicalPath::as_str);
        let happening = signal::of_failure(error, path, operation.actor.as_deref(), &operation.request_id);
        publish(context, known, happening.proven(operation.actor_proven.as_deref())).await;
    }
}

async fn publish(context: &Context, known: &Known, happening: Happening) {
    let key = known.record.key();
    let Some((group, event)) = happening.name.split_once('.') else { return };
    let root = &context.config.root;
    let id = format!("{event}:{}", chance::id());
    let kept = is_kept(group).then(|| root.kept_signal(&key, group, event));
    let subjects = [root.signal(&key, group, event)].into_iter().chain(kept);
    let signal = Bytes::from(Signal::uncommitted(&key, id, known.revision, &now(), happening).to_json());
    for subject in subjects {
        if let Err(error) = context.wire.publish(Outgoing::to(subject, signal.clone())).await {
            tracing::debug!(%key, %error, "a refusal was not announced");
        }
    }
}

/// Token buckets, one per session with conflicts.
pub(crate) struct Conflicts(moka::sync::Cache<SessionKey, Arc<Mutex<Bucket>>>);

struct Bucket {
    left: u32,
    since: Instant,
}

impl Default for Conflicts {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(10_000).time_to_idle(Duration::from_secs(10)).build())
    }
}

impl Conflicts {
    fn may_announce(&self, key: &SessionKey) -> bool {
        let full = || Arc::new(Mutex::new(Bucket { left: SIGNALS_PER_SECOND, since: Instant::now() }));
        let bucket = self.0.get_with_by_ref(key, full);
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket.since.elapsed() >= Duration::from_secs(1) {
            *bucket = Bucket { left: SIGNALS_PER_SECOND, since: Instant::now() };
        }
        let may = bucket.left > 0;
        bucket.left = bucket.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::key;

    #[test]
    fn conflicts_are_announced_at_most_ten_times_a_second_and_session() {
        let conflicts = Conflicts::default();
        let announced = (0..100).filter(|_| conflicts.may_announce(&key("s1"))).count();
        assert_eq!(announced, 10);
        assert!(conflicts.may_announce(&key("s2")));
    }
}
