//! `lock.acquire`, with waiting in a queue.
//!
//! Invariant: waiters are served in the order in which this coordinator received them. A waiter joins the queue before
//! anything is awaited, and keeps its place through temporary failures. It leaves with the grant, with `lock_held` at
//! the end of `wait_ms`, or with a final refusal. A request that does not wait may find the lock free and take it.

mod pass_on;

use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::reply::Grant;
use holdfast_protocol::request::Acquire;
use holdfast_protocol::{Error, Reason, RequestId, Revision, SessionKey, SessionRecord};
use holdfast_records::{Found, NotDone, Wrote};
use holdfast_rules::{Asked, Decision, Past, acquire};
use holdfast_store::chance;
use holdfast_store::mutant::{self, Mutant};
use tokio::time::Instant;

use crate::asker::Asker;
use crate::context::Context;
use crate::grants::Granted;
use crate::operation::{Incoming, Operation, now};
use crate::response::Response;
use crate::verb::lock::{LockRule, Outcome, finish, locked};
use crate::waiters::{self, Settled, Waiting, Wants};

/// The pause before the first waiter tries again after a temporary failure.
const RETRY: Duration = Duration::from_millis(100);

impl LockRule for Acquire {
    type Reply = Grant;

    fn decide(&self, record: &SessionRecord, revision: Revision, asked: &Asked<'_>) -> Decision<Grant> {
        acquire::acquire(record, revision, self, asked)
    }

    fn replay(&self, past: &Past, asked: &Asked<'_>) -> Option<Grant> {
        past.grant(asked).filter(|grant| grant.owner == self.owner)
    }
}

/// A parsed `lock.acquire`, with its place in the queue if it waits.
pub(crate) struct Acquiring {
    wants: Arc<Wants>,
    asker: Asker,
    place: Option<Waiting>,
}

/// The outcome of waiting.
enum Waited {
    /// The request has an outcome.
    Over(Outcome<Grant>),
    /// Another coordinator has taken the request over, and answers it.
    PassedOn,
}

/// Parses the request and joins the queue. Awaits nothing.
///
/// # Errors
/// `invalid_params`, and `busy` when too many wait.
pub(crate) fn begin(context: &Context, key: &SessionKey, incoming: &Incoming) -> Result<Acquiring, Error> {
    let (request, operation) = incoming.parse::<Acquire>(&context.config.limits)?;
    let wait = Duration::from_millis(request.wait_ms.unwrap_or(0));
    if !wait.is_zero() && request.ttl_ms.is_none() && incoming.asker.is_imported() {
        let why = "wait_ms needs ttl_ms over a service import: nobody can tell there whether the grant is heard";
        return Err(Error::invalid(Reason::BadValue, why).detail("field", "wait_ms"));
    }
    // A request with a token asks about its own lock; the first attempt answers it.
    let waits = !wait.is_zero() && request.expected_token.is_none();
    let wants = Arc::new(Wants { until: operation.arrived + wait, request, operation });
    let place = waits.then(|| waiters::join(context, key, incoming.asker.client(), &wants)).transpose()?;
    Ok(Acquiring { wants, asker: incoming.asker.clone(), place })
}

impl Acquiring {
    /// Whether it waits in the queue.
    pub(crate) fn waits(&self) -> bool {
        self.place.is_some()
    }

    /// Its idempotency key.
    pub(crate) fn request_id(&self) -> &RequestId {
        &self.wants.operation.request_id
    }
}

/// Takes the lock, or waits for it. `None`: another coordinator answers the client.
pub(crate) async fn acquire(
    context: &Arc<Context>,
    key: &SessionKey,
    acquiring: Acquiring,
) -> Result<Option<Response>, Error> {
    let Acquiring { wants, asker, place } = acquiring;
    let Wants { request, operation, .. } = &*wants;
    let outcome = match place {
        None => locked(context, key, operation, request).await,
        Some(waiting) => match in_queue(context, key, &wants, &asker, &waiting).await? {
            Waited::Over(outcome) => {
                if is_new(&outcome) {
                    waiting.leave_with_lock();
                }
                outcome
            }
            Waited::PassedOn => return Ok(None),
        },
    };
    let is_new = is_new(&outcome);
    let grant = finish(context, key, operation, outcome).await?;
    let answer = Response::of(&grant)?;
    // A grant that was answered before is not taken back: the receiver of the first answer may hold it.
    let is_told = is_new && !asker.is_imported();
    let granted = is_told.then(|| Granted { key: key.clone(), fence: grant.fence });
    Ok(Some(Response { granted, ..answer }))
}

/// Whether it is a grant that was just written.
fn is_new(outcome: &Outcome<Grant>) -> bool {
    outcome.as_ref().is_ok_and(|done| done.wrote == Wrote::Change)
}

