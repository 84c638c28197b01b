//! A record as it was last seen.

use std::sync::Arc;

use holdfast_protocol::{Revision, SessionKey, SessionRecord};
use holdfast_rules::Past;
use holdfast_store::Stored;
use tokio::time::Instant;

/// A record with its revision, and the time since which it is known.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its revision.
    pub revision: Revision,
    /// The record.
    pub record: Arc<SessionRecord>,
    /// When the read or write that returned it began. It was the current revision at some moment after that.
    pub since: Instant,
}

impl Known {
    /// Whether it was current at some moment after `arrived`. Only then may a refusal or a plain answer rest on it.
    pub fn is_as_of(&self, arrived: Instant) -> bool {
        self.since >= arrived
    }
}

/// What is stored under a session's key.
#[derive(Clone, Debug)]
pub enum Found {
    /// A record. The session may be closed.
    Record(Known),
    /// No record, or a delete marker.
    Nothing {
        /// The key's revision; 0 if it never had one.
        revision: Revision,
    },
}

/// The past of the record of `key`, from its stored revisions, oldest first.
pub fn past_of(key: &SessionKey, history: &[Stored]) -> Past {
    let records = history.iter().filter_map(|stored| {
        let record = SessionRecord::from_json(stored.value.as_deref()?, key).ok()?;
        let event = record.event.clone().filter(|_| stored.write_id.is_some());
        Some(SessionRecord { event, ..record })
    });
    Past::new(records, history.last().map_or(Revision(0), |stored| stored.revision))
}
