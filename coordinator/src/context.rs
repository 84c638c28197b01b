//! The context of a request: everything of this coordinator that requests share. Storage and wire, cached records, the
//! fleet as it is known, the queues for locks, and the tasks of requests.
//!
//! Invariant: all of it can be lost. A coordinator that starts without it gives the same answers.

use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::token::Secret;
use holdfast_protocol::{Error, Reason, Revision};
use holdfast_store::{Floor, SharedFeed, SharedWire, Store, chance};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{ANNOUNCE_TIMEOUT, Config};
use crate::countdown::Countdown;
use crate::error;
use crate::explain::Conflicts;
use crate::fleet::Fleet;
use crate::grants::Grants;
use crate::health::Looks;
use crate::place::Returning;
use crate::records::Records;
use crate::relay;
use crate::secrets::Secrets;
use crate::waiters::Waiters;

/// How often a change that waits for the relay checks the relay's progress.
const FLOOR_POLL: Duration = Duration::from_millis(4);
/// How often such a change asks JetStream for the consumer's state, in case the progress messages were lost.
const FLOOR_ASK: Duration = Duration::from_millis(250);

/// How many pages of lists are read at once. Each sends up to 64 requests at a time and holds a few megabytes at most.
const PAGES_AT_ONCE: usize = 16;

/// What all requests of one coordinator share.
pub(crate) struct Context {
    pub(crate) wire: SharedWire,
    /// The id of this instance of the micro service.
    pub(crate) instance: String,
    /// Whether another coordinator runs. Found out once, when this one leaves.
    pub(crate) others: OnceCell<bool>,
    pub(crate) store: Store,
    /// The same storage, for the relay.
    pub(crate) feed: SharedFeed,
    pub(crate) secrets: Secrets,
    pub(crate) config: Config,
    pub(crate) records: Records,
    pub(crate) fleet: Fleet,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) conflicts: Conflicts,
    pub(crate) grants: Grants,
    pub(crate) countdown: Countdown,
    pub(crate) returning: Returning,
    pub(crate) floor: Floor,
    /// What this coordinator found when it looked at itself.
    pub(crate) looks: Looks,
    /// Permits for reading a page of a list, given in order of arrival.
    pub(crate) pages: Semaphore,
    /// The tasks of requests.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when this coordinator takes no more requests.
    pub(crate) leaving: CancellationToken,
    /// Cancelled when running tasks must be dropped.
    pub(crate) abort: CancellationToken,
}

impl Context {
    pub(crate) fn new(wire: SharedWire, feed: SharedFeed, secret: Secret, config: Config) -> Self {
        let store: Store = feed.clone();
        let floor = Floor::default();
        Self {
            records: Records::new(store.clone(), config.cache_entries),
            fleet: Fleet::new(store.clone(), &config, wire.clone()),
            waiters: Arc::new(Waiters::new(&config)),
            conflicts: Conflicts::default(),
            grants: Grants::new(&wire.new_inbox()),
            countdown: Countdown::default(),
            returning: Returning::default(),
            floor,
            looks: Looks::default(),
            pages: Semaphore::new(PAGES_AT_ONCE),
            tasks: TaskTracker::new(),
            leaving: CancellationToken::new(),
            abort: CancellationToken::new(),
            instance: chance::id().simple().to_string(),
            others: OnceCell::new(),
            wire,
            store,
            feed,
            secrets: Secrets::new(secret),
            config,
        }
    }

    /// Whether the relay has announced everything up to `mark`.
    fn is_announced(&self, mark: Revision) -> bool {
        self.floor.get() >= mark.0
    }

    /// Waits until the relay has announced `mark`. The bucket keeps 64 revisions of a record, and the relay must read
    /// each before it is overwritten.
    ///
    /// # Errors
    /// `busy` when the relay is too far behind.
    pub(crate) async fn announced(&self, mark: Revision, deadline: Instant) -> Result<(), Error> {
        let begun = Instant::now();
        let until = deadline.min(begun + ANNOUNCE_TIMEOUT);
        let mut ask = begun + FLOOR_ASK;
        while !self.is_announced(mark) {
            let now = Instant::now();
            if now >= until {
                let why = "announcements are behind; this session changes faster than its signals are published";
                return Err(error::busy(Reason::MailboxFull, why));
            }
            if now >= ask {
                ask = now + FLOOR_ASK;
                // The consumer may have no leader just now; then only the relay's own progress message helps.
                let asked = timeout_at(until, relay::learn_floor(self)).await;
                if asked.is_err() {
                    continue;
                }
            }
            tokio::time::sleep(FLOOR_POLL).await;
        }
        Ok(())
    }
}
