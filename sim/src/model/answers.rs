//! Every request is answered while those who answer are there; and once all faults are over, everything works.

use std::time::Duration;

use holdfast_protocol::subject::Verb;

use super::facts::Facts;
use crate::client::Reply;
use crate::history::{Fault, Outcome};

/// How long a fault is felt after it: a worker's lease, and the time to notice that it ran out.
const AFTERMATH: Duration = Duration::from_secs(20);

pub(super) fn all(facts: &Facts<'_>) -> Result<(), String> {
    for request in &facts.run.seen.requests {
        for attempt in &request.attempts {
            let from = attempt.sent.saturating_sub(AFTERMATH);
            let is_calm = |matters: fn(&Fault) -> bool| facts.run.seen.is_calm(from, attempt.ended, matters);
            let how = match &attempt.outcome {
                // Storage that fails is answered, too.
                Outcome::Answered(Reply::Silence)
                    if is_calm(|fault| !matches!(fault, Fault::Storage | Fault::Stale | Fault::Net)) =>
                {
                    "was not answered"
                }
                Outcome::Answered(Reply::Nobody)
                    if is_calm(|fault| !matches!(fault, Fault::Storage | Fault::Stale)) =>
                {
                    "was told that nobody listens"
                }
                Outcome::Answered(Reply::Refused(error)) if error["code"] == "unknown_outcome" && is_calm(|_| true) => {
                    "has an unknown outcome though nothing failed"
                }
                _ => continue,
            };
            return Err(format!("{} ({}) at {:.3} s {how}", request.id, request.verb, attempt.sent.as_secs_f64()));
        }
    }
    Ok(())
}

pub(super) fn at_the_end(facts: &Facts<'_>) -> Result<(), String> {
    for request in facts.run.seen.requests.iter().filter(|request| request.client == "last") {
        let outcome = request.attempts.last().map(|attempt| &attempt.outcome);
        let is_fine = match outcome {
            Some(Outcome::Answered(Reply::Done(_))) => true,
            Some(Outcome::Answered(reply)) => request.verb == Verb::AdminUnlock && reply.reason() == Some("not_locked"),
            Some(Outcome::Open | Outcome::Left) | None => false,
        };
        if !is_fine {
            return Err(format!("{} ({} {}) came to {outcome:?}", request.id, request.verb, request.session));
        }
    }
    Ok(())
}
