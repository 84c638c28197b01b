//! Removes what an ended session leaves: a closed record or a delete marker, and a log.
//!
//! Invariant: a clock only decides when to try. The record is deleted by compare-and-set, so a session that was opened
//! again stays. Only messages at or before the delete marker are purged.

use holdfast_protocol::SessionRecord;
use holdfast_protocol::record::State;
use holdfast_records::delete;
use holdfast_store::{StoreError, Stored};
use jiff::Timestamp;

use crate::context::Context;

/// Which remains may be removed.
pub(super) struct Remains {
    /// Those of sessions that ended at this time or before.
    until: Timestamp,
    /// The relay has announced everything up to this sequence.
    floor: u64,
}

impl Remains {
    /// Uses the servers' clock, which dates the records. This machine's clock may differ.
    pub(super) async fn of(context: &Context) -> Result<Self, StoreError> {
        let retention =
            jiff::SignedDuration::try_from(context.config.closed_retention).unwrap_or(jiff::SignedDuration::MAX);
        let now = context.store.clock().await?;
        Ok(Self { until: now.checked_sub(retention).unwrap_or(Timestamp::MIN), floor: context.floor.get() })
    }

    /// Whether `stored` ended long enough ago and was announced. It holds `record`, or is a delete marker.
    pub(super) fn are_old(&self, stored: &Stored, record: Option<SessionRecord>) -> bool {
        let has_ended = record.is_none_or(|record| record.state == State::Closed);
        has_ended && stored.time <= self.until && stored.revision.0 <= self.floor
    }
}

/// Removes the remains, unless the session was opened again.
pub(super) async fn remove(context: &Context, stored: Stored) {
    let key = &stored.key;
    let removal = async {
        let marker = match stored.value {
            None => stored.revision,
            Some(_) => delete(&*context.store, key, stored.revision).await?,
        };
        context.store.purge(key, marker).await
    };
    match removal.await {
        Ok(()) => tracing::debug!(%key, "removed the remains of a closed session"),
        Err(StoreError::Moved { .. }) => tracing::debug!(%key, "a closed session was opened again"),
        Err(error) => {
            tracing::info!(%key, %error, "the remains of a closed session were not removed; the next sweep retries")
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::Revision;

    use super::*;
    use crate::fixture;

    fn stored(record: Option<&SessionRecord>, second: i64, revision: u64) -> Stored {
        Stored {
            key: fixture::key("s1"),
            revision: Revision(revision),
            value: record.map(|record| record.to_json().into()),
            write_id: None,
            time: Timestamp::from_second(second).unwrap(),
        }
    }

    #[test]
    fn only_what_ended_long_ago_and_was_announced_goes() {
        let remains = Remains { until: Timestamp::from_second(1_000).unwrap(), floor: 50 };
        let (closed, passive, active) = (fixture::closed("s1"), fixture::passive("s1"), fixture::active("s1", "w1"));
        let table = [
            (Some(&closed), 1_000, 50, true, "a closed record"),
            (None, 1_000, 50, true, "a delete marker"),
            (Some(&closed), 1_001, 50, false, "ended a moment ago"),
            (None, 1_001, 50, false, "deleted a moment ago"),
            (Some(&closed), 1_000, 51, false, "not announced yet"),
            (None, 1_000, 51, false, "its deletion not announced yet"),
            (Some(&passive), 1, 1, false, "nobody has it, and it lives"),
            (Some(&active), 1, 1, false, "somebody has it"),
        ];
        for (record, second, revision, expected, why) in table {
            let stored = stored(record, second, revision);
            assert_eq!(remains.are_old(&stored, record.cloned()), expected, "{why}");
        }
    }
}
