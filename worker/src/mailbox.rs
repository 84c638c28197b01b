//! A session's mailbox: what may wait in it, and how much.
//!
//! Invariant: what waits is bounded by number and by bytes, for each session and for the worker. Ordinary letters leave
//! room for those that concern the session itself, and these for renewals of the lock's holder, so that no flood of
//! questions or edits lets a lease run out. One session's flood leaves a quarter of the worker's bytes to sessions that
//! have little waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_channel::mpsc;
use futures_util::StreamExt;
use holdfast_protocol::Limits;
use holdfast_protocol::request::{ShowToken, parse};
use holdfast_protocol::subject::Verb;

use crate::letter::{Call, Letter};
use crate::status::Status;

/// How many letters of each kind have room beyond what ordinary ones may take.
const RESERVE: usize = 32;
/// What a letter costs beside its payload.
const LETTER_BYTES: u32 = 256;
/// The longest body of a renewal that is looked into while the mailbox is full.
const RENEWAL_BYTES: usize = 4096;
/// A session with less waiting may use the last quarter of the worker's bytes.
const LITTLE_BYTES: usize = 64 * 1024;

/// How much may wait.
pub(crate) struct Bounds {
    /// Ordinary letters of one session.
    pub(crate) letters: usize,
    /// Bytes of one session's letters.
    pub(crate) session_bytes: usize,
    /// Bytes of all letters of the worker.
    pub(crate) worker_bytes: usize,
    /// Bytes of all letters that are not answered.
    held: Arc<AtomicUsize>,
}

impl Bounds {
    pub(crate) fn new(letters: usize, session_bytes: usize, worker_bytes: usize) -> Self {
        Self { letters, session_bytes, worker_bytes, held: Arc::default() }
    }
}

impl Bounds {
    /// Bytes of all letters that are not answered.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// The bytes of one letter, given back when it is dropped.
pub(crate) struct Held {
    status: Arc<Status>,
    worker: Arc<AtomicUsize>,
    bytes: u32,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.status.bytes().fetch_sub(self.bytes, Ordering::Relaxed);
        self.worker.fetch_sub(self.bytes as usize, Ordering::Relaxed);
    }
}

/// How a letter is let in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Ordinary,
    /// It concerns the session itself.
    Internal,
    /// The holder keeps its lock.
    Renewal,
}

impl Rank {
    fn of(call: &Call) -> Self {
        match call {
            Call::Activate(_) | Call::Handover | Call::Passivate(_) | Call::Look | Call::CatchUp => Self::Internal,
            Call::Verb(_) | Call::Hint(_) | Call::Lease | Call::Inspect(_) => Self::Ordinary,
        }
    }

    fn letters(self, ordinary: usize) -> usize {
        match self {
            Self::Ordinary => ordinary,
            Self::Internal => ordinary + RESERVE,
            Self::Renewal => ordinary + 2 * RESERVE,
        }
    }
}

/// Why a letter was not taken.
pub(crate) enum NotTaken {
    /// Too much waits.
    Full(Box<Letter>),
    /// The agent is about to go; the next one comes right behind it.
    Gone(Box<Letter>),
}

/// The supervisor's end.
pub(crate) struct Sender {
    letters: mpsc::Sender<Box<Letter>>,
    pub(crate) status: Arc<Status>,
}

/// The agent's end. Of the bounded channels, this one is the smallest while it is empty.
pub(crate) struct Mailbox {
    letters: mpsc::Receiver<Box<Letter>>,
    status: Arc<Status>,
}

/// An empty mailbox.
pub(crate) fn mailbox(bounds: &Bounds, status: Arc<Status>) -> (Sender, Mailbox) {
    // Each sender has a place of its own beside the channel's, and there is one sender.
    let (letters, received) = mpsc::channel(Rank::Renewal.letters(bounds.letters).saturating_sub(1));
    (Sender { letters, status: status.clone() }, Mailbox { letters: received, status })
}

impl Sender {
    /// Puts `letter` in, if there is room for one of its kind.
    pub(crate) fn post(&mut self, mut letter: Box<Letter>, bounds: &Bounds, limits: &Limits) -> Result<(), NotTaken> {
        let is_let_in = self.admits(Rank::of(&letter.call), &letter, bounds)
            || (self.is_renewal(&letter, limits) && self.admits(Rank::Renewal, &letter, bounds));
        if !is_let_in {
            return Err(NotTaken::Full(letter));
        }
        letter.held = Some(self.hold(&letter, bounds));
        self.status.letter_came();
        self.letters.try_send(letter).map_err(|refused| {
            self.status.letter_went();
            let is_full = refused.is_full();
            let mut letter = refused.into_inner();
            letter.held = None;
            if is_full { NotTaken::Full(letter) } else { NotTaken::Gone(letter) }
        })
    }

    fn admits(&self, rank: Rank, letter: &Letter, bounds: &Bounds) -> bool {
        if self.status.waiting() >= rank.letters(bounds.letters) {
            return false;
        }
        if rank > Rank::Ordinary {
            return true;
        }
        let bytes = weight(letter) as usize;
        let of_session = self.status.bytes().load(Ordering::Relaxed) as usize;
        let of_worker = bounds.held.load(Ordering::Relaxed);
        let is_little = of_session + bytes <= LITTLE_BYTES;
        let of_worker_max = if is_little { bounds.worker_bytes } else { bounds.worker_bytes / 4 * 3 };
        // One alone is let in: how large a request may be is for its parser to say.
        (of_session == 0 || of_session + bytes <= bounds.session_bytes) && of_worker + bytes <= of_worker_max
    }

    /// Whether the lock's holder keeps it, or one may be whom the agent has not heard of.
    fn is_renewal(&self, letter: &Letter, limits: &Limits) -> bool {
        matches!(letter.call, Call::Verb(Verb::LockRenew))
            && letter.payload.len() <= RENEWAL_BYTES
            && (self.status.is_behind(letter.revision)
                || parse::<ShowToken>(&letter.payload, limits)
                    .is_ok_and(|show| self.status.may_be_holder(&holdfast_protocol::token::hash_token(&show.token))))
    }

    fn hold(&self, letter: &Letter, bounds: &Bounds) -> Held {
        let bytes = weight(letter);
        self.status.bytes().fetch_add(bytes, Ordering::Relaxed);
        bounds.held.fetch_add(bytes as usize, Ordering::Relaxed);
        Held { status: self.status.clone(), worker: bounds.held.clone(), bytes }
    }
}

fn weight(letter: &Letter) -> u32 {
    u32::try_from(letter.payload.len()).unwrap_or(u32::MAX).saturating_add(LETTER_BYTES)
}

impl Mailbox {
    /// The next letter; `None`: the supervisor has let go.
    pub(crate) async fn next(&mut self) -> Option<Box<Letter>> {
        let letter = self.letters.next().await?;
        self.status.letter_went();
        Some(letter)
    }

    /// The next letter, if one waits.
    pub(crate) fn next_now(&mut self) -> Option<Box<Letter>> {
        let letter = self.letters.try_recv().ok()?;
        self.status.letter_went();
        Some(letter)
    }

    /// Takes no more letters.
    pub(crate) fn close(&mut self) {
        self.letters.close();
    }
}
