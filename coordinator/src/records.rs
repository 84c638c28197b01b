//! Reads session records for requests and caches them.
//!
//! Invariant: a record that does not parse is reported and never overwritten. Changes of one record by this coordinator
//! wait in a queue, in order of arrival, so that no request starves under contention. The compare-and-set handles
//! changes by other coordinators.
//!
//! Deliberately absent: changing a record (`writer`).

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};
use holdfast_records::{Found, Known, past_of};
use holdfast_rules::Past;
use holdfast_store::{Store, StoreError, Stored, chance};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::cache::Cache;
use crate::error;
use crate::pasts::Pasts;

/// How many queues (lanes) the sessions share.
const LANES: usize = 4096;

/// Reads records, and keeps those that were seen.
pub(crate) struct Records {
    store: Store,
    cache: Cache,
    pasts: Pasts,
    lanes: Box<[Mutex<()>]>,
    /// Lanes for [`Records::recent_record`], so that concurrent callers share one read.
    readers: Box<[Mutex<()>]>,
    /// Random, so that no client can choose which sessions share a lane.
    salt: u64,
}

impl Records {
    pub(crate) fn new(store: Store, cache_entries: u64) -> Self {
        Self {
            store,
            cache: Cache::new(cache_entries),
            pasts: Pasts::default(),
            lanes: (0..LANES).map(|_| Mutex::new(())).collect(),
            readers: (0..LANES).map(|_| Mutex::new(())).collect(),
            salt: chance::salt(),
        }
    }

    /// Waits for the turn to change `key`. Hold it around reading, deciding and committing only. Sessions share lanes,
    /// so holding two could deadlock.
    pub(crate) async fn lane(&self, key: &SessionKey) -> MutexGuard<'_, ()> {
        self.lanes[self.place_of(key)].lock().await
    }

    fn place_of(&self, key: &SessionKey) -> usize {
        BuildHasherDefault::<DefaultHasher>::default().hash_one((self.salt, key)) as usize % LANES
    }

    /// The record as this coordinator last saw it, unless that turned out to be old.
    pub(crate) fn cached(&self, key: &SessionKey) -> Option<Known> {
        self.cache.get(key)
    }

    /// Marks the cached record as outdated.
    pub(crate) fn doubt(&self, key: &SessionKey) {
        self.cache.doubt(key);
    }

    /// Reads `key` from the stream's leader.
    ///
    /// # Errors
    /// `record_invalid`, or `storage_unavailable`.
    pub(crate) async fn read(&self, key: &SessionKey, deadline: Instant) -> Result<Found, Error> {
        let since = Instant::now();
        let late = |_| Err(StoreError::Unavailable("the record was not read in time".to_owned()));
        let stored = timeout_at(deadline, self.store.read(key)).await.unwrap_or_else(late);
        let nothing = |revision| {
            self.cache.forget(key);
            Ok(Found::Nothing { revision })
        };
        match stored.map_err(|error| error::of_store(&error, key))? {
            None => nothing(Revision(0)),
            Some(Stored { value: None, revision, .. }) => nothing(revision),
            Some(Stored { value: Some(json), revision, .. }) => {
                let record = SessionRecord::from_json(&json, key).map_err(|error| {
                    self.cache.doubt(key);
                    error.detail("revision", revision.0)
                })?;
                let known = Known { revision, record: Arc::new(record), since };
                let behind = || error::storage_unavailable("the stream's leader is behind what was read before");
                Ok(Found::Record(self.cache.learn(key, known).ok_or_else(behind)?))
            }
        }
    }

    /// As [`Records::read`], for a session that must have a record.
    ///
    /// # Errors
    /// As [`Records::read`], and `no_session`. A closed session has a record.
    pub(crate) async fn read_record(&self, key: &SessionKey, deadline: Instant) -> Result<Known, Error> {
        match self.read(key, deadline).await? {
            Found::Record(known) => Ok(known),
            Found::Nothing { .. } => Err(Error::no_session(key)),
        }
    }

    /// The cached record, or else the record from the leader.
    ///
    /// # Errors
    /// As [`Records::read_record`].
    pub(crate) async fn record(&self, key: &SessionKey, deadline: Instant) -> Result<Known, Error> {
        match self.cache.get(key) {
            Some(known) => Ok(known),
            None => self.read_record(key, deadline).await,
        }
    }

    /// Caches `known`, which was written on top of `expected`.
    pub(crate) fn wrote(&self, key: &SessionKey, expected: Revision, known: &Known) {
        self.pasts.wrote(key, expected, known.revision, &known.record);
        self.cache.learn(key, known.clone());
    }

    /// As [`Records::read_record`], but a record that was read or written within `age` is good enough. Concurrent
    /// callers for one session share one read.
    ///
    /// # Errors
    /// As [`Records::read_record`].
    pub(crate) async fn recent_record(
        &self,
        key: &SessionKey,
        age: Duration,
        deadline: Instant,
    ) -> Result<Known, Error> {
        let recent = || self.cache.get(key).filter(|known| known.since.elapsed() <= age);
        if let Some(known) = recent() {
            return Ok(known);
        }
        let _turn = self.readers[self.place_of(key)].lock().await;
        match recent() {
            Some(known) => Ok(known),
            None => self.read_record(key, deadline).await,
        }
    }

    /// The stored revisions of a record, up to `revision` or later.
    ///
    /// # Errors
    /// `storage_unavailable`.
    pub(crate) async fn past(
        &self,
        key: &SessionKey,
        revision: Revision,
        deadline: Instant,
    ) -> Result<Arc<Past>, Error> {
        if let Some(past) = self.pasts.get(key, revision) {
            return Ok(past);
        }
        let late = |_| Err(StoreError::Unavailable("the record's history was not read in time".to_owned()));
        let history = timeout_at(deadline, self.store.history(key, revision)).await.unwrap_or_else(late);
        let history = history.map_err(|error| error::of_store(&error, key))?;
        let past = past_of(key, &history);
        if past.covers() < revision {
            return Err(error::storage_unavailable("the stream's leader is behind what was read before"));
        }
        Ok(self.pasts.keep(key, past))
    }
}
