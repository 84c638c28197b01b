//! The agent and its session's record: learning of newer revisions, and writing its own.

use std::time::Duration;

use holdfast_protocol::error::Reason;
use holdfast_protocol::internal::LeaseView;
use holdfast_protocol::record::{Event, EventType, Urgency};
use holdfast_protocol::{Error, RequestId, Revision, SessionRecord};
use holdfast_store::StoreError;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Agent, Doubt, End, LockClock};

/// What the record says of this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It owns the session.
    Owner,
    /// It does not.
    Gone,
}

impl Agent {
    /// Takes a revision that is newer than the known one; older ones change nothing.
    pub(super) fn adopt(&mut self, record: SessionRecord, revision: Revision) -> Standing {
        if revision <= self.revision {
            return Standing::Owner;
        }
        // A hand edit may name another worker and leave the activation: then that one appends under the same fence.
        let is_same = record.owner.as_ref().is_some_and(|owner| owner.activation == self.activation);
        if !is_same || !record.is_owned_by(&self.core.config.name, self.core.boot) {
            return Standing::Gone;
        }
        if record.lock_revision != self.record.lock_revision {
            self.touch();
        }
        self.record = without_event(record);
        self.revision = revision;
        self.wind_lock_clock();
        Standing::Owner
    }

    /// Starts the countdown of a lock that it does not count yet, or whose lease was changed by hand; forgets that of a lock
    /// that is gone.
    pub(super) fn wind_lock_clock(&mut self) {
        let lease =
            self.record.lock.as_ref().and_then(|lock| Some((lock.revision, Duration::from_millis(lock.ttl_ms?))));
        self.lock_clock = lease.map(|(lock_revision, ttl)| match self.lock_clock {
            Some(clock) if (clock.lock_revision, clock.ttl) == (lock_revision, ttl) => clock,
            _ => LockClock { lock_revision, ttl, deadline: Instant::now() + ttl },
        });
    }

    /// The lock's holder gave a sign of life.
    pub(super) fn renew_lock_clock(&mut self) {
        if let Some(clock) = &mut self.lock_clock {
            clock.deadline = Instant::now() + clock.ttl;
        }
    }

    pub(super) fn lease_view(&self) -> LeaseView {
        let expires_in_ms = self.lock_clock.map(|clock| {
            u64::try_from(clock.deadline.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX)
        });
        LeaseView { lock_revision: self.record.lock_revision, expires_in_ms }
    }

    /// Reads the record from the leader and takes what it says.
    pub(super) async fn refresh(&mut self) -> Result<Standing, StoreError> {
        let stored = self.core.store.read(&self.key).await?;
        // A record that is gone, or broken by hand, or somebody else's: whoever routes the next request sees it too.
        let Some(stored) = stored else { return Ok(Standing::Gone) };
        let Some(json) = &stored.value else { return Ok(Standing::Gone) };
        // A hand edit may have brought back an owner from before somebody else wrote to the log.
        let by_hand = stored.write_id.is_none() && stored.revision > self.revision;
        match SessionRecord::from_json(json, &self.key) {
            Ok(record) => {
                if by_hand && self.doubt.is_none() {
                    self.doubt = Some(Doubt::Ahead);
                }
                Ok(self.adopt(record, stored.revision))
            }
            Err(error) => {
                tracing::warn!(session = %self.key, %error, "the record was broken under its agent");
                Ok(Standing::Gone)
            }
        }
    }

    /// As [`Agent::refresh`], for where losing the session ends the agent, and an absent store is somebody's error.
    pub(super) async fn refresh_or_end(&mut self) -> Result<Result<(), Error>, End> {
        match self.refresh().await {
            Ok(Standing::Owner) => Ok(Ok(())),
            Ok(Standing::Gone) => Err(End::Moved),
            Err(error) => Ok(Err(storage_unavailable(&error))),
        }
    }

    /// Writes the record on top of the known revision.
    pub(super) async fn write_record(&mut self, next: SessionRecord) -> Result<(), StoreError> {
        let behind = |mark| StoreError::Unavailable(format!("the record's change at {mark} is not announced yet"));
        let next = next.marked(self.revision, self.core.floor.get(), Urgency::Urgent).map_err(behind)?;
        let id = Uuid::now_v7().to_string();
        self.revision = self.core.store.commit(&self.key, self.revision, next.to_json().into(), id).await?;
        self.record = without_event(next);
        self.wind_lock_clock();
        Ok(())
    }

    /// An event of this agent's own making.
    pub(super) fn event(
        &self,
        kind: EventType,
        actor: Option<String>,
        reason: Option<String>,
        request_id: Option<RequestId>,
    ) -> Option<Event> {
        let previous_worker = Some(self.core.config.name.clone());
        Some(Event { kind, actor, reason, previous_owner: None, previous_worker, request_id, unheard: false })
    }

    /// The lock at `clock` was not renewed in time.
    pub(super) async fn expire_lock(&mut self, clock: LockClock) -> Result<(), End> {
        let retry = |agent: &mut Self| {
            if let Some(clock) = &mut agent.lock_clock {
                clock.deadline = Instant::now() + Duration::from_secs(1);
            }
        };
        let Some(next) = holdfast_protocol::lock::expire(&self.record, clock.lock_revision) else {
            self.lock_clock = None;
            return Ok(());
        };
        match self.write_record(next).await {
            Ok(()) => Ok(()),
            Err(StoreError::Moved { .. }) => match self.refresh().await {
                Ok(Standing::Owner) => Ok(()),
                Ok(Standing::Gone) => Err(End::Moved),
                Err(_) => {
                    retry(self);
                    Ok(())
                }
            },
            Err(error) => {
                tracing::warn!(session = %self.key, %error, "a lock that ran out could not be freed yet");
                retry(self);
                Ok(())
            }
        }
    }
}

/// Why a revision was written is of no use to an agent, and a hundred thousand of them would remember it.
pub(super) fn without_event(record: SessionRecord) -> SessionRecord {
    SessionRecord { event: None, ..record }
}

/// The store's answer as the client's.
pub(super) fn storage_unavailable(error: &StoreError) -> Error {
    match error {
        StoreError::Unknown(why) => Error::new(
            Reason::AckTimeout,
            format!("the change may or may not be there ({why}); ask again with the same request_id"),
        ),
        other => Error::new(Reason::StorageUnavailable, other.to_string()).retry_after_ms(Some(500)),
    }
}
