//! The record loop: one change of one record, from the decision to its outcome.
//!
//! Deliberately absent: sending the write again while its outcome is unknown (`write`).

use std::sync::Arc;

use holdfast_protocol::record::Urgency;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};
use holdfast_rules::{Decision, Past};
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::{Storage, StoreError};
use tokio::time::Instant;

use crate::write::write;
use crate::{Found, Known};

/// The part that changes a record, with its cache and its way to the store: a coordinator for one request, or a
/// session's agent.
pub trait Keeper: Send + Sync {
    /// The error with which a change ends without an outcome.
    type Stop: Send;
    /// The turn to change the record, among the writers of this process. Dropping it ends the turn.
    type Turn: Send;

    /// The session's key.
    fn key(&self) -> &SessionKey;

    /// The store that has the record.
    fn store(&self) -> &dyn Storage;

    /// The sequence up to which the relay has announced the stream, as far as this process knows.
    fn announced(&self) -> u64;

    /// Whether a change waits while the relay is behind.
    fn urgency(&self) -> Urgency;

    /// The deadline of a write.
    fn deadline(&self) -> Instant;

    /// Refuses another attempt after the deadline.
    ///
    /// # Errors
    /// The error for the caller.
    fn in_time(&self) -> Result<(), Self::Stop>;

    /// Waits for the turn. It is held only while the record is read, decided on and written.
    fn turn(&self) -> impl Future<Output = Self::Turn> + Send;

    /// The cached record, unless it is marked as outdated.
    fn seen(&self) -> Option<Known>;

    /// Reads the record from the stream's leader.
    fn read(&mut self) -> impl Future<Output = Result<Found, Self::Stop>> + Send;

    /// Whether `known` was current at some moment after the request arrived.
    fn is_proven(&self, known: &Known) -> bool;

    /// The record's stored revisions, up to `revision` or later.
    fn past(&self, revision: Revision) -> impl Future<Output = Result<Arc<Past>, Self::Stop>> + Send;

    /// Caches `known`, which was written on top of `expected`.
    fn wrote(&mut self, expected: Revision, known: &Known);

    /// Marks the cached record as outdated.
    fn doubt(&mut self);

    /// The error for the caller when the store fails. Never called with *moved*.
    fn fault(&self, fault: StoreError) -> Self::Stop;

    /// Waits until the relay has announced `mark`: the bucket keeps 64 revisions of a record, and the relay must read
    /// each before it is dropped.
    fn catch_up(&mut self, mark: Revision) -> impl Future<Output = Result<(), Self::Stop>> + Send;

    /// Pauses before the next attempt, after another writer was first.
    fn pause(&mut self) -> impl Future<Output = ()> + Send;

    /// Notifies the session's agent and the waiters for its lock of what was just written.
    fn tell(&mut self, known: &Known) -> impl Future<Output = ()> + Send;
}

/// One change of a record.
pub trait Change<K: Keeper>: Sync {
    /// The answer to it.
    type Reply: Send;

    /// Decides on the record by a rule. Looks up what the rule needs to know of the fleet.
    fn decide(&self, keeper: &K, known: &Known) -> impl Future<Output = Result<Decision<Self::Reply>, K::Stop>> + Send;

    /// Decides when there is no record; `revision` is the key's.
    fn decide_absent(
        &self,
        keeper: &K,
        _revision: Revision,
    ) -> impl Future<Output = Result<Decision<Self::Reply>, K::Stop>> + Send {
        let refusal = Error::no_session(keeper.key());
        async move { Ok(Decision::Refuse(refusal)) }
    }

    /// What to assume at first about a record that is not cached, instead of reading it.
    fn guess(&self) -> Option<Found> {
        None
    }

    /// The only revision that may be changed, if the caller has decided on it already.
    fn pinned(&self) -> Option<Revision> {
        None
    }

    /// Whether there may be other copies of the request.
    fn has_copies(&self) -> bool {
        false
    }

    /// The answer that an earlier copy of the request got.
    fn replay(&self, _past: &Past) -> Option<Self::Reply> {
        None
    }

    /// Whether `record` shows the effect of an earlier copy, but only the past has that copy's whole answer.
    fn needs_past(&self, _record: &SessionRecord) -> bool {
        false
    }

