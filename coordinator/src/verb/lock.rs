//! Requests that change a lock, an operator's included: each is a rule that goes through the record loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_protocol::{Error, Revision, SessionKey, SessionRecord};
use holdfast_records::{Change, Done, Found, Known, NotDone, change};
use holdfast_rules::{Asked, Decision, Past};

use crate::context::Context;
use crate::error;
use crate::explain;
use crate::operation::{Operation, now};
use crate::place;
use crate::revoke;
use crate::secrets;
use crate::writer::Writer;
use hand_over::HandOver;

pub(crate) mod acquire;
mod hand_over;
pub(crate) mod release;
pub(crate) mod validate;

/// A request that changes a lock by a rule.
pub(crate) trait LockRule: Sync {
    /// The answer to it.
    type Reply: Send;

    /// What to do about it.
    fn decide(&self, record: &SessionRecord, revision: Revision, asked: &Asked<'_>) -> Decision<Self::Reply>;

    /// The answer that an earlier copy of the request got.
    fn replay(&self, past: &Past, asked: &Asked<'_>) -> Option<Self::Reply>;

    /// Whether `record` shows the effect of an earlier copy, but only the record's past has that copy's whole answer.
    fn needs_past(&self, _record: &SessionRecord, _asked: &Asked<'_>) -> bool {
        false
    }
}

struct Locking<'a, R> {
    rule: &'a R,
    asked: Asked<'a>,
    /// Set when record and known secret are of different generations, and this matters.
    is_behind: &'a AtomicBool,
    /// Set when the record is the one that is behind.
    is_due: &'a AtomicBool,
    /// Grants a lock that is released to the first waiter.
    hand_over: Option<&'a HandOver>,
}

impl<R: LockRule> Change<Writer<'_>> for Locking<'_, R> {
    type Reply = R::Reply;

    async fn decide(&self, writer: &Writer<'_>, known: &Known) -> Result<Decision<R::Reply>, Error> {
        let is_revoked = revoke::is_due(writer.context, &known.record);
        if is_revoked || known.record.secret > self.asked.secret.generation() {
            self.is_due.store(is_revoked, Ordering::Relaxed);
            self.is_behind.store(true, Ordering::Relaxed);
            return Err(error::contended(writer.key));
        }
        match (self.rule.decide(&known.record, known.revision, &self.asked), self.hand_over) {
            (Decision::Commit { next, reply }, Some(hand_over)) => {
                Ok(Decision::Commit { next: hand_over.of(writer, known, next, self.asked.secret).await, reply })
            }
            (decision, _) => Ok(decision),
        }
    }

    fn has_copies(&self) -> bool {
        self.asked.by_caller
    }

    fn replay(&self, past: &Past) -> Option<R::Reply> {
        self.rule.replay(past, &self.asked)
    }

    fn needs_past(&self, record: &SessionRecord) -> bool {
        self.rule.needs_past(record, &self.asked)
    }

    fn is_own_write(&self, record: &SessionRecord) -> bool {
        record.lock.as_ref().is_some_and(|lock| lock.nonce == self.asked.nonce)
    }
}

/// The outcome of a request that changes a lock.
pub(crate) type Outcome<Reply> = Result<Done<Reply>, NotDone<Error>>;

/// Changes the lock of `key` by `rule`.
pub(crate) async fn locked<R: LockRule>(
    context: &Context,
    key: &SessionKey,
    operation: &Operation,
    rule: &R,
) -> Outcome<R::Reply> {
    changed(context, key, operation, rule, None).await
}

/// Frees the lock of `key` by `rule`. If somebody waits for it, the same write grants it to the first waiter.
async fn handed_over<R: LockRule>(
    context: &Context,
    key: &SessionKey,
    operation: &Operation,
    rule: &R,
) -> Outcome<R::Reply> {
    let hand_over = HandOver::default();
    let outcome = changed(context, key, operation, rule, Some(&hand_over)).await;
    hand_over.settle(&outcome);
    outcome
}

async fn changed<R: LockRule>(
    context: &Context,
    key: &SessionKey,
    operation: &Operation,
    rule: &R,
    hand_over: Option<&HandOver>,
) -> Outcome<R::Reply> {
    let at = now();
    loop {
        let secret = context.secrets.now();
        let (is_behind, is_due) = (AtomicBool::new(false), AtomicBool::new(false));
        let asked = operation.asked(&at, &secret);
        let locking = Locking { rule, asked, is_behind: &is_behind, is_due: &is_due, hand_over };
        let outcome = change(&mut Writer::new(context, key, operation), &locking).await;
        if !is_behind.load(Ordering::Relaxed) || operation.left().is_zero() {
            return outcome;
        }
        if is_due.load(Ordering::Relaxed) {
            revoke::found(context, key).await;
        }
        // This coordinator may not have heard of a rotation.
        if let Err(fault) = secrets::refresh(context).await {
            return Err(NotDone::Stopped(error::of_store(&fault, key)));
        }
        operation.pause().await;
    }
}

/// The answer or the refusal. A session without a live owner is placed in the background.
pub(crate) async fn finish<Reply>(
    context: &Arc<Context>,
    key: &SessionKey,
    operation: &Operation,
    outcome: Outcome<Reply>,
) -> Result<Reply, Error> {
    match outcome {
        Ok(Done { known, reply, .. }) => {
            place::bring_back(context, &known);
            Ok(reply)
        }
        Err(NotDone::Refused(refusal, Found::Record(known))) => {
            place::bring_back(context, &known);
            Err(explain::conflict(context, &known, *refusal, operation).await)
        }
        Err(not_done) => Err(error::of_not_done(not_done, key)),
    }
}
