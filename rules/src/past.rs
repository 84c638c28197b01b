//! What earlier copies of a request did: a record's stored revisions remember `request_id`s.
//!
//! Invariant: a request that took effect takes no second effect while the bucket keeps the revision that it made (64
//! revisions), whichever coordinator is asked. A past answers only for the revisions that it covers: a past that lacks
//! a release or a close must not be asked about it.

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_protocol::record::{EventType, REVISIONS_KEPT, SessionRecord};
use holdfast_protocol::reply::{Grant, Released, TakenOver, Unlocked};
use holdfast_protocol::{RequestId, Revision};

use crate::Asked;
use crate::release::{is_handed_over_by, was_freed_by};

/// The stored revisions of one record, the latest last, complete up to [`Past::covers`].
#[derive(Clone, Debug)]
pub struct Past {
    records: VecDeque<Arc<SessionRecord>>,
    covers: Revision,
}

impl Past {
    /// A past of stored revisions, oldest first and complete up to `covers`. Revisions that do not parse must be left
    /// out. Hand edits must come without an event: the event in them is mostly a copy of the one before.
    pub fn new(records: impl IntoIterator<Item = SessionRecord>, covers: Revision) -> Self {
        Self { records: records.into_iter().map(Arc::new).collect(), covers }
    }

    /// The revision up to which it is complete.
    pub fn covers(&self) -> Revision {
        self.covers
    }

    /// The number of its revisions.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds `record`, which was written at `revision` on top of the last covered revision.
    pub fn push(&mut self, revision: Revision, record: Arc<SessionRecord>) {
        self.records.push_back(record);
        self.covers = revision;
        if self.records.len() > REVISIONS_KEPT as usize {
            self.records.pop_front();
        }
    }

    fn all(&self) -> impl DoubleEndedIterator<Item = &SessionRecord> {
        self.records.iter().map(|record| &**record)
    }

    /// The latest revision that `request_id` made with one of the events `kinds`.
    pub fn made_by(&self, request_id: &RequestId, kinds: &[EventType]) -> Option<&SessionRecord> {
        self.all().rev().find(|record| is_made_by(record, request_id, kinds))
    }

    /// The first record of the session that `request_id` opened, unless its worker refused it.
    pub fn opened_by(&self, request_id: &RequestId) -> Option<&SessionRecord> {
        let opened = self.made_by(request_id, &[EventType::SessionOpened])?;
        let is_its_end =
            |record: &&SessionRecord| record.log_after == opened.log_after && is_closed_by(record, request_id);
        self.all().find(is_its_end).is_none().then_some(opened)
    }

    /// Whether `request_id` closed a session of this id: the current one or an earlier one.
    pub fn was_closed_by(&self, request_id: &RequestId) -> bool {
        self.all().any(|record| is_closed_by(record, request_id))
    }

    /// The grant that this request got, unless it was taken back.
    pub fn grant(&self, asked: &Asked<'_>) -> Option<Grant> {
        let granted = self.made_by(asked.request_id, &[EventType::LockAcquired, EventType::LockRotated])?;
        let is_its_end =
            |record: &SessionRecord| record.log_after == granted.log_after && record.took_back(granted.lock_revision);
        if self.all().any(is_its_end) { None } else { asked.regrant(granted) }
    }

    /// The answer to this takeover.
    pub fn takeover(&self, asked: &Asked<'_>) -> Option<TakenOver> {
        let record = self.made_by(asked.request_id, &[EventType::LockTakenOver])?;
        let event = record.event.as_ref()?;
        Some(TakenOver {
            grant: asked.regrant(record)?,
            previous_owner: event.previous_owner.clone(),
            reason: event.reason.clone().unwrap_or_default(),
        })
    }

    /// The answer to this release.
    pub fn release(&self, request_id: &RequestId) -> Option<Released> {
        was_freed_by(self.made_by(request_id, &[EventType::LockReleased])?, request_id, EventType::LockReleased)
    }

    /// The answer to this unlock.
    pub fn unlock(&self, request_id: &RequestId) -> Option<Unlocked> {
        let record = self.made_by(request_id, &[EventType::LockReleased])?;
        let released = was_freed_by(record, request_id, EventType::LockReleased)?;
        Some(Unlocked { released, previous_owner: record.event.as_ref()?.holder_before().map(str::to_owned) })
    }
}

/// Whether `request_id` made this revision of a record with one of the events `kinds`.
pub fn is_made_by(record: &SessionRecord, request_id: &RequestId, kinds: &[EventType]) -> bool {
    record.event.as_ref().is_some_and(|event| {
        let is_event = event.request_id.as_ref() == Some(request_id) && kinds.contains(&event.kind);
        is_event || kinds.iter().any(|kind| is_handed_over_by(event, request_id, *kind))
    })
}

fn is_closed_by(record: &SessionRecord, request_id: &RequestId) -> bool {
    is_made_by(record, request_id, &[EventType::SessionClosed])
}
