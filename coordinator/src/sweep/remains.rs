//! What sessions leave that have ended: a closed record or a delete marker, and a log.
//!
//! Invariant: a clock only says when to try. The record is deleted by compare-and-set, so that one that was opened again
//! stays; and only what stands at or before the delete marker is purged.

use holdfast_protocol::SessionRecord;
use holdfast_protocol::record::State;
use holdfast_store::{StoreError, Stored, chance};
use jiff::Timestamp;

use crate::hub::Hub;

/// Whose remains may go.
pub(super) struct Remains {
    /// What ended up to then.
    until: Timestamp,
    /// What was announced.
    floor: u64,
}

impl Remains {
    /// As the servers' clock has it, on which records are dated; ours may go differently.
    pub(super) async fn of(hub: &Hub) -> Result<Self, StoreError> {
        let retention =
            jiff::SignedDuration::try_from(hub.config.closed_retention).unwrap_or(jiff::SignedDuration::MAX);
        let now = hub.store.clock().await?;
        Ok(Self { until: now.checked_sub(retention).unwrap_or(Timestamp::MIN), floor: hub.floor.get() })
    }

    /// Whether `stored`, which says `record` or is a delete marker, ended long enough ago, and was announced.
    pub(super) fn are_old(&self, stored: &Stored, record: Option<SessionRecord>) -> bool {
        let has_ended = record.is_none_or(|record| record.state == State::Closed);
        has_ended && stored.time <= self.until && stored.revision.0 <= self.floor
    }
}

/// Removes them, if nobody has opened the session again.
pub(super) async fn remove(hub: &Hub, stored: Stored) {
    let key = &stored.key;
    let removal = async {
        let marker = match stored.value {
            None => stored.revision,
            Some(_) => hub.store.delete(key, stored.revision, chance::id().to_string()).await?,
        };
        hub.store.purge(key, marker).await
    };
    match removal.await {
        Ok(()) => tracing::debug!(%key, "what a closed session left is removed"),
        Err(StoreError::Moved { .. }) => tracing::debug!(%key, "a closed session was opened again"),
        Err(error) => tracing::info!(%key, %error, "what a closed session left stays for the next sweep"),
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
