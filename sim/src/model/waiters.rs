//! A grant whose asker was gone is taken back at once; and whoever is there keeps its place while it waits.

use std::time::Duration;

use holdfast_protocol::record::Lock;
use holdfast_protocol::subject::Verb;

use super::facts::{Facts, changes};
use crate::client::Reply;
use crate::history::{Fault, Outcome, Request};

/// How long a grant may stand that nobody heard, while all is well: two ways through the net and one write.
const SOON: Duration = Duration::from_secs(1);

fn matters(fault: &Fault) -> bool {
    // A net that only delays and doubles takes no longer than that.
    *fault != Fault::Net
}

pub(super) fn only_to_who_is_there(facts: &Facts<'_>) -> Result<(), String> {
    for request in facts.run.seen.requests.iter().filter(|request| request.verb == Verb::LockAcquire) {
        let Some(gone) = request.attempts.iter().map(|attempt| attempt.ended).max() else { continue };
        only_while_there(facts, request, gone)?;
    }
    Ok(())
}

fn only_while_there(facts: &Facts<'_>, request: &Request, gone: Duration) -> Result<(), String> {
    let revised = facts.records_of(request);
    for change in changes(revised) {
        let (at, event) = (change.after.at, change.record.event.as_ref());
        let is_its = event.and_then(|event| event.request_id.as_ref()).is_some_and(|id| id.as_str() == request.id);
        let Some(lock) = change.record.lock.as_ref().filter(|_| is_its) else { continue };
        let until = at + SOON;
        if at <= gone || !facts.run.seen.is_calm(at - SOON.min(at), until, matters) {
            continue;
        }
        let then = revised.iter().rev().find(|revised| revised.at <= until).and_then(|then| then.record.as_ref());
        // Once a copy was answered, the record says so, and whoever heard that has the lock.
        let is_it = |then: &Lock| then.fence == lock.fence && !then.reasked;
        let stands = then.and_then(|then| then.lock.as_ref()).is_some_and(is_it);
        if stands {
            return Err(format!(
                "{} got the lock at {}, after {} had gone at {:.3} s, and has it {SOON:?} later",
                request.id,
                change.after.revision,
                request.client,
                gone.as_secs_f64()
            ));
        }
    }
    Ok(())
}

/// Only its end, a final refusal or a coordinator's own limits end a wait.
pub(super) fn keeps_its_place(facts: &Facts<'_>) -> Result<(), String> {
    for request in facts.run.seen.requests.iter().filter(|request| request.verb == Verb::LockAcquire) {
        let Some(wait_ms) = request.body["wait_ms"].as_u64() else { continue };
        // With a token there is nothing to wait for.
        if request.body["expected_token"].is_string() {
            continue;
        }
        for attempt in &request.attempts {
            let Outcome::Answered(Reply::Refused(error)) = &attempt.outcome else { continue };
            let waited = attempt.ended.saturating_sub(attempt.sent);
            let passes = error["retryable"] == true && error["code"] != "busy";
            if passes && waited < Duration::from_millis(wait_ms) {
                return Err(format!("{} waited {waited:?} of {wait_ms} ms and was told {error}", request.id));
            }
        }
    }
    Ok(())
}