    /// Whether this very request made `record`, by a write that was not acknowledged.
    fn is_own_write(&self, _record: &SessionRecord) -> bool {
        false
    }

    /// Whether the loop calls [`Keeper::tell`]. A caller that places a session tells the worker more by itself.
    fn is_told(&self) -> bool {
        true
    }
}

/// What a change wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// The requested change.
    Change,
    /// Only the note that another copy of the request was answered.
    Note,
    /// Nothing: the record was as requested, or this is the answer to an earlier copy.
    Nothing,
}

/// A change that was made, or that was not needed.
#[derive(Debug)]
pub struct Done<Reply> {
    /// The record after it.
    pub known: Known,
    /// The answer.
    pub reply: Reply,
    /// What was written.
    pub wrote: Wrote,
}

/// A change that was not made.
#[derive(Debug)]
pub enum NotDone<Stop> {
    /// A rule refused it, on this record.
    Refused(Box<Error>, Found),
    /// The record is no longer at the pinned revision.
    Moved,
    /// It ended without an outcome.
    Stopped(Stop),
}

type Outcome<T, K> = Result<T, NotDone<<K as Keeper>::Stop>>;

enum Attempt<Reply> {
    Done(Done<Reply>),
    /// The relay must announce this revision first.
    Behind(Revision),
    /// Another writer was first.
    Moved,
}

/// Whether an earlier copy of a request took effect.
enum Copy<Reply> {
    /// No.
    None,
    /// Yes, with this answer. The known record is not older than its effect.
    Before(Reply),
    /// Yes, after the known record. Its effect may still stand, and then the record must note that another copy was
    /// answered.
    Since,
}

/// Makes `change`.
///
/// # Errors
/// [`NotDone`].
pub async fn change<K: Keeper, C: Change<K>>(keeper: &mut K, change: &C) -> Outcome<Done<C::Reply>, K> {
    let mut guess = change.guess();
    loop {
        keeper.in_time().map_err(NotDone::Stopped)?;
        let is_guess = guess.is_some();
        match attempt(keeper, change, guess.take()).await? {
            Attempt::Done(done) => {
                if done.wrote != Wrote::Nothing && change.is_told() {
                    keeper.tell(&done.known).await;
                }
                return Ok(done);
            }
            Attempt::Behind(mark) => keeper.catch_up(mark).await.map_err(NotDone::Stopped)?,
            Attempt::Moved if is_guess => {}
            Attempt::Moved if change.pinned().is_some() => return Err(NotDone::Moved),
            Attempt::Moved => keeper.pause().await,
        }
    }
}