/// Waits for its turn in the queue and then tries, until its time is over. A release may grant it the lock meanwhile.
async fn in_queue(
    context: &Arc<Context>,
    key: &SessionKey,
    wants: &Wants,
    asker: &Asker,
    waiting: &Waiting,
) -> Result<Waited, Error> {
    let Wants { request, operation, until } = wants;
    let until = *until;
    // A write that may grant the lock still, on top of this revision.
    let mut doubt: Option<Revision> = None;
    loop {
        let is_over = Instant::now() >= until;
        let is_leaving = context.leaving.is_cancelled();
        let mut poll = context.config.waiter_poll.mul_f64(chance::share(0.75..1.25));
        if is_leaving && !is_over {
            // In the order of the queue: a waiter that is passed on leaves it, which wakes the next one.
            if doubt.is_some() {
                // Another coordinator would not recognise a grant that comes still.
                return Ok(Waited::Over(Err(in_doubt())));
            }
            if waiting.is_first() {
                return pass_on::pass_on(context, key, request, operation, asker, until)
                    .await
                    .map(|()| Waited::PassedOn);
            }
        } else if waiting.is_first() || was_granted_before(context, key, request, operation) {
            match locked(context, key, &operation.again(until), request).await {
                Err(NotDone::Refused(refusal, Found::Record(known)))
                    if refusal.reason == Reason::LockHeld && !is_over =>
                {
                    // No agent may be counting the lock's lease.
                    context.countdown.ask_soon(&known.record);
                }
                Err(NotDone::Stopped(failure))
                    if failure.retryable && !is_over && !mutant::is(Mutant::WaitEndsByFault) =>
                {
                    tracing::debug!(%key, %failure, "the first waiter tries again");
                    poll = RETRY;
                }
                outcome => return Ok(Waited::Over(certain(outcome, doubt))),
            }
        } else if is_over {
            let outcome = give_up(context, key, request, &operation.again(until)).await;
            return Ok(Waited::Over(certain(outcome, doubt)));
        }
        waiting.park();
        tokio::select! {
            biased;
            () = context.leaving.cancelled(), if !is_leaving => {}
            () = waiting.woken() => {}
            () = tokio::time::sleep_until(until.min(Instant::now() + poll)) => {}
        }
        match waiting.unpark().await {
            Settled::Granted(done) => return Ok(Waited::Over(Ok(*done))),
            Settled::Nothing => {}
            Settled::Unknown(expected) => doubt = Some(expected),
        }
    }
}

/// The outcome of a last attempt; unknown, if a release may grant the lock to this request still: a write on top of the
/// revision `doubt` was not acknowledged, and the record has not changed since.
fn certain(outcome: Outcome<Grant>, doubt: Option<Revision>) -> Outcome<Grant> {
    match (outcome, doubt) {
        (Err(NotDone::Refused(_, Found::Record(known))), Some(expected)) if known.revision <= expected => {
            Err(in_doubt())
        }
        (outcome, _) => outcome,
    }
}

fn in_doubt() -> NotDone<Error> {
    let why = "the lock was released, and may be granted to this request still";
    NotDone::Stopped(Error::new(Reason::AckTimeout, why))
}

/// Whether an earlier copy of the same request holds the lock, according to the cached record.
fn was_granted_before(context: &Context, key: &SessionKey, request: &Acquire, operation: &Operation) -> bool {
    let Some(known) = context.records.cached(key) else { return false };
    let at = now();
    operation
        .asked(&at, &context.secrets.now())
        .regrant(&known.record)
        .is_some_and(|grant| grant.owner == request.owner)
}

/// The conflict for a waiter whose turn has not come in time. If the lock is just passing from one waiter to the next,
/// the next one gets a moment to take it first, so that this last attempt overtakes nobody.
async fn give_up(context: &Context, key: &SessionKey, request: &Acquire, operation: &Operation) -> Outcome<Grant> {
    for _ in 0..5 {
        let known = context.records.read_record(key, operation.deadline).await.map_err(NotDone::Stopped)?;
        let at = now();
        match request.decide(&known.record, known.revision, &operation.asked(&at, &context.secrets.now())) {
            // The record loop decides this with the record's past.
            Decision::Refuse(_) | Decision::Unchanged(_) | Decision::Note { .. } => break,
            Decision::Commit { .. } => operation.pause().await,
        }
    }
    locked(context, key, operation, request).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use holdfast_records::Known;

    use super::*;
    use crate::fixture;

    #[test]
    fn nobody_is_told_that_another_holds_a_lock_which_it_may_get_still() {
        let refused = |revision| -> Outcome<Grant> {
            let record = Arc::new(fixture::passive("s1"));
            let known = Known { revision: Revision(revision), record, since: Instant::now() };
            let held = Box::new(Error::new(Reason::LockHeld, "held"));
            Err(NotDone::Refused(held, Found::Record(known)))
        };
        let reason = |outcome: Outcome<Grant>| match outcome {
            Err(NotDone::Stopped(error)) => error.reason,
            Err(NotDone::Refused(error, _)) => error.reason,
            Ok(_) | Err(NotDone::Moved) => panic!("neither stopped nor refused"),
        };
        assert_eq!(reason(certain(refused(7), Some(Revision(7)))), Reason::AckTimeout);
        assert_eq!(reason(certain(refused(8), Some(Revision(7)))), Reason::LockHeld, "the write cannot land any more");
        assert_eq!(reason(certain(refused(7), None)), Reason::LockHeld);
    }
}
