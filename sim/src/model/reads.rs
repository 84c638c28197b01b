//! A linearizable read shows a state that was current while it was asked; a local one, a state that was current at most
//! a worker's lease before; and a coordinator that has shown a state shows no older one later.

use std::time::Duration;

use holdfast_protocol::subject::Verb;
use holdfast_store::LEASE_TTL;
use serde_json::Value;

use super::facts::Facts;
use super::fold::View;
use crate::history::{Attempt, Fault, Request};

fn reads<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = (&'a Request, &'a Attempt, &'a Value)> {
    let reads = facts.run.seen.requests.iter().filter(|request| request.verb == Verb::DocGet);
    reads.flat_map(|request| request.done().map(move |(attempt, document)| (request, attempt, document)))
}

fn views<'a>(facts: &'a Facts<'_>, request: &Request) -> &'a [View] {
    facts.fold_of(request).map_or(&[], |fold| &fold.views)
}

pub(super) fn current(facts: &Facts<'_>) -> Result<(), String> {
    for (request, attempt, document) in reads(facts) {
        let is_linearizable = request.body["consistency"] == "linearizable";
        let oldest = if is_linearizable { attempt.sent } else { attempt.sent.saturating_sub(LEASE_TTL) };
        let mut found: Vec<&View> = views(facts, request).iter().filter(|view| view.seen == *document).collect();
        if found.is_empty() {
            return Err(format!("{} read what was never committed: {document}", request.id));
        }
        found.retain(|view| view.from <= attempt.ended);
        let latest = found.iter().map(|view| view.until).max().unwrap_or(Duration::ZERO);
        if latest < oldest {
            return Err(format!(
                "{} asked at {:.3} s and read what was over at {:.3} s: {document}",
                request.id,
                attempt.sent.as_secs_f64(),
                latest.as_secs_f64()
            ));
        }
    }
    Ok(())
}

/// An answer that showed a state: where from, when, and the first and last place of that state.
struct Shown<'a> {
    request: &'a Request,
    by: &'a str,
    sent: Duration,
    at: Duration,
    first: usize,
    last: usize,
}

fn shown<'a>(facts: &'a Facts<'_>, request: &'a Request) -> Vec<Shown<'a>> {
    let views = views(facts, request);
    let answers = request.done().filter_map(|(attempt, reply)| {
        let (by, at) = facts.answered_by(attempt)?;
        let is_it = |view: &View| match request.verb {
            Verb::DocGet => view.seen == *reply,
            _ => view.by == request.id,
        };
        let first = views.iter().position(is_it)?;
        let last = views.iter().rposition(is_it)?;
        Some(Shown { request, by, sent: attempt.sent, at, first, last })
    });
    answers.collect()
}

pub(super) fn never_back(facts: &Facts<'_>) -> Result<(), String> {
    let is_about = |request: &&Request| matches!(request.verb, Verb::DocGet | Verb::DocEdit);
    let requests = facts.run.seen.requests.iter().filter(is_about);
    let all: Vec<Shown<'_>> = requests.flat_map(|request| shown(facts, request)).collect();
    for one in &all {
        let later = all.iter().filter(|later| later.by == one.by && later.sent > one.at);
        let reads = later.filter(|later| later.request.verb == Verb::DocGet);
        for later in reads.filter(|later| later.request.session == one.request.session && later.last < one.first) {
            // Another one of the same name knows nothing of it.
            let is_another = |fault: &Fault| *fault == Fault::Absent(one.by.to_owned());
            if facts.run.seen.is_calm(one.at, later.at, is_another) {
                return Err(format!(
                    "{} answered {} and then {} with an older state",
                    one.by, one.request.id, later.request.id
                ));
            }
        }
    }
    Ok(())
}
