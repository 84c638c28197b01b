//! The agent and its session's record: learning of newer revisions, and the lease of its lock.
//!
//! Invariant: a leader that is behind is asked again with pauses, up to a deadline.

use std::num::NonZeroU64;
use std::time::Duration;

use holdfast_protocol::internal::LeaseView;
use holdfast_protocol::record::Urgency;
use holdfast_protocol::{Error, Revision, SessionRecord};
use holdfast_records::{Change, Done, Known, NotDone, Wrote, change};
use holdfast_rules::conflict::released_because;
use holdfast_rules::hand_edit::{Holder, Learnt, learn};
use holdfast_rules::{Decision, expire};
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::{LEASE_TTL, StoreError, chance};
use tokio::time::Instant;

use super::stop::Stop;
use super::writing::Writing;
use super::{Agent, Doubt, End, LockClock};
use crate::pulse::READ_FIRST;

/// How long a change waits for the relay. An idle one says every 2 s how far it is, which is how a worker that has just
/// started hears of it.
pub(super) const RELAY_TIMEOUT: Duration = Duration::from_millis(2500);
/// How often it is looked whether the relay has come far enough.
pub(super) const RELAY_LOOK: Duration = Duration::from_millis(5);
/// The bounds of the pause before a leader that is behind is asked again.
pub(super) const BEHIND: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
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
    fn note_release(&mut self, record: &SessionRecord) {
        if record.lock_revision != self.record.lock_revision {
            self.released_because = released_because(record).map(str::to_owned);
        }
    }

    /// Takes a revision that is newer than the known one; older ones change nothing.
    pub(super) fn adopt(&mut self, record: SessionRecord, revision: Revision) -> Standing {
        let holder = Holder { worker: &self.core.config.name, boot: self.core.boot, activation: self.activation };
        match learn(&self.record, self.revision, &record, revision, holder) {
            Learnt::Nothing => Standing::Owner,
            Learnt::Lost => Standing::Gone,
            // Whoever still waits is told that the session is over, and not to look for the next one.
            Learnt::Over => {
                (self.record, self.revision) = (without_event(record), revision);
                Standing::Gone
            }
            Learnt::Holds => {
                self.note_release(&record);
                if record.lock_revision != self.record.lock_revision {
                    self.touch();
                }
                (self.record, self.revision) = (without_event(record), revision);
                self.wind_lock_clock();
                Standing::Owner
            }
        }
    }

    /// Starts the countdown of a lock that it does not count yet, or whose lease was changed by hand; forgets that of a
    /// lock that is gone.
    pub(super) fn wind_lock_clock(&mut self) {
        let lease =
            self.record.lock.as_ref().and_then(|lock| Some((lock.revision, Duration::from_millis(lock.ttl_ms?))));
        self.lock_clock = lease.map(|(lock_revision, ttl)| match self.lock_clock {
            Some(clock) if (clock.lock_revision, clock.ttl) == (lock_revision, ttl) => clock,
            _ => LockClock { lock_revision, ttl, deadline: Instant::now() + self.lease_left(ttl), is_extended: false },
        });
        self.show();
    }

    /// How long a lock of `ttl` has left when its countdown begins: all of it. A mutant counts from the time that
    /// stands in the grant, by a clock of its machine that is up to 3 s ahead.
    fn lease_left(&self, ttl: Duration) -> Duration {
        if !mutant::is(Mutant::ExpiryByWallClock) {
            return ttl;
        }
        let acquired_at = self.record.lock.as_ref().and_then(|lock| lock.acquired_at.parse::<jiff::Timestamp>().ok());
        let is_ahead = Duration::from_secs(u64::from(self.core.boot.0.as_bytes()[15] % 4));
        let since = acquired_at.map_or(Duration::ZERO, |at| chance::now().duration_since(at).unsigned_abs());
        ttl.saturating_sub(since + is_ahead)
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
    pub(super) async fn catch_up_past(&mut self, fence: Revision) -> Result<(), Stop> {
        let deadline = Instant::now() + self.core.config.recover_timeout;
        let mut pause = BEHIND.0;
        loop {
            match self.refresh().await? {
                Standing::Gone => return Err(self.gone().into()),
                Standing::Owner if self.doubt.is_some() || self.revision > fence => return Ok(()),
                // Refused under a fence that the leader says is the last: it is behind.
                Standing::Owner if Instant::now() + pause < deadline => {}
                Standing::Owner => {
                    let why =
                        format!("the record has moved past revision {fence}, and its leader does not show it yet");
                    return Err(StoreError::Unavailable(why).into());
                }
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

    /// As [`Agent::refresh`], for where losing the session ends the agent.
    pub(super) async fn refresh_or_end(&mut self) -> Result<(), Stop> {
        match self.refresh().await? {
            Standing::Owner => Ok(()),
            Standing::Gone => Err(self.gone().into()),
        }
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
        let deadline = Instant::now() + self.core.config.recover_timeout;
        let expiring = Expiring { at: self.revision, lock_revision: clock.lock_revision };
        match change(&mut self.writing(Urgency::Urgent, deadline), &expiring).await {
            Ok(Done { wrote: Wrote::Nothing, .. }) => {
                self.wind_lock_clock();
                return Ok(());
            }
            Ok(_) => return Ok(()),
            Err(NotDone::Stopped(Stop::End(end))) => return Err(end),
            Err(NotDone::Moved) => match self.refresh().await {
                Ok(Standing::Owner) if self.revision > expiring.at => return Ok(()),
                Ok(Standing::Gone) => return Err(self.gone()),
                // A leader that is behind, or away.
                Ok(Standing::Owner) | Err(_) => {}
            },
            Err(error) => {
                tracing::warn!(session = %self.key, ?error, "a lock that ran out could not be freed yet");
            }
        }
        if let Some(clock) = &mut self.lock_clock {
            clock.deadline = Instant::now() + EXPIRE_AGAIN;
        }
        self.show();
        Ok(())
    }
}

/// Frees the lock whose lease ran out.
struct Expiring {
    at: Revision,
    lock_revision: u64,
}

impl Change<Writing<'_>> for Expiring {
    type Reply = ();

    async fn decide(&self, _: &Writing<'_>, known: &Known) -> Result<Decision<()>, Stop> {
        Ok(match expire::expire(&known.record, self.lock_revision) {
            Some(next) => Decision::Commit { next: Box::new(next), reply: () },
            None => Decision::Unchanged(()),
        })
    }

    fn pinned(&self) -> Option<Revision> {
        Some(self.at)
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
