//! The record loop.

use std::sync::Arc;

use holdfast_protocol::record::Urgency;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};
use holdfast_rules::{Decision, Past};
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::{Storage, StoreError};
use tokio::time::Instant;

use crate::write::write;
use crate::{Found, Known};

/// Who changes a record, and what it remembers of it: a coordinator on behalf of a request, or a session's agent.
pub trait Keeper: Send + Sync {
    /// Why a change ends without an outcome.
    type Stop: Send;
    /// A place in line among those of this process who change the record.
    type Turn: Send;

    /// The session.
    fn key(&self) -> &SessionKey;

    /// Where its record is.
    fn store(&self) -> &dyn Storage;

    /// How far the relay has announced the stream, as far as is known here.
    fn announced(&self) -> u64;

    /// Whether a change waits when announcements are behind.
    fn urgency(&self) -> Urgency;

    /// When a write must have been answered.
    fn deadline(&self) -> Instant;

    /// Refuses another attempt once there is no time left.
    ///
    /// # Errors
    /// What to tell whoever asked.
    fn in_time(&self) -> Result<(), Self::Stop>;

    /// Waits for the turn. It is held while the record is read, decided on and written, and not while anything else is
    /// waited for.
    fn turn(&self) -> impl Future<Output = Self::Turn> + Send;

    /// The record as it was last seen here, if it was and nothing says that this is old.
    fn seen(&self) -> Option<Known>;

    /// The record from the stream's leader.
    fn read(&mut self) -> impl Future<Output = Result<Found, Self::Stop>> + Send;

    /// Whether `known` was current at some moment after the request arrived.
    fn is_proven(&self, known: &Known) -> bool;

    /// The record's stored revisions up to `revision` or further.
    fn past(&self, revision: Revision) -> impl Future<Output = Result<Arc<Past>, Self::Stop>> + Send;

    /// `known` was written on top of `expected`.
    fn wrote(&mut self, expected: Revision, known: &Known);

    /// What was last seen turned out to be old.
    fn doubt(&mut self);

    /// What to tell of a fault of the store, which is not *moved*.
    fn fault(&self, fault: StoreError) -> Self::Stop;

    /// Waits until the relay has announced `mark`: the bucket keeps 64 revisions of a record, and the relay must see
    /// each.
    fn catch_up(&mut self, mark: Revision) -> impl Future<Output = Result<(), Self::Stop>> + Send;

    /// Waits a little before the next attempt, after another writer was first.
    fn pause(&mut self) -> impl Future<Output = ()> + Send;

    /// Tells whoever should know what was just written: the session's agent, and those who wait for its lock.
    fn tell(&mut self, known: &Known) -> impl Future<Output = ()> + Send;
}

/// One change of a record.
pub trait Change<K: Keeper>: Sync {
    /// Its answer.
    type Reply: Send;

    /// Decides on the record, by a rule. What the rule has to know of the fleet is looked up here.
    fn decide(&self, keeper: &K, known: &Known) -> impl Future<Output = Result<Decision<Self::Reply>, K::Stop>> + Send;

    /// Decides where there is no record; `revision` is the key's.
    fn decide_absent(
        &self,
        keeper: &K,
        _revision: Revision,
    ) -> impl Future<Output = Result<Decision<Self::Reply>, K::Stop>> + Send {
        let refusal = Error::no_session(keeper.key());
        async move { Ok(Decision::Refuse(refusal)) }
    }

    /// What is taken for granted at first where the record was never seen, so that it need not be read.
    fn guess(&self) -> Option<Found> {
        None
    }

    /// The only revision that may be changed, where a decision was made on it outside of the loop.
    fn pinned(&self) -> Option<Revision> {
        None
    }

    /// Whether there may be other copies of the request.
    fn has_copies(&self) -> bool {
        false
    }

    /// What an earlier copy of it was answered.
    fn replay(&self, _past: &Past) -> Option<Self::Reply> {
        None
    }

    /// Whether only the past has the whole answer of an earlier copy that `record` shows the effect of.
    fn needs_past(&self, _record: &SessionRecord) -> bool {
        false
    }

    /// Whether `record` is as this very request wrote it, by a write that was not answered.
    fn is_own_write(&self, _record: &SessionRecord) -> bool {
        false
    }

    /// Whether those who should know are told of the change by the loop. Whoever gives a session to a worker tells it more.
    fn is_told(&self) -> bool {
        true
    }
}

/// What a change wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// What was asked for.
    Change,
    /// Only a note that a copy of the request was answered.
    Note,
    /// Nothing: the record was as it should be, or an earlier copy was answered.
    Nothing,
}

/// A change that was made, or that needed no making.
#[derive(Debug)]
pub struct Done<Reply> {
    /// The record after it.
    pub known: Known,
    /// The answer.
    pub reply: Reply,
    /// What was written for it.
    pub wrote: Wrote,
}

/// A change that was not made.
#[derive(Debug)]
pub enum NotDone<Stop> {
    /// The rules say no, by this record.
    Refused(Box<Error>, Found),
    /// The record is not at the pinned revision any more.
    Moved,
    /// Something else is in the way.
    Stopped(Stop),
}

type Outcome<T, K> = Result<T, NotDone<<K as Keeper>::Stop>>;

enum Attempt<Reply> {
    Done(Done<Reply>),
    /// The relay must come this far first.
    Behind(Revision),
    /// Another writer was first.
    Moved,
}

/// Whether an earlier copy of a request took effect.
enum Copy<Reply> {
    /// No.
    None,
    /// Yes, and it was answered this. The record that is known is not older than that.
    Before(Reply),
    /// Yes, after the record that is known: what it did may still stand, and then the record has to say that it was
    /// asked again.
    Since,
}

/// Makes `change`, or says why not.
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
        // Others may have been first while this one stood in line.
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
                    // What is known here may be older than the pinned one.
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
            // There is nothing that could be as it should be.
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
    // A record that was never locked, and is the first of its id, has no past that could answer.
    let has_past = known.record.lock_revision > 0 || known.record.log_after > 0;
    if !change.has_copies() || !has_past || mutant::is(Mutant::PastNotAsked) {
        return Ok(Copy::None);
    }
    let past = keeper.past(known.revision).await.map_err(NotDone::Stopped)?;
    let Some(reply) = change.replay(&past) else { return Ok(Copy::None) };
    if past.covers() <= known.revision {
        return Ok(Copy::Before(reply));
    }
    // The next look must see as much.
    keeper.doubt();
    keeper.in_time().map_err(NotDone::Stopped)?;
    Ok(Copy::Since)
}
