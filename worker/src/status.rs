//! What supervisor and agent of one session share: activity, how lock and clock stand, and how much waits.
//!
//! Invariant: a question that this answers never enters the mailbox, so that those who only ask stand in nobody's way.
//! It may be behind the record, and then it says so by its lock revision. One allocation for each session, because a
//! hundred thousand idle ones are in memory.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_protocol::internal::LeaseView;
use holdfast_protocol::{Revision, SessionRecord};

/// A tenth of a second. In 32 bits there is room for 13 years of them.
const TENTH_MS: u64 = 100;

/// No countdown runs.
const NEVER: u64 = u64::MAX;

/// Lock and countdown, as far as the agent knows.
#[derive(Clone, Copy)]
struct Clock {
    revision: Revision,
    lock_revision: u64,
    /// When the lock expires, milliseconds since the worker started.
    deadline_ms: u64,
    /// Tells the holder's token from others; 0: nobody holds the lock.
    holder: u32,
    /// A letter waits that tells the agent of a newer record.
    catching_up: bool,
}

/// Shared by supervisor and agent of one session.
pub(crate) struct Status {
    activity_ms: AtomicU64,
    clock: Mutex<Clock>,
    /// Bytes of letters that are not answered.
    bytes: AtomicU32,
    /// Letters in the mailbox.
    waiting: AtomicU32,
    /// When the agent's turn began, in tenths of a second since the worker started, and one more; 0: it waits for work.
    busy_since: AtomicU32,
}

impl Status {
    /// Of an agent that is about to start.
    pub(crate) fn new(now_ms: u64) -> Arc<Self> {
        let clock =
            Clock { revision: Revision(0), lock_revision: 0, deadline_ms: NEVER, holder: 0, catching_up: false };
        Arc::new(Self {
            activity_ms: AtomicU64::new(now_ms),
            clock: Mutex::new(clock),
            bytes: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            busy_since: AtomicU32::new(tenths(now_ms)),
        })
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent has something to do.
    pub(crate) fn begin_turn(&self, now_ms: u64) {
        self.busy_since.store(tenths(now_ms), Ordering::Relaxed);
    }

    /// The agent has done it.
    pub(crate) fn end_turn(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    /// For how many milliseconds the agent has been at one turn.
    pub(crate) fn busy_ms(&self, now_ms: u64) -> u64 {
        match self.busy_since.load(Ordering::Relaxed) {
            0 => 0,
            since => now_ms.saturating_sub(u64::from(since - 1) * TENTH_MS),
        }
    }

    /// Somebody asked for something.
    pub(crate) fn touch(&self, now_ms: u64) {
        self.activity_ms.store(now_ms, Ordering::Relaxed);
    }

    /// When somebody last did.
    pub(crate) fn activity_ms(&self) -> u64 {
        self.activity_ms.load(Ordering::Relaxed)
    }

    /// Shows `record` and the countdown of its lock.
    pub(crate) fn show(&self, record: &SessionRecord, revision: Revision, deadline_ms: Option<u64>) {
        let holder = record.lock.as_ref().map_or(0, |lock| fingerprint(&lock.token_hash));
        let (lock_revision, deadline_ms) = (record.lock_revision, deadline_ms.unwrap_or(NEVER));
        let mut clock = self.clock();
        *clock = Clock { revision, lock_revision, deadline_ms, holder, ..*clock };
    }

    /// How lock and clock stand, for one who knows of `revision` of the record. Whoever knows of a newer one is told
    /// nothing of the countdown, which may be another lock's.
    pub(crate) fn lease(&self, revision: Revision, now_ms: u64) -> LeaseView {
        let clock = self.clock();
        let is_known = revision <= clock.revision && clock.deadline_ms != NEVER;
        let expires_in_ms = is_known.then(|| clock.deadline_ms.saturating_sub(now_ms));
        LeaseView { lock_revision: clock.lock_revision, expires_in_ms }
    }

    /// Whether the agent has not heard of `revision`.
    pub(crate) fn is_behind(&self, revision: Revision) -> bool {
        self.clock().revision < revision
    }

    /// Whether `token_hash` may be that of the lock's holder.
    pub(crate) fn may_be_holder(&self, token_hash: &str) -> bool {
        let holder = self.clock().holder;
        holder != 0 && holder == fingerprint(token_hash)
    }

    /// Whether nobody has told the agent to catch up since it last did.
    pub(crate) fn begin_catching_up(&self) -> bool {
        !std::mem::replace(&mut self.clock().catching_up, true)
    }

    /// The agent has taken that letter, or it could not be given.
    pub(crate) fn end_catching_up(&self) {
        self.clock().catching_up = false;
    }

    /// How many letters wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed) as usize
    }

    pub(crate) fn letter_came(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn letter_went(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes of the letters that are not answered.
    pub(crate) fn bytes(&self) -> &AtomicU32 {
        &self.bytes
    }
}

/// A time in tenths of a second, and one more.
fn tenths(ms: u64) -> u32 {
    u32::try_from(ms / TENTH_MS + 1).unwrap_or(u32::MAX)
}

/// Enough of a token's hash to tell tokens apart; what it lets through is proven by the record.
fn fingerprint(token_hash: &str) -> u32 {
    token_hash.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0)
}