async fn attempt<K: Keeper, C: Change<K>>(
    keeper: &mut K,
    change: &C,
    guess: Option<Found>,
) -> Outcome<Attempt<C::Reply>, K> {
    let _turn = keeper.turn().await;
    keeper.in_time().map_err(NotDone::Stopped)?;
    let (mut found, mut is_read) = match (keeper.seen(), guess) {
        // Another writer of this process may have changed it while this one waited for its turn.
        (Some(known), _) => (Found::Record(known), false),
        (None, Some(guess)) => (guess, false),
        (None, None) => (keeper.read().await.map_err(NotDone::Stopped)?, true),
    };
    loop {
        let (revision, decision, is_proven) = match &found {
            Found::Record(known) => {
                let is_proven = keeper.is_proven(known) || mutant::is(Mutant::LateCopyFromCache);
                if let Some(pinned) = change.pinned()
                    && pinned != known.revision
                {
                    // The cached record may be older than the pinned revision.
                    if is_proven || known.revision > pinned {
                        return Err(NotDone::Moved);
                    }
                    found = keeper.read().await.map_err(NotDone::Stopped)?;
                    continue;
                }
                (known.revision, change.decide(keeper, known).await, is_proven)
            }
            Found::Nothing { revision } => (*revision, change.decide_absent(keeper, *revision).await, is_read),
        };
        match (decision.map_err(NotDone::Stopped)?, &found) {
            (Decision::Commit { next, reply }, Found::Nothing { .. }) => {
                return commit(keeper, revision, *next, reply, Wrote::Change).await;
            }
            (Decision::Commit { next, reply }, Found::Record(known)) => match copy(keeper, change, known).await? {
                Copy::None => return commit(keeper, revision, *next, reply, Wrote::Change).await,
                Copy::Before(reply) => return Ok(nothing_wrote(known, reply)),
                Copy::Since => {}
            },
            _ if !is_proven => {}
            (Decision::Note { reply, .. }, Found::Record(known)) if mutant::is(Mutant::CopyNotNoted) => {
                return Ok(nothing_wrote(known, reply));
            }
            (Decision::Note { next, reply }, _) => return commit(keeper, revision, *next, reply, Wrote::Note).await,
            (Decision::Unchanged(reply), Found::Record(known)) if change.is_own_write(&known.record) => {
                return Ok(Attempt::Done(Done { known: known.clone(), reply, wrote: Wrote::Change }));
            }
            (Decision::Unchanged(reply), Found::Record(known)) if !change.needs_past(&known.record) => {
                return Ok(nothing_wrote(known, reply));
            }
            (Decision::Unchanged(reply), Found::Record(known)) => match copy(keeper, change, known).await? {
                Copy::None => return Ok(nothing_wrote(known, reply)),
                Copy::Before(first) => return Ok(nothing_wrote(known, first)),
                Copy::Since => {}
            },
            (Decision::Refuse(refusal), Found::Record(known)) => match copy(keeper, change, known).await? {
                Copy::None => return Err(NotDone::Refused(Box::new(refusal), found)),
                Copy::Before(reply) => return Ok(nothing_wrote(known, reply)),
                Copy::Since => {}
            },
            (Decision::Refuse(refusal), Found::Nothing { .. }) => {
                return Err(NotDone::Refused(Box::new(refusal), found));
            }
            // Without a record nothing can be unchanged: read again.
            (Decision::Unchanged(_), Found::Nothing { .. }) => return Ok(Attempt::Moved),
        }
        found = keeper.read().await.map_err(NotDone::Stopped)?;
        is_read = true;
    }
}

fn nothing_wrote<Reply>(known: &Known, reply: Reply) -> Attempt<Reply> {
    Attempt::Done(Done { known: known.clone(), reply, wrote: Wrote::Nothing })
}

async fn commit<K: Keeper, Reply>(
    keeper: &mut K,
    expected: Revision,
    next: SessionRecord,
    reply: Reply,
    wrote: Wrote,
) -> Outcome<Attempt<Reply>, K> {
    let announced = if mutant::is(Mutant::MarkResetUnseen) { u64::MAX } else { keeper.announced() };
    let record = match next.marked(expected, announced, keeper.urgency()) {
        Ok(record) => record,
        Err(mark) => return Ok(Attempt::Behind(mark)),
    };
    let since = Instant::now();
    let json = record.to_json().into();
    match write(keeper.store(), keeper.key(), expected, json, keeper.deadline()).await {
        Ok(revision) => {
            let known = Known { revision, record: Arc::new(record), since };
            keeper.wrote(expected, &known);
            Ok(Attempt::Done(Done { known, reply, wrote }))
        }
        Err(fault) => {
            keeper.doubt();
            match fault {
                StoreError::Moved { .. } => Ok(Attempt::Moved),
                fault => Err(NotDone::Stopped(keeper.fault(fault))),
            }
        }
    }
}

async fn copy<K: Keeper, C: Change<K>>(keeper: &mut K, change: &C, known: &Known) -> Outcome<Copy<C::Reply>, K> {
    // The first session of an id that was never locked has no past that could have an answer.
    let has_past = known.record.lock_revision > 0 || known.record.log_after > 0;
    if !change.has_copies() || !has_past || mutant::is(Mutant::PastNotAsked) {
        return Ok(Copy::None);
    }
    let past = keeper.past(known.revision).await.map_err(NotDone::Stopped)?;
    let Some(reply) = change.replay(&past) else { return Ok(Copy::None) };
    if past.covers() <= known.revision {
        return Ok(Copy::Before(reply));
    }
    // The next attempt must not decide on an older record.
    keeper.doubt();
    keeper.in_time().map_err(NotDone::Stopped)?;
    Ok(Copy::Since)
}
