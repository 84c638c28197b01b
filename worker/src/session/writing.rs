//! An agent as the keeper of its session's record: its own changes go through the record loop.

use std::sync::Arc;

use holdfast_protocol::error::Reason;
use holdfast_protocol::record::Urgency;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};
use holdfast_records::{Found, Keeper, Known, past_of};
use holdfast_rules::Past;
use holdfast_store::{Storage, StoreError};
use tokio::time::Instant;

use super::Agent;
use super::record::{BEHIND, RELAY_LOOK, RELAY_TIMEOUT, without_event};
use super::stop::Stop;

/// One change of the record by its agent.
pub(super) struct Writing<'a> {
    pub(super) agent: &'a mut Agent,
    urgency: Urgency,
    deadline: Instant,
    /// Whether the record was read for this change.
    is_read: bool,
    /// The revision that another writer was seen to have moved past.
    stale: Option<Revision>,
}

impl Agent {
    /// The way to one change of this session's record, until `deadline`.
    pub(super) fn writing(&mut self, urgency: Urgency, deadline: Instant) -> Writing<'_> {
        Writing { agent: self, urgency, deadline, is_read: false, stale: None }
    }
}

impl Keeper for Writing<'_> {
    type Stop = Stop;
    /// An agent changes its record from one task.
    type Turn = ();

    fn key(&self) -> &SessionKey {
        &self.agent.key
    }

    fn store(&self) -> &dyn Storage {
        &*self.agent.core.store
    }

    fn announced(&self) -> u64 {
        self.agent.core.floor.get()
    }

    fn urgency(&self) -> Urgency {
        self.urgency
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn in_time(&self) -> Result<(), Stop> {
        if Instant::now() < self.deadline {
            return Ok(());
        }
        Err(StoreError::Unavailable("the session's record changes too fast".to_owned()).into())
    }

    async fn turn(&self) {}

    fn seen(&self) -> Option<Known> {
        let known = || Known {
            revision: self.agent.revision,
            record: Arc::new(self.agent.record.clone()),
            since: Instant::now(),
        };
        self.stale.is_none().then(known)
    }

    async fn read(&mut self) -> Result<Found, Stop> {
        match self.stale.take() {
            Some(fence) => self.agent.catch_up_past(fence).await?,
            None => self.agent.refresh_or_end().await?,
        }
        self.is_read = true;
        let record = Arc::new(self.agent.record.clone());
        Ok(Found::Record(Known { revision: self.agent.revision, record, since: Instant::now() }))
    }

    fn is_proven(&self, _: &Known) -> bool {
        self.is_read
    }

    async fn past(&self, revision: Revision) -> Result<Arc<Past>, Stop> {
        let history = self.agent.core.store.history(&self.agent.key, revision).await?;
        Ok(Arc::new(past_of(&self.agent.key, &history)))
    }

    fn wrote(&mut self, _: Revision, known: &Known) {
        self.agent.revision = known.revision;
        self.agent.record = without_event(SessionRecord::clone(&known.record));
        self.agent.proven(self.agent.core.ms_at(known.since));
        self.agent.wind_lock_clock();
    }

    fn doubt(&mut self) {
        self.stale = Some(self.agent.revision);
        self.is_read = false;
    }

    fn fault(&self, fault: StoreError) -> Stop {
        fault.into()
    }

    /// An idle relay says every 2 s how far it is, which is how a worker that has just started hears of it.
    async fn catch_up(&mut self, mark: Revision) -> Result<(), Stop> {
        if self.urgency == Urgency::Urgent {
            return Err(StoreError::Unavailable(format!("the record's change at {mark} is not announced yet")).into());
        }
        let floor = &self.agent.core.floor;
        let deadline = Instant::now() + RELAY_TIMEOUT;
        while floor.get() < mark.0 {
            if Instant::now() > deadline {
                let message = format!("changes of session {} are faster than their signals", self.agent.key.id);
                return Err(Error::new(Reason::MailboxFull, message).retry_after_ms(Some(500)).into());
            }
            tokio::time::sleep(RELAY_LOOK).await;
        }
        Ok(())
    }

    async fn pause(&mut self) {
        self.agent.core.config.meters.retried();
        tokio::time::sleep(BEHIND.0.mul_f64(self.agent.spread())).await;
    }

    /// Nobody but this agent needs to know.
    async fn tell(&mut self, _: &Known) {}
}
