//! One event of a session as a sentence.
//!
//! Invariant: a sentence says only what the signal says. Members that are missing, as in signals of earlier versions,
//! are left out.

use holdfast_client::protocol::signal::Signal;
use serde_json::{Map, Value};

/// `group.event` of a signal.
pub(crate) fn name(signal: &Signal) -> &str {
    let name = signal.kind.strip_prefix("holdfast.").unwrap_or(&signal.kind);
    name.strip_suffix(".v1").unwrap_or(name)
}

/// A member of a signal's data that is a text.
pub(crate) fn text<'a>(data: &'a Map<String, Value>, member: &str) -> Option<&'a str> {
    data.get(member)?.as_str().filter(|text| !text.is_empty())
}

/// Whether this `lock.released` was made by `admin.unlock`: a release has no reason, and a grant that is taken back has
/// no request.
pub(crate) fn is_unlock(signal: &Signal) -> bool {
    name(signal) == "lock.released" && signal.correlationid.is_some() && text(&signal.data, "reason").is_some()
}

/// Who asked, where that is said: `asked by oncall, proven OPS/ops`. `named` is left out, because the sentence has it.
pub(crate) fn asker(data: &Map<String, Value>, named: Option<&str>) -> Option<String> {
    let actor = text(data, "actor").filter(|actor| Some(*actor) != named);
    match (actor, text(data, "actor_proven")) {
        (Some(actor), Some(proven)) => Some(format!("asked by {actor}, proven {proven}")),
        (Some(actor), None) => Some(format!("asked by {actor}")),
        (None, Some(proven)) => Some(format!("proven {proven}")),
        (None, None) => None,
    }
}

/// The sentence for one `session` or `lock` event.
pub(super) fn phrase(signal: &Signal) -> String {
    let data = &signal.data;
    let owner = text(data, "owner").unwrap_or("somebody");
    let previous = text(data, "previous_owner");
    let worker = text(data, "worker");
    let from = text(data, "previous_worker").map(|worker| format!(" from worker {worker}")).unwrap_or_default();
    let on = worker.map(|worker| format!(" on worker {worker}")).unwrap_or_default();
    let to = worker.map(|worker| format!(" to worker {worker}")).unwrap_or_default();
    let of = previous.map(|previous| format!(" of {previous}")).unwrap_or_default();
    let (said, named) = match name(signal) {
        "session.opened" => (format!("opened{on}"), None),
        "session.activated" if from.is_empty() => (format!("brought back{on}"), None),
        "session.activated" => (format!("fenced by its own worker{on}"), None),
        "session.moved" => (format!("moved{from}{to}"), None),
        "session.passivated" => (format!("left the memory{from}"), None),
        "session.reclaimed" => (format!("taken{from}"), None),
        "session.closed" => ("closed".to_owned(), None),
        "lock.acquired" => (format!("{owner} got the lock"), Some(owner)),
        "lock.rotated" => (format!("{owner} got a new token for the lock"), Some(owner)),
        "lock.released" if is_unlock(signal) => (format!("the lock{of} was freed by an operator"), None),
        "lock.released" if signal.correlationid.is_none() => (format!("the grant{of} was taken back"), None),
        "lock.released" => (format!("{} released the lock", previous.unwrap_or("the holder")), previous),
        "lock.expired" => (format!("the lock{of} expired"), None),
        "lock.taken_over" => match previous {
            Some(previous) => (format!("{owner} took the lock over from {previous}"), Some(owner)),
            None => (format!("{owner} took the lock, which was free"), Some(owner)),
        },
        "lock.changed" => ("the record was edited by hand".to_owned(), None),
        other => (other.to_owned(), None),
    };
    let mut sentence = said;
    if let Some(asker) = asker(data, named) {
        sentence.push_str(&format!(" ({asker})"));
    }
    if let Some(reason) = reason(signal) {
        sentence.push_str(&format!(": {reason}"));
    }
    sentence
}

/// The reason of an event, where it is not in the sentence already.
fn reason(signal: &Signal) -> Option<&str> {
    let reason = text(&signal.data, "reason")?;
    if name(signal) != "lock.changed" {
        return Some(reason);
    }
    match reason.strip_prefix(holdfast_client::protocol::signal::EDITED_BY_HAND) {
        Some(own) => own.strip_prefix(": "),
        None => Some(reason),
    }
}

/// The sentence for refusals that are alike.
pub(super) fn refusal(signal: &Signal, times: usize) -> String {
    let data = &signal.data;
    let who = text(data, "requested_owner").or_else(|| text(data, "actor")).unwrap_or("a request");
    let why = text(data, "reason").unwrap_or("conflict");
    let held = text(data, "owner").map(|owner| format!(", held by {owner}")).unwrap_or_default();
    let often = if times > 1 { format!(" {times} times") } else { String::new() };
    format!("{who} was refused{often}: {why}{held}")
}
