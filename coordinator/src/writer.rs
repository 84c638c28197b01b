//! This coordinator as the keeper of one session's record, on behalf of one request.

use std::sync::Arc;

use holdfast_protocol::record::Urgency;
use holdfast_protocol::{Error, Revision, SessionKey};
use holdfast_records::{Found, Keeper, Known};
use holdfast_rules::Past;
use holdfast_store::{Storage, StoreError};
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use crate::call::Call;
use crate::error;
use crate::hub::Hub;
use crate::link;

#[cfg(test)]
mod tests;

/// One request's way to change a record.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) key: &'a SessionKey,
    pub(crate) call: &'a Call,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(hub: &'a Hub, key: &'a SessionKey, call: &'a Call) -> Self {
        Self { hub, key, call }
    }
}

impl<'a> Keeper for Writer<'a> {
    type Stop = Error;
    type Turn = MutexGuard<'a, ()>;

    fn key(&self) -> &SessionKey {
        self.key
    }

    fn store(&self) -> &dyn Storage {
        &*self.hub.store
    }

    fn announced(&self) -> u64 {
        self.hub.floor.get()
    }

    fn urgency(&self) -> Urgency {
        self.call.urgency
    }

    fn deadline(&self) -> Instant {
        self.call.deadline
    }

    fn in_time(&self) -> Result<(), Error> {
        self.call.in_time(self.key)
    }

    async fn turn(&self) -> Self::Turn {
        self.hub.records.lane(self.key).await
    }

    fn seen(&self) -> Option<Known> {
        self.hub.records.cached(self.key)
    }

    async fn read(&mut self) -> Result<Found, Error> {
        self.hub.records.read(self.key, self.call.deadline).await
    }

    fn is_proven(&self, known: &Known) -> bool {
        known.is_as_of(self.call.arrived)
    }

    async fn past(&self, revision: Revision) -> Result<Arc<Past>, Error> {
        self.hub.records.past(self.key, revision, self.call.deadline).await
    }

    fn wrote(&mut self, expected: Revision, known: &Known) {
        self.hub.records.wrote(self.key, expected, known);
    }

    fn doubt(&mut self) {
        self.hub.records.doubt(self.key);
    }

    fn fault(&self, fault: StoreError) -> Error {
        error::of_store(&fault, self.key)
    }

    async fn catch_up(&mut self, mark: Revision) -> Result<(), Error> {
        self.hub.announced(mark, self.call.deadline).await
    }

    async fn pause(&mut self) {
        self.call.pause().await;
    }

    async fn tell(&mut self, known: &Known) {
        link::hint(self.hub, known).await;
        if known.record.lock.is_none() {
            self.hub.waiters.wake(self.key);
        }
    }
}
