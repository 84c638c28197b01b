//! A run's history for people: one line per event, with its time, who, and what.

use std::fmt::Write;
use std::time::Duration;

use holdfast_store::Rollup;
use serde_json::Value;

use crate::client::Reply;
use crate::history::{Attempt, Outcome, Request};
use crate::run::{Framed, Revised, Run, Written};

/// Everything that happened, in order.
pub fn tell(run: &Run) -> String {
    let mut lines: Vec<(Duration, String)> =
        run.seen.notes.iter().map(|(at, what)| (*at, format!("** {what}"))).collect();
    for request in &run.seen.requests {
        let attempts = request.attempts.iter().enumerate();
        attempts.for_each(|(number, attempt)| lines.extend(asked(run, request, number, attempt)));
    }
    for (key, written) in &run.sessions {
        lines.extend(written.iter().map(|written| match written {
            Written::Record(revised) => (revised.at, format!("   {} {}", key.id, record(revised))),
            Written::Frame(framed) => (framed.at, format!("   {} {}", key.id, frame(framed))),
        }));
    }
    let signals = run.published.iter().filter(|message| message.subject.contains(".signal."));
    lines.extend(signals.map(|message| {
        let signal: Value = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
        let name = message.subject.splitn(4, '.').last().unwrap_or_default();
        (message.at, format!("   {} signals {name} {}", message.from, signal["id"].as_str().unwrap_or_default()))
    }));
    lines.sort_by_key(|(at, _)| *at);
    let mut text = String::new();
    for (at, line) in lines {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:>9.3} {line}", at.as_secs_f64());
    }
    text
}

/// Who answered, as the net saw it.
fn answerer<'a>(run: &'a Run, attempt: &Attempt) -> &'a str {
    let answer = run.published.iter().find(|message| message.subject.as_str() == attempt.inbox);
    answer.map_or("nobody", |message| message.from.as_str())
}

fn asked(run: &Run, request: &Request, number: usize, attempt: &Attempt) -> Vec<(Duration, String)> {
    let Request { id, verb, session, body, .. } = request;
    let copy = if number == 0 { String::new() } else { format!(" (copy {number})") };
    let begins = (attempt.sent, format!("-> {id}{copy} asks {verb} {session} {body}"));
    let what = match &attempt.outcome {
        Outcome::Open => return vec![begins],
        Outcome::Left => "leaves".to_owned(),
        Outcome::Answered(Reply::Nobody) => "is told that nobody listens".to_owned(),
        Outcome::Answered(Reply::Silence) => "gets no answer".to_owned(),
        Outcome::Answered(Reply::Done(reply)) => format!("<= {}: {reply}", answerer(run, attempt)),
        Outcome::Answered(Reply::Refused(error)) => {
            format!("<= {}: {} {} {}", answerer(run, attempt), error["reason"], error["message"], error["details"])
        }
    };
    vec![begins, (attempt.ended, format!("<- {id}{copy} {what}"))]
}

fn record(revised: &Revised) -> String {
    let hand = if revised.by_hand { " by hand" } else { "" };
    let Some(record) = &revised.record else {
        let json = revised.json.as_deref().map(String::from_utf8_lossy);
        return format!("revision {}{hand}: {}", revised.revision, json.as_deref().unwrap_or("deleted"));
    };
    let event = record.event.as_ref();
    let kind = event.map_or("no event", |event| event.kind.as_str());
    let by = event.and_then(|event| event.request_id.as_ref()).map_or("-", |id| id.as_str());
    let unheard = if event.is_some_and(|event| event.unheard) { " unheard" } else { "" };
    let owner = record.owner.as_ref().map_or_else(|| "nobody".to_owned(), |owner| owner.worker.to_string());
    let lock = record.lock.as_ref().map_or_else(
        || "free".to_owned(),
        |lock| format!("{} since {} fence {} ttl {:?}", lock.owner, lock.revision, lock.fence, lock.ttl_ms),
    );
    let (revision, state, life) = (revised.revision, record.state, record.log_after);
    let lock = format!("lock {} {lock}", record.lock_revision);
    format!("revision {revision}{hand}: {kind}{unheard} by {by}; {state:?} at {owner}, {lock}, life {life}")
}

fn frame(framed: &Framed) -> String {
    let Framed { fence, sequence, rollup, frame, .. } = framed;
    let ops: Vec<&str> = frame.ops.iter().map(|op| op.request_id.as_str()).collect();
    let snapshot = if *rollup == Rollup::Replace { " snapshot" } else { "" };
    format!("frame {sequence}{snapshot} at {fence}, ops from {}: {ops:?}", frame.first_op)
}
