//! `lock.acquire`, with waiting in line.
//!
//! Invariant: those who wait are served in order of arrival. Whoever wants to wait joins the end of the line at once; one
//! who does not may find the lock free and take it.

use std::time::Duration;

use holdfast_protocol::lock::{self, Asked, LockDecision};
use holdfast_protocol::reply::Grant;
use holdfast_protocol::request::Acquire;
use holdfast_protocol::{Error, Reason, Revision, SessionKey, SessionRecord};
use tokio::time::Instant;

use crate::answer::Answer;
use crate::call::{Call, Incoming, now};
use crate::change::{self, Change, Done, NotDone};
use crate::error;
use crate::handle::lock::finish;
use crate::hub::Hub;
use crate::past::Past;
use crate::waiters::{self, Waiting};

impl Change for Acquire {
    type Reply = Grant;
    const LOOKS_BACK_FIRST: bool = false;

    fn decide(&self, record: &SessionRecord, revision: Revision, asked: &Asked<'_>) -> LockDecision<Grant> {
        lock::acquire(record, revision, self, asked)
    }

    fn replay(&self, past: &Past, asked: &Asked<'_>) -> Option<Grant> {
        past.grant(asked).filter(|grant| grant.owner == self.owner)
    }
}

type Outcome = Result<Done<Grant>, NotDone>;

/// Takes the lock, or waits for it.
pub(crate) async fn acquire(hub: &Hub, key: &SessionKey, incoming: &Incoming) -> Result<Answer, Error> {
    let (request, call) = incoming.parse::<Acquire>(&hub.config.limits)?;
    let wait = Duration::from_millis(request.wait_ms.unwrap_or(0));
    // With a token there is nothing to wait for but one's own lock, which the first try answers.
    let outcome = if wait.is_zero() || request.expected_token.is_some() {
        change::make(hub, key, &call, &request).await
    } else {
        // The place in line is taken before anything is awaited: that is the order of arrival.
        let waiting = waiters::join(hub, key, call.arrived)?;
        incoming.step_aside();
        in_line(hub, key, &request, &call, waiting, call.arrived + wait).await?
    };
    Answer::of(&finish(hub, key, &call, outcome).await?)
}

fn may_wait(outcome: &Outcome) -> bool {
    matches!(outcome, Err(NotDone::Refused(refusal, _)) if refusal.reason == Reason::LockHeld)
}

/// Waits for the turn, and tries when it has come, until `until`.
async fn in_line(
    hub: &Hub,
    key: &SessionKey,
    request: &Acquire,
    call: &Call,
    waiting: Waiting,
    until: Instant,
) -> Result<Outcome, Error> {
    loop {
        let is_over = Instant::now() >= until;
        if waiting.is_first() {
            let outcome = change::make(hub, key, &call.again(), request).await;
            if is_over || !may_wait(&outcome) {
                return Ok(outcome);
            }
        } else if is_over {
            return Ok(give_up(hub, key, request, &call.again()).await);
        } else if let Some(outcome) = granted_before(hub, key, request, call) {
            return Ok(outcome);
        }
        let poll = hub.config.waiter_poll.mul_f64(rand::random_range(0.75..1.25));
        tokio::select! {
            () = hub.leaving.cancelled() => {
                return Err(error::busy(Reason::Draining, "this coordinator is leaving; ask again to wait at another"));
            }
            () = tokio::time::sleep_until(until.min(Instant::now() + poll)) => {}
            () = waiting.woken() => {}
        }
    }
}

/// The grant that an earlier copy of the same request got, as far as the others of the line have read the record.
fn granted_before(hub: &Hub, key: &SessionKey, request: &Acquire, call: &Call) -> Option<Outcome> {
    let known = hub.records.cached(key)?;
    let at = now();
    let grant = call.asked(&at, &hub.secret).regrant(&known.record).filter(|grant| grant.owner == request.owner)?;
    Some(Ok(Done { known, reply: grant, written: false }))
}

/// The conflict of one whose turn has not come in time. Should the lock be between two others of the line at this very
/// moment, the next of them gets a moment to take it, so that nobody is overtaken by a latecomer's end.
async fn give_up(hub: &Hub, key: &SessionKey, request: &Acquire, call: &Call) -> Outcome {
    for _ in 0..5 {
        let known = hub.records.read_record(key, call.deadline).await?;
        let at = now();
        match request.decide(&known.record, known.revision, &call.asked(&at, &hub.secret)) {
            LockDecision::Refuse(refusal) => return Err(NotDone::Refused(Box::new(refusal), known)),
            LockDecision::Unchanged(_) => break,
            LockDecision::Commit { .. } => call.pause().await,
        }
    }
    change::make(hub, key, call, request).await
}
