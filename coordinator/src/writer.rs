//! Connects the record loop of the crate `records` to this coordinator: cache, lanes, relay and hints.
//!
//! Deliberately absent: what is written (the rules) and how (the record loop).

use std::sync::Arc;

use holdfast_protocol::record::Urgency;
use holdfast_protocol::{Error, Revision, SessionKey};
use holdfast_records::{Found, Keeper, Known};
use holdfast_rules::Past;
use holdfast_store::{Storage, StoreError};
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use crate::context::Context;
use crate::error;
use crate::link;
use crate::operation::Operation;

#[cfg(test)]
mod tests;

/// The [`Keeper`] of one session's record, for one operation.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) context: &'a Context,
    pub(crate) key: &'a SessionKey,
    pub(crate) operation: &'a Operation,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(context: &'a Context, key: &'a SessionKey, operation: &'a Operation) -> Self {
        Self { context, key, operation }
    }
}

impl<'a> Keeper for Writer<'a> {
    type Stop = Error;
    type Turn = MutexGuard<'a, ()>;

    fn key(&self) -> &SessionKey {
        self.key
    }

    fn store(&self) -> &dyn Storage {
        &*self.context.store
    }

    fn announced(&self) -> u64 {
        self.context.floor.get()
    }

    fn urgency(&self) -> Urgency {
        self.operation.urgency
    }

    fn deadline(&self) -> Instant {
        self.operation.deadline
    }

    fn in_time(&self) -> Result<(), Error> {
        self.operation.in_time(self.key)
    }

    async fn turn(&self) -> Self::Turn {
        self.context.records.lane(self.key).await
    }

    fn seen(&self) -> Option<Known> {
        self.context.records.cached(self.key)
    }

    async fn read(&mut self) -> Result<Found, Error> {
        self.context.records.read(self.key, self.operation.deadline).await
    }

    fn is_proven(&self, known: &Known) -> bool {
        known.is_as_of(self.operation.arrived)
    }

    async fn past(&self, revision: Revision) -> Result<Arc<Past>, Error> {
        self.context.records.past(self.key, revision, self.operation.deadline).await
    }

    fn wrote(&mut self, expected: Revision, known: &Known) {
        self.context.records.wrote(self.key, expected, known);
    }

    fn doubt(&mut self) {
        self.context.records.doubt(self.key);
    }

    fn fault(&self, fault: StoreError) -> Error {
        error::of_store(&fault, self.key)
    }

    async fn catch_up(&mut self, mark: Revision) -> Result<(), Error> {
        self.context.announced(mark, self.operation.deadline).await
    }

    async fn pause(&mut self) {
        self.context.config.meters.retried();
        self.operation.pause().await;
    }

    async fn tell(&mut self, known: &Known) {
        link::hint(self.context, known).await;
        if known.record.lock.is_none() {
            self.context.waiters.wake(self.key);
        }
    }
}
