//! The agent and its session's record: learning of newer revisions, and writing its own.
//!
//! Invariant: no change of a record runs ahead of the relay by more than the record's past keeps, and a leader that is
//! behind is asked again with pauses, up to a deadline.

use std::num::NonZeroU64;
use std::time::Duration;

use holdfast_protocol::error::Reason;
use holdfast_protocol::internal::LeaseView;
use holdfast_protocol::record::{Event, EventType, State, Urgency};
use holdfast_protocol::{Error, RequestId, Revision, SessionRecord};
use holdfast_store::{LEASE_TTL, StoreError, chance};
use tokio::time::Instant;

use super::{Agent, Doubt, End, LockClock};
use crate::pulse::READ_FIRST;

/// How long a change waits for the relay. An idle one says every 2 s how far it is, which is how a worker that has just
/// started hears of it.
const RELAY_TIMEOUT: Duration = Duration::from_millis(2500);
/// How often it is looked whether the relay has come far enough.
const RELAY_LOOK: Duration = Duration::from_millis(5);
/// The bounds of the pause before a leader that is behind is asked again.
const BEHIND: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// When a lock that could not be freed is tried again.
const EXPIRE_AGAIN: Duration = Duration::from_secs(1);

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
            // Whoever still waits is told that the session is over, and not to look for the next one.
            if record.state == State::Closed && record.log_after == self.record.log_after {
                (self.record, self.revision) = (without_event(record), revision);
            }
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
            _ => LockClock { lock_revision, ttl, deadline: Instant::now() + ttl, is_extended: false },
        });
        self.show();
    }

    /// Tells the supervisor how record and clock stand.
    fn show(&self) {
        let deadline_ms = self.lock_clock.map(|clock| self.core.ms_at(clock.deadline));
        self.status.show(&self.record, self.revision, deadline_ms);
    }

    /// The lock's holder gave a sign of life.
    pub(super) fn renew_lock_clock(&mut self) {
        if let Some(clock) = &mut self.lock_clock {
            clock.deadline = Instant::now() + clock.ttl;
            clock.is_extended = false;
            self.show();
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
        let sent_ms = self.core.now_ms();
        let known = self.revision;
        let (standing, read) = self.read_record().await?;
        // A leader that is behind what is known here proves nothing.
        if standing == Standing::Owner && read >= known {
            self.proven(sent_ms);
        }
        Ok(standing)
    }

    /// What was asked at `sent_ms` proved that this agent owns the session.
    pub(super) fn proven(&mut self, sent_ms: u64) {
        self.proven_ms = self.proven_ms.max(NonZeroU64::new(sent_ms.max(1)));
    }

    /// Whether the last proof is recent enough for a read that may be behind by one lease.
    pub(super) fn is_proven(&self) -> bool {
        let lease_ms = u64::try_from(LEASE_TTL.as_millis()).unwrap_or(u64::MAX);
        self.proven_ms.is_some_and(|proven| self.core.now_ms().saturating_sub(proven.get()) < lease_ms)
    }

    /// After a refusal under `fence`: reads the record until it has moved past it, or the state is to be built again.
    pub(super) async fn catch_up_past(&mut self, fence: Revision) -> Result<Result<(), StoreError>, End> {
        let deadline = Instant::now() + self.core.config.recover_timeout;
        let mut pause = BEHIND.0;
        loop {
            match self.refresh().await {
                Ok(Standing::Gone) => return Err(self.gone()),
                Ok(Standing::Owner) if self.doubt.is_some() || self.revision > fence => return Ok(Ok(())),
                // Refused under a fence that the leader says is the last: it is behind.
                Ok(Standing::Owner) if Instant::now() + pause < deadline => {}
                Ok(Standing::Owner) => {
                    let why =
                        format!("the record has moved past revision {fence}, and its leader does not show it yet");
                    return Ok(Err(StoreError::Unavailable(why)));
                }
                Err(error) => return Ok(Err(error)),
            }
            tokio::time::sleep(pause.mul_f64(self.spread())).await;
            pause = (pause * 2).min(BEHIND.1);
        }
    }

    /// Between 0.5 and 1.5: sessions that lost the storage at the same moment do not come back to it at the same
    /// moment.
    pub(super) fn spread(&self) -> f64 {
        0.5 + f64::from(self.activation.0.as_bytes()[15]) / 256.0
    }

    async fn read_record(&mut self) -> Result<(Standing, Revision), StoreError> {
        let stored = self.core.store.read(&self.key).await?;
        // A record that is gone, or broken by hand, or somebody else's: whoever routes the next request sees it too.
        let gone = |revision| Ok((Standing::Gone, revision));
        let Some(stored) = stored else { return gone(Revision(0)) };
        let Some(json) = &stored.value else { return gone(stored.revision) };
        // A hand edit may have brought back an owner from before somebody else wrote to the log.
        let by_hand = stored.write_id.is_none() && stored.revision > self.revision;
        match SessionRecord::from_json(json, &self.key) {
            Ok(record) => {
                if by_hand && self.doubt.is_none() {
                    self.doubt = Some(Doubt::Ahead);
                }
                Ok((self.adopt(record, stored.revision), stored.revision))
            }
            Err(error) => {
                tracing::warn!(session = %self.key, %error, "the record was broken under its agent");
                gone(stored.revision)
            }
        }
    }

    /// As [`Agent::refresh`], for where losing the session ends the agent, and an absent store is somebody's error.
    pub(super) async fn refresh_or_end(&mut self) -> Result<Result<(), Error>, End> {
        match self.refresh().await {
            Ok(Standing::Owner) => Ok(Ok(())),
            Ok(Standing::Gone) => Err(self.gone()),
            Err(error) => Ok(Err(storage_unavailable(&error))),
        }
    }

    /// Waits until the relay has come far enough for one more change of the record that is not urgent.
    pub(super) async fn keep_pace(&self) -> Result<(), Error> {
        let floor = &self.core.floor;
        let Err(awaited) = self.record.clone().marked(self.revision, floor.get(), Urgency::Ordinary) else {
            return Ok(());
        };
        let deadline = Instant::now() + RELAY_TIMEOUT;
        while floor.get() < awaited.0 {
            if Instant::now() > deadline {
                let message = format!("changes of session {} are faster than their signals", self.key.id);
                return Err(Error::new(Reason::MailboxFull, message).retry_after_ms(Some(500)));
            }
            tokio::time::sleep(RELAY_LOOK).await;
        }
        Ok(())
    }

    /// Writes the record on top of the known revision. What is not urgent has kept pace with the relay before.
    pub(super) async fn write_record(&mut self, next: SessionRecord, urgency: Urgency) -> Result<(), StoreError> {
        let behind = |mark| StoreError::Unavailable(format!("the record's change at {mark} is not announced yet"));
        let next = next.marked(self.revision, self.core.floor.get(), urgency).map_err(behind)?;
        let (id, sent_ms) = (chance::id().to_string(), self.core.now_ms());
        self.revision = self.core.store.commit(&self.key, self.revision, next.to_json().into(), id).await?;
        self.record = without_event(next);
        self.proven(sent_ms);
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

    /// The lock at `clock` was not renewed in time, as far as this process could read.
    pub(super) async fn run_out(&mut self, clock: LockClock) -> Result<(), End> {
        if clock.is_extended || !self.core.pulse.stood_still(self.core.now_ms()) {
            return self.expire_lock(clock).await;
        }
        self.lock_clock = Some(LockClock { deadline: Instant::now() + READ_FIRST, is_extended: true, ..clock });
        self.show();
        Ok(())
    }

    /// The lock at `clock` was not renewed in time.
    async fn expire_lock(&mut self, clock: LockClock) -> Result<(), End> {
        let Some(next) = holdfast_protocol::lock::expire(&self.record, clock.lock_revision) else {
            self.lock_clock = None;
            self.show();
            return Ok(());
        };
        let fence = self.revision;
        let error = match self.write_record(next, Urgency::Urgent).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if matches!(error, StoreError::Moved { .. }) {
            match self.refresh().await {
                Ok(Standing::Owner) if self.revision > fence => return Ok(()),
                Ok(Standing::Gone) => return Err(self.gone()),
                // A leader that is behind, or away.
                Ok(Standing::Owner) | Err(_) => {}
            }
        } else {
            tracing::warn!(session = %self.key, %error, "a lock that ran out could not be freed yet");
        }
        if let Some(clock) = &mut self.lock_clock {
            clock.deadline = Instant::now() + EXPIRE_AGAIN;
        }
        self.show();
        Ok(())
    }
}

/// Why a revision was written is of no use to an agent, and a hundred thousand of them would remember it.
pub(super) fn without_event(record: SessionRecord) -> SessionRecord {
    SessionRecord { event: None, ..record }
}

/// The store's answer as the client's.
pub(super) fn storage_unavailable(error: &StoreError) -> Error {
    error.to_error()
}
