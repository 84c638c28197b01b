//! A refusal is true of a state that was current after the request was sent.

use std::time::Duration;

use holdfast_protocol::record::{EventType, LockMode, SessionRecord, State};
use holdfast_protocol::subject::Verb;
use serde_json::Value;

use super::facts::Facts;
use crate::client::Reply;
use crate::history::{Attempt, Fault, Outcome, Request};
use crate::run::Revised;

/// Refusals that are about the fleet and the storage, not about a record.
const OF_THE_FLEET: &[&str] = &[
    "storage_unavailable",
    "ack_timeout",
    "lease_lost",
    "snapshot_pending",
    "mailbox_full",
    "draining",
    "no_live_worker",
    "no_worker",
    // A splice outside of the text.
    "bad_value",
];

pub(super) fn true_ones(facts: &Facts<'_>) -> Result<(), String> {
    for request in &facts.run.seen.requests {
        for attempt in &request.attempts {
            if let Outcome::Answered(Reply::Refused(error)) = &attempt.outcome {
                is_true(facts, request, attempt, error)
                    .map_err(|why| format!("{} ({}) was refused, but {why}: {error}", request.id, request.verb))?;
            }
        }
    }
    Ok(())
}

fn is_true(facts: &Facts<'_>, request: &Request, attempt: &Attempt, error: &Value) -> Result<(), String> {
    // What a deposed leader says may have been over before, and nobody can tell.
    let is_fresh = facts.run.seen.is_calm(attempt.sent, attempt.ended, |fault| *fault == Fault::Stale);
    let attempt = &Attempt { sent: if is_fresh { attempt.sent } else { Duration::ZERO }, ..attempt.clone() };
    let reason = error["reason"].as_str().unwrap_or_default();
    if OF_THE_FLEET.contains(&reason) {
        return Ok(());
    }
    let was = |is: fn(&Revised) -> bool| was_so(facts.records_of(request), attempt.sent, attempt.ended, is);
    match reason {
        "lock_held" | "stale_token" | "not_locked" | "lock_required" | "lock_moved" => {
            of_a_lock(facts, request, attempt, error, reason)
        }
        "revision_mismatch" | "nothing_to_undo" => of_a_revision(facts, request, attempt, error),
        "no_session"
            if was(is_over) || facts.records_of(request).first().is_none_or(|first| first.at >= attempt.sent) =>
        {
            Ok(())
        }
        // A late copy of an open opens nothing again.
        "no_session" if request.verb == Verb::SessionOpen && opened_what_is_over(facts, request, attempt) => Ok(()),
        "no_session" => Err("it was there all the time".to_owned()),
        "already_exists" if was(|revised| !is_over(revised)) => Ok(()),
        "already_exists" => Err("there was none".to_owned()),
        "record_invalid" if was(|revised| revised.record.is_none() && revised.json.is_some()) => Ok(()),
        other => Err(format!("{other} is no reason here")),
    }
}

fn is_over(revised: &Revised) -> bool {
    revised.record.as_ref().map_or(revised.json.is_none(), |record| record.state == State::Closed)
}

/// Whether this request opened a session that had ended by the time that it was asked again.
fn opened_what_is_over(facts: &Facts<'_>, request: &Request, attempt: &Attempt) -> bool {
    let records = facts.records_of(request);
    let is_its = |record: &SessionRecord| {
        record.event.as_ref().is_some_and(|event| {
            event.kind == EventType::SessionOpened
                && event.request_id.as_ref().is_some_and(|id| id.as_str() == request.id)
        })
    };
    let Some(opened) = records.iter().find(|revised| revised.record.as_ref().is_some_and(is_its)) else { return false };
    let ended = records.iter().find(|revised| revised.revision > opened.revision && is_over(revised));
    ended.is_some_and(|ended| ended.at <= attempt.ended)
}

/// Whether the record was so at some time between `from` and `until`.
fn was_so(records: &[&Revised], from: Duration, until: Duration, is: impl Fn(&Revised) -> bool) -> bool {
    let end = |place: usize| records.get(place + 1).map_or(Duration::MAX, |next| next.at);
    records.iter().enumerate().any(|(place, revised)| revised.at <= until && end(place) >= from && is(revised))
}

fn of_a_lock(
    facts: &Facts<'_>,
    request: &Request,
    attempt: &Attempt,
    error: &Value,
    reason: &str,
) -> Result<(), String> {
    let revision = error["details"]["revision"].as_u64().ok_or("it names no revision")?;
    let records = facts.records_of(request);
    let place = records.iter().position(|revised| revised.revision.0 == revision).ok_or("there is no such revision")?;
    let record = records[place].record.as_ref().ok_or("that revision does not parse")?;
    if !says_no(record, request, reason) {
        return Err(format!("revision {revision} says otherwise"));
    }
    match records.get(place + 1) {
        Some(next) if next.at < attempt.sent => Err(format!("revision {revision} was over before it was asked")),
        _ => Ok(()),
    }
}

fn says_no(record: &SessionRecord, request: &Request, reason: &str) -> bool {
    let token = request.token().or(request.body["expected_token"].as_str());
    let is_proven = record.lock.as_ref().zip(token).is_some_and(|(lock, token)| lock.is_proven_by(token));
    match reason {
        "lock_held" => record.lock.is_some() && (!is_proven || request.body["owner"].is_string()),
        "stale_token" => !is_proven,
        "not_locked" => record.lock.is_none(),
        "lock_required" => record.lock.is_none() && record.config.lock == LockMode::Required,
        "lock_moved" => request.body["expected_lock_revision"] != record.lock_revision,
        _ => false,
    }
}

fn of_a_revision(facts: &Facts<'_>, request: &Request, attempt: &Attempt, error: &Value) -> Result<(), String> {
    let revision = &error["details"]["revision"];
    let views = facts.fold_of(request).map_or(&[][..], |fold| &fold.views);
    let is_it = |view: &&super::fold::View| view.seen["revision"] == *revision;
    if views.iter().filter(is_it).any(|view| view.until >= attempt.sent && view.from <= attempt.ended) {
        return Ok(());
    }
    Err(format!("the document was not at revision {revision} then"))
}
