//! One change of a record's lock: read, decide, compare-and-set, and on a mismatch again.
//!
//! Invariant: a yes may rest on the cache, because the compare-and-set proves it. A no, and an answer that changes
//! nothing, rest on a read or write that was begun after the request arrived. Before a change is written under a
//! caller's `request_id`, the record's past is asked whether an earlier copy took effect. No worker is needed: the
//! record alone decides.

use std::sync::Arc;

use holdfast_protocol::lock::{Asked, LockDecision};
use holdfast_protocol::record::State;
use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};

use crate::cache::Known;
use crate::call::{Call, now};
use crate::error;
use crate::hub::Hub;
use crate::past::Past;
use crate::records::CommitError;

#[cfg(test)]
mod tests;

/// A request that changes a lock.
pub(crate) trait Change: Sync {
    /// Its answer.
    type Reply: Send;

    /// What to do about it.
    fn decide(&self, record: &SessionRecord, revision: Revision, asked: &Asked<'_>) -> LockDecision<Self::Reply>;

    /// What an earlier copy of it was answered.
    fn replay(&self, past: &Past, asked: &Asked<'_>) -> Option<Self::Reply>;

    /// Whether `record` is as this very call wrote it, by a write that was not answered.
    fn is_own_write(&self, record: &SessionRecord, asked: &Asked<'_>) -> bool {
        record.lock.as_ref().is_some_and(|lock| lock.nonce == asked.nonce)
    }

    /// Whether only the record's past has the whole answer of an earlier copy that `record` shows the effect of.
    fn needs_past(&self, _record: &SessionRecord, _asked: &Asked<'_>) -> bool {
        false
    }

    /// What the record should say, where it already is as the request wants it.
    fn note(&self, _record: &SessionRecord, _asked: &Asked<'_>) -> Option<SessionRecord> {
        None
    }
}

/// What a change wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// What was asked for.
    Change,
    /// Only a note about an earlier copy.
    Note,
    /// Nothing: the record was as it should be, or an earlier copy was answered.
    Nothing,
}

/// A change that was made, or that needed no making.
pub(crate) struct Done<Reply> {
    /// The record after it.
    pub(crate) known: Known,
    /// The answer.
    pub(crate) reply: Reply,
    /// What this request wrote.
    pub(crate) wrote: Wrote,
}

/// A change that was not made.
#[derive(Debug)]
pub(crate) enum NotDone {
    /// The lock rules say no, by this record.
    Refused(Box<Error>, Known),
    /// Something else is in the way.
    Failed(Error),
}

impl From<Error> for NotDone {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

enum Step<Reply> {
    Done(Done<Reply>),
    /// The relay must come this far first.
    Announce(Revision),
    /// Another writer was first.
    Again,
}

/// Makes `change`.
pub(crate) async fn make<C: Change>(
    hub: &Hub,
    key: &SessionKey,
    call: &Call,
    change: &C,
) -> Result<Done<C::Reply>, NotDone> {
    loop {
        call.in_time(key)?;
        match attempt(hub, key, call, change).await? {
            Step::Done(done) => return Ok(done),
            Step::Announce(mark) => hub.announced(mark, call.deadline).await?,
            Step::Again => call.pause().await,
        }
    }
}

async fn attempt<C: Change>(hub: &Hub, key: &SessionKey, call: &Call, change: &C) -> Result<Step<C::Reply>, NotDone> {
    let _lane = hub.records.lane(key).await;
    call.in_time(key)?;
    let at = now();
    let asked = call.asked(&at, &hub.secret);
    let mut known = hub.records.record(key, call.deadline).await?;
    loop {
        let is_proven = known.is_as_of(call.arrived);
        if known.record.state == State::Closed {
            if is_proven {
                return Err(error::no_session(key).into());
            }
            known = hub.records.read_record(key, call.deadline).await?;
            continue;
        }
        match change.decide(&known.record, known.revision, &asked) {
            LockDecision::Commit { next, reply } => match replay(hub, &known, call, change, &asked).await? {
                Replay::Before(reply) => return Ok(Step::Done(Done { known, reply, wrote: Wrote::Nothing })),
                Replay::Never => return commit(hub, &known, *next, reply, Wrote::Change, call).await,
                Replay::Since => known = hub.records.read_record(key, call.deadline).await?,
            },
            LockDecision::Unchanged(reply) if is_proven && change.is_own_write(&known.record, &asked) => {
                return Ok(Step::Done(Done { known, reply, wrote: Wrote::Change }));
            }
            LockDecision::Unchanged(reply) if is_proven => {
                let reply = match change.needs_past(&known.record, &asked) {
                    true => match replay(hub, &known, call, change, &asked).await? {
                        Replay::Before(first) => first,
                        Replay::Never => reply,
                        Replay::Since => {
                            known = hub.records.read_record(key, call.deadline).await?;
                            continue;
                        }
                    },
                    false => reply,
                };
                return match change.note(&known.record, &asked) {
                    Some(next) => commit(hub, &known, next, reply, Wrote::Note, call).await,
                    None => Ok(Step::Done(Done { known, reply, wrote: Wrote::Nothing })),
                };
            }
            LockDecision::Refuse(refusal) if is_proven => match replay(hub, &known, call, change, &asked).await? {
                Replay::Before(reply) => return Ok(Step::Done(Done { known, reply, wrote: Wrote::Nothing })),
                Replay::Never => return Err(NotDone::Refused(Box::new(refusal), known)),
                Replay::Since => known = hub.records.read_record(key, call.deadline).await?,
            },
            LockDecision::Unchanged(_) | LockDecision::Refuse(_) => {
                known = hub.records.read_record(key, call.deadline).await?;
            }
        }
    }
}

async fn commit<Reply>(
    hub: &Hub,
    known: &Known,
    mut next: SessionRecord,
    reply: Reply,
    wrote: Wrote,
    call: &Call,
) -> Result<Step<Reply>, NotDone> {
    if !call.by_caller
        && let Some(lock) = next.lock.as_mut().filter(|lock| lock.request_id.as_ref() == Some(&call.request_id))
    {
        // Whoever asks again under the id of a grant gets it again. An id that was made here is announced and was nobody's
        // secret, so it must not be worth a token.
        lock.request_id = None;
    }
    let key = known.record.key();
    match hub.records.commit(&key, known.revision, next, call).await {
        Ok(known) => Ok(Step::Done(Done { known, reply, wrote })),
        Err(CommitError::Moved) => Ok(Step::Again),
        Err(CommitError::Behind(mark)) => Ok(Step::Announce(mark)),
        Err(CommitError::Failed(error)) => Err(error.into()),
    }
}

/// Whether an earlier copy of a request took effect.
enum Replay<Reply> {
    /// No.
    Never,
    /// Yes, and it was answered this. The record that is known is not older than that.
    Before(Reply),
    /// Yes, after the record that is known: what it did may still stand, and then the record has to say that it was
    /// asked again.
    Since,
}

async fn replay<C: Change>(
    hub: &Hub,
    known: &Known,
    call: &Call,
    change: &C,
    asked: &Asked<'_>,
) -> Result<Replay<C::Reply>, Error> {
    // A record that was never locked, and is the first of its id, has no past that could answer.
    let has_past = known.record.lock_revision > 0 || known.record.log_after > 0;
    if !call.by_caller || !has_past {
        return Ok(Replay::Never);
    }
    let past: Arc<Past> = hub.records.past(&known.record.key(), known.revision, call.deadline).await?;
    let Some(reply) = change.replay(&past, asked) else { return Ok(Replay::Never) };
    if past.covers() <= known.revision {
        return Ok(Replay::Before(reply));
    }
    // The next look must see as much.
    hub.records.doubt(&known.record.key());
    call.in_time(&known.record.key())?;
    Ok(Replay::Since)
}
