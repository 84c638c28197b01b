//! A session ends by `session.close`, or by idleness where its settings say so; by nothing else.

use std::time::Duration;

use holdfast_protocol::SessionRecord;
use holdfast_protocol::record::{EventType, OnIdle, State};
use holdfast_protocol::subject::Verb;

use super::facts::{Change, Facts, changes};
use crate::run::Revised;

/// How long after it was asked for a reclaim may still be at work.
const RECLAIM: Duration = Duration::from_secs(30);

pub(super) fn only_close_and_idleness(facts: &Facts<'_>) -> Result<(), String> {
    for (key, revised) in &facts.records {
        for change in changes(revised) {
            let Some(before) = change.same_life() else { continue };
            if change.record.state == State::Closed && before.state != State::Closed {
                may_end(facts, &change, before, revised)
                    .map_err(|why| format!("{key} ended at {}: {why}", change.after.revision))?;
            }
            if before.state == State::Closed && change.record.state != State::Closed {
                return Err(format!("{key} came back to life at {}", change.after.revision));
            }
        }
    }
    Ok(())
}

fn may_end(facts: &Facts<'_>, change: &Change<'_>, before: &SessionRecord, revised: &[&Revised]) -> Result<(), String> {
    let Some(event) = change.record.event.as_ref().filter(|event| event.kind == EventType::SessionClosed) else {
        return Err("its event says nothing of that".to_owned());
    };
    if let Some(id) = &event.request_id {
        let request = facts.requests.get(id.as_str()).ok_or_else(|| format!("{id} is nobody's request"))?;
        // One that its worker refused to take up was never there.
        return match request.verb {
            Verb::SessionClose | Verb::SessionOpen => Ok(()),
            verb => Err(format!("by {id}, which is a {verb}")),
        };
    }
    if before.config.on_idle != OnIdle::Close || before.lock.is_some() {
        return Err("idleness must not end it".to_owned());
    }
    let at = change.after.at;
    let reclaims = facts.run.seen.requests.iter().filter(|request| request.verb == Verb::AdminReclaim);
    let reclaims = reclaims.filter(|request| {
        request.attempts.iter().any(|attempt| attempt.sent <= at && at <= attempt.ended.saturating_add(RECLAIM))
    });
    let asked = reclaims.filter_map(|request| request.body["max_idle_ms"].as_u64()).min();
    let idle = Duration::from_millis(asked.unwrap_or(u64::MAX).min(before.config.idle_timeout_ms));
    let since = last_activity(facts, change, revised);
    let lasted = at.saturating_sub(since);
    if lasted < idle { Err(format!("after {lasted:?}, and idle means {idle:?}")) } else { Ok(()) }
}

/// When the session was last given to somebody, or asked for something that was done.
fn last_activity(facts: &Facts<'_>, change: &Change<'_>, revised: &[&Revised]) -> Duration {
    // An agent may write the record again as it is, to fence off what it sent before: that is no activity.
    let activation = |record: &SessionRecord| record.owner.as_ref().map(|owner| owner.activation);
    let its = change.before.and_then(|before| before.record.as_ref()).and_then(activation);
    let given = revised.iter().find(|revised| revised.record.as_ref().and_then(activation) == its);
    let given = given.filter(|_| its.is_some()).map_or(Duration::ZERO, |given| given.at);
    let is_activity = |verb| matches!(verb, Verb::DocEdit | Verb::SessionTouch);
    let asked = facts.run.seen.requests.iter().filter(|request| {
        is_activity(request.verb) && request.session == change.record.id.as_str() && request.attempts.len() == 1
    });
    let asked = asked.flat_map(|request| request.done().map(|(attempt, _)| (attempt.sent, attempt.ended)));
    let asked = asked.filter(|(sent, ended)| *ended < change.after.at && *sent >= given).map(|(sent, _)| sent).max();
    given.max(asked.unwrap_or(Duration::ZERO))
}
