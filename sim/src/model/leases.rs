//! A lock with a lease lives as long as was asked, from its grant and from each renewal that was acknowledged; and it
//! does not live for ever.

use std::time::Duration;

use holdfast_protocol::record::{EventType, Lock};
use holdfast_protocol::subject::Verb;

use super::facts::{Facts, changes};
use crate::run::Revised;

/// How long after the last fault each lease has run out: its own time, and that of a worker that is replaced.
const ALL_OVER: Duration = Duration::from_secs(35);

/// When this lock was granted, in the revision `last` or an earlier one.
fn granted_at(revised: &[&Revised], last: usize, lock: &Lock) -> Duration {
    let is_it = |revised: &&&Revised| {
        // While the record says nothing, whoever counts goes on.
        let Some(record) = &revised.record else { return true };
        let found = record.lock.as_ref();
        found.is_some_and(|found| (found.revision, &found.token_hash) == (lock.revision, &lock.token_hash))
    };
    let its = revised[..=last].iter().rev().take_while(is_it).filter(|revised| revised.record.is_some());
    let first = its.last();
    first.map_or(Duration::ZERO, |first| first.at)
}

pub(super) fn as_long_as_asked(facts: &Facts<'_>) -> Result<(), String> {
    for (key, revised) in &facts.records {
        for change in changes(revised) {
            let is_end = change.record.event.as_ref().is_some_and(|event| event.kind == EventType::LockExpired);
            if !is_end {
                continue;
            }
            let at = change.after.revision;
            let Some(before) = change.same_life() else { return Err(format!("{key}: expired out of nothing at {at}")) };
            let Some((lock, ttl_ms)) = before.lock.as_ref().and_then(|lock| Some((lock, lock.ttl_ms?))) else {
                return Err(format!("{key}: what expired at {at} was no lock with a lease"));
            };
            let last = revised.iter().position(|revised| revised.revision == at).unwrap_or(1) - 1;
            let granted = granted_at(revised, last, lock);
            let renewed = renewed_at(facts, &key.id.to_string(), lock);
            let since = granted.max(renewed);
            let lasted = change.after.at.saturating_sub(since);
            if lasted < Duration::from_millis(ttl_ms) {
                return Err(format!(
                    "{key}: the lock {} of {} with a lease of {ttl_ms} ms expired at {at}, after {lasted:?}",
                    lock.revision, lock.owner
                ));
            }
        }
        if let Some(revised) = revised.iter().rev().find(|revised| revised.at <= facts.run.healed + ALL_OVER)
            && let Some(lock) = revised.record.as_ref().and_then(|record| record.lock.as_ref())
            && lock.ttl_ms.is_some()
        {
            return Err(format!("{key}: the lease of {} at {} never ended", lock.owner, revised.revision));
        }
    }
    Ok(())
}

/// When the last renewal was sent that was acknowledged.
fn renewed_at(facts: &Facts<'_>, session: &str, lock: &Lock) -> Duration {
    let renewals =
        facts.run.seen.requests.iter().filter(|request| request.verb == Verb::LockRenew && request.session == session);
    let its = renewals.filter(|request| request.token().is_some_and(|token| lock.is_proven_by(token)));
    its.flat_map(|request| request.done().map(|(attempt, _)| attempt.sent)).max().unwrap_or(Duration::ZERO)
}
