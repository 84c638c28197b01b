//! A request with an id takes effect once, whatever has happened between its copies, over all lives of a session.

use std::collections::BTreeMap;

use holdfast_protocol::record::{EventType, REVISIONS_KEPT};
use holdfast_protocol::subject::Verb;

use super::facts::{Change, Facts, changes};
use crate::history::Request;

/// Whether an event is the effect that a request of this verb is about. What else has its id was done on the way to it.
fn is_effect(verb: Verb, kind: EventType) -> bool {
    match verb {
        Verb::SessionOpen => kind == EventType::SessionOpened,
        Verb::SessionClose => kind == EventType::SessionClosed,
        Verb::LockAcquire => matches!(kind, EventType::LockAcquired | EventType::LockRotated),
        Verb::LockRelease | Verb::AdminUnlock => kind == EventType::LockReleased,
        Verb::AdminTakeover => kind == EventType::LockTakenOver,
        Verb::AdminMove => kind == EventType::SessionMoved,
        _ => false,
    }
}

/// Whether what `change` did was undone later, so that to its request there was nothing.
fn is_taken_back(change: &Change<'_>, later: &[Change<'_>]) -> bool {
    let of_life = |later: &&Change<'_>| later.record.log_after == change.record.log_after;
    later.iter().filter(of_life).any(|later| {
        let event = later.record.event.as_ref();
        let is_refused_open = event.is_some_and(|event| {
            let opened = change.record.event.as_ref();
            event.kind == EventType::SessionClosed
                && opened.is_some_and(|opened| {
                    opened.kind == EventType::SessionOpened && opened.request_id == event.request_id
                })
        });
        let is_grant = change.record.lock.as_ref().is_some_and(|lock| lock.revision == change.record.lock_revision);
        is_refused_open || is_grant && later.record.took_back(change.record.lock_revision)
    })
}

pub(super) fn no_second_effect(facts: &Facts<'_>) -> Result<(), String> {
    for (key, revised) in &facts.records {
        let changes = changes(revised);
        let mut effects: BTreeMap<&str, usize> = BTreeMap::new();
        for (place, change) in changes.iter().enumerate() {
            // A note is another revision with the event of the one before it, or with none.
            if is_note(change) {
                continue;
            }
            for (id, verb) in effects_of(facts, change) {
                if let Some(first) = effects.insert(id, place)
                    && place - first < REVISIONS_KEPT as usize
                    && !is_taken_back(&changes[first], &changes[first + 1..place])
                {
                    let (one, other) = (changes[first].after.revision, change.after.revision);
                    return Err(format!("{id} ({verb}) took effect in {key} at {one} and again at {other}"));
                }
            }
        }
    }
    Ok(())
}

/// The requests whose effect `change` is: one, or a release and the grant that it was written with.
fn effects_of<'a>(facts: &Facts<'a>, change: &Change<'a>) -> Vec<(&'a str, Verb)> {
    let Some(event) = change.record.event.as_ref().filter(|event| !event.unheard) else { return Vec::new() };
    let release = event.hand_over.as_ref().map(|release| (release.request_id.as_ref(), EventType::LockReleased));
    let both = [Some((event.request_id.as_ref(), event.kind)), release];
    let known = both.into_iter().flatten().filter_map(|(id, kind)| {
        let id = id?.as_str();
        let request = facts.requests.get(id).filter(|request| is_effect(request.verb, kind))?;
        Some((id, request.verb))
    });
    known.collect()
}

fn is_note(change: &Change<'_>) -> bool {
    change.before.and_then(|before| before.record.as_ref()).is_some_and(|before| {
        before.lock == change.record.lock && before.state == change.record.state && before.owner == change.record.owner
    })
}

pub(super) fn same_answer(facts: &Facts<'_>) -> Result<(), String> {
    let is_remembered = |request: &&Request| {
        let verb = request.verb;
        let lock = matches!(verb, Verb::LockAcquire | Verb::LockRelease | Verb::AdminTakeover | Verb::AdminUnlock);
        let fleet = matches!(verb, Verb::WorkerDrain | Verb::WorkerUndrain | Verb::AdminReclaim);
        lock || fleet || verb == Verb::SessionClose
    };
    for request in facts.run.seen.requests.iter().filter(is_remembered) {
        let mut done = request.done();
        let Some((_, first)) = done.next() else { continue };
        if let Some((_, other)) = done.find(|(_, other)| *other != first)
            && !(request.verb == Verb::LockAcquire && was_taken_back(facts, request))
        {
            return Err(format!("{} ({}) was answered {first}, and a copy of it {other}", request.id, request.verb));
        }
    }
    Ok(())
}

/// Whether a grant of this request was taken back, so that its copies may get another one.
fn was_taken_back(facts: &Facts<'_>, request: &Request) -> bool {
    let changes = changes(facts.records_of(request));
    changes.iter().enumerate().any(|(place, change)| {
        let event = change.record.event.as_ref();
        let is_its = event.and_then(|event| event.request_id.as_ref()).is_some_and(|id| id.as_str() == request.id);
        is_its && is_taken_back(change, &changes[place + 1..])
    })
}
