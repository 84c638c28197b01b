//! Each rule of the model finds what breaks it: a run that keeps all rules, with one thing changed afterwards.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use holdfast_protocol::record::{EventType, OnIdle, SessionRecord, State};
use holdfast_protocol::subject::Verb;
use holdfast_sim::client::Reply;
use holdfast_sim::history::{Outcome, Request};
use holdfast_sim::model::check;
use holdfast_sim::run::{Run, Written, run};
use serde_json::{Value, json};

/// What `break_it` makes of the first run in which it finds something to break: the rule that is broken then.
fn broken_by(break_it: impl Fn(&mut Run) -> bool) -> String {
    for seed in 1..200 {
        let mut run = run(seed).expect("the fleet starts");
        assert!(check(&run).is_ok(), "seed {seed} breaks a rule by itself");
        if break_it(&mut run) {
            return check(&run).expect_err("nothing was found").rule.to_owned();
        }
    }
    panic!("no run has what is to be broken");
}

fn first(run: &mut Run, is_it: impl Fn(&Request) -> bool) -> Option<&mut Request> {
    run.seen.requests.iter_mut().find(|request| is_it(request) && request.done().count() > 0)
}

/// Changes the first answer to a request for `verb` that was done.
fn with_answer(run: &mut Run, verb: Verb, change: impl Fn(&mut Value)) -> bool {
    let Some(request) = first(run, |request| request.verb == verb) else { return false };
    let answers = request.attempts.iter_mut().filter_map(|attempt| match &mut attempt.outcome {
        Outcome::Answered(Reply::Done(reply)) => Some(reply),
        _ => None,
    });
    answers.for_each(change);
    true
}

/// Changes the first revision of a record of which `is_it` says so, with the one before it.
fn with_record(
    run: &mut Run,
    is_it: impl Fn(&SessionRecord, &SessionRecord) -> bool,
    change: impl Fn(&mut SessionRecord, &SessionRecord),
) -> bool {
    for written in run.sessions.values_mut() {
        let mut before: Option<SessionRecord> = None;
        for written in written {
            let Written::Record(revised) = written else { continue };
            let Some(record) = &mut revised.record else { continue };
            if let Some(before) = before.filter(|before| !revised.by_hand && is_it(before, record)) {
                change(record, &before);
                return true;
            }
            before = Some(record.clone());
        }
    }
    false
}

fn kind(record: &SessionRecord) -> Option<EventType> {
    record.event.as_ref().map(|event| event.kind)
}

#[test]
fn an_edit_that_is_acknowledged_and_not_committed_is_found() {
    let rule = broken_by(|run| with_answer(run, Verb::DocEdit, |reply| reply["revision"] = json!(4711)));
    assert_eq!(rule, "acknowledged edits are there once and in order");
}

#[test]
fn a_frame_under_an_old_fence_is_found() {
    let rule = broken_by(|run| {
        let mut written = run.sessions.values_mut().flatten();
        let frame = written.find_map(|written| match written {
            Written::Frame(framed) => Some(framed),
            Written::Record(_) => None,
        });
        frame.map(|framed| framed.fence.0 -= 1).is_some()
    });
    assert_eq!(rule, "each frame is by the owner, with tokens that are good, and in order");
}

#[test]
fn a_second_effect_of_one_request_is_found() {
    let is_second = |before: &SessionRecord, record: &SessionRecord| {
        kind(before) == Some(EventType::LockAcquired) && kind(record) == Some(EventType::LockReleased)
    };
    let rule = broken_by(|run| {
        // What released the lock also released an earlier one.
        let earlier = run.seen.requests.iter().find(|request| request.verb == Verb::LockRelease);
        let Some(id) = earlier.map(|request| request.id.clone()) else { return false };
        let mut released = Vec::new();
        for written in run.sessions.values() {
            for written in written {
                let Written::Record(revised) = written else { continue };
                let record = revised.record.as_ref().filter(|record| kind(record) == Some(EventType::LockReleased));
                let by = record.and_then(|record| record.event.as_ref()?.request_id.clone());
                released.extend(by.filter(|by| by.as_str() == id));
            }
        }
        let Some(by) = released.first().cloned() else { return false };
        let is_other = |before: &SessionRecord, record: &SessionRecord| {
            let event = record.event.as_ref();
            is_second(before, record)
                && event.is_some_and(|event| event.request_id.as_ref() != Some(&by) && !event.unheard)
        };
        with_record(run, is_other, |record, _| {
            if let Some(event) = &mut record.event {
                event.request_id = Some(by.clone());
            }
        })
    });
    assert_eq!(rule, "late copies have no second effect");
}

#[test]
fn a_lock_revision_that_stays_is_found() {
    let is_grant = |_: &SessionRecord, record: &SessionRecord| kind(record) == Some(EventType::LockAcquired);
    let rule =
        broken_by(|run| with_record(run, is_grant, |record, before| record.lock_revision = before.lock_revision));
    assert_eq!(rule, "one holder at a time");
}

#[test]
fn a_grant_that_is_in_no_record_is_found() {
    let rule = broken_by(|run| with_answer(run, Verb::LockAcquire, |grant| grant["lock_token"] = json!("hft_guessed")));
    assert_eq!(rule, "a token proves one grant");
}

#[test]
fn a_lease_that_was_too_short_is_found() {
    let is_end = |_: &SessionRecord, record: &SessionRecord| kind(record) == Some(EventType::LockReleased);
    let has_lease = move |before: &SessionRecord, record: &SessionRecord| {
        is_end(before, record)
            && before.lock.as_ref().is_some_and(|lock| lock.ttl_ms > Some(1_000))
            && record.event.as_ref().is_some_and(|event| !event.unheard)
    };
    let rule = broken_by(|run| {
        with_record(run, has_lease, |record, _| {
            if let Some(event) = &mut record.event {
                (event.kind, event.request_id) = (EventType::LockExpired, None);
            }
        })
    });
    assert_eq!(rule, "a lease is as long as asked");
}

#[test]
fn a_session_that_just_ends_is_found() {
    let is_left = |before: &SessionRecord, record: &SessionRecord| {
        kind(record) == Some(EventType::SessionPassivated) && before.config.on_idle == OnIdle::Passivate
    };
    let rule = broken_by(|run| {
        with_record(run, is_left, |record, _| {
            record.state = State::Closed;
            if let Some(event) = &mut record.event {
                event.kind = EventType::SessionClosed;
            }
        })
    });
    assert_eq!(rule, "nothing closes but close and idleness");
}

#[test]
fn a_signal_that_is_missing_or_out_of_order_is_found() {
    let is_signal = |subject: &str| subject.starts_with("hf.default.signal.s1.") && subject.contains(".doc.edited");
    let of_edits = |run: &Run| {
        let places = run.published.iter().enumerate().filter(|(_, message)| is_signal(&message.subject));
        places.map(|(place, _)| place).collect::<Vec<usize>>()
    };
    let missing = broken_by(|run| {
        let count = run.published.len();
        run.published.retain(|message| !is_signal(&message.subject));
        run.published.len() < count
    });
    assert_eq!(missing, "every commit is announced, in order");
    let disordered = broken_by(|run| match of_edits(run)[..] {
        [first, .., last] => {
            run.published.swap(first, last);
            true
        }
        _ => false,
    });
    assert_eq!(disordered, "every commit is announced, in order");
}

#[test]
fn a_signal_that_is_not_kept_is_found() {
    let rule = broken_by(|run| run.kept.pop().is_some());
    assert_eq!(rule, "HF_SIGNALS is complete");
}

#[test]
fn an_act_that_is_missing_or_kept_twice_is_found() {
    let missing = broken_by(|run| {
        let count = run.acts.len();
        run.acts.clear();
        // Nothing was in the way of publishing it.
        run.seen.troubles.clear();
        count > 0
    });
    assert_eq!(missing, "acts of operators are kept once");
    let twice = broken_by(|run| {
        let again = run.acts.first().cloned();
        run.acts.extend(again.clone());
        again.is_some()
    });
    assert_eq!(twice, "acts of operators are kept once");
}

#[test]
fn a_read_of_what_never_was_and_one_of_what_is_long_over_are_found() {
    let rule = broken_by(|run| with_answer(run, Verb::DocGet, |document| document["body"] = json!("never written")));
    assert_eq!(rule, "reads are current");
    let rule = broken_by(|run| {
        let Some(request) = first(run, |request| request.verb == Verb::DocGet && request.session == "s1") else {
            return false;
        };
        let Some((_, old)) = request.done().next() else { return false };
        let old = old.clone();
        let is_later = |request: &Request| {
            let is_read = request.verb == Verb::DocGet && request.session == "s1" && request.client == "last";
            is_read && request.done().any(|(_, document)| document["body"] != old["body"])
        };
        let Some(later) = first(run, is_later) else { return false };
        later.attempts.iter_mut().for_each(|attempt| attempt.outcome = Outcome::Answered(Reply::Done(old.clone())));
        true
    });
    assert_eq!(rule, "reads are current");
}

#[test]
fn a_refusal_that_was_never_true_is_found() {
    let rule = broken_by(|run| {
        let is_read = |request: &&mut Request| request.verb == Verb::SessionGet && request.done().count() > 0;
        let Some(request) = run.seen.requests.iter_mut().find(is_read) else { return false };
        let refusal = json!({ "code": "conflict", "reason": "already_exists" });
        let attempt = request.attempts.last_mut().unwrap();
        (attempt.sent, attempt.ended) = (Default::default(), Default::default());
        attempt.outcome = Outcome::Answered(Reply::Refused(refusal));
        true
    });
    assert_eq!(rule, "refusals are true");
}

#[test]
fn a_request_without_an_answer_is_found() {
    let rule = broken_by(|run| {
        run.seen.troubles.clear();
        let is_read = |request: &&mut Request| request.verb == Verb::SessionGet;
        let Some(request) = run.seen.requests.iter_mut().find(is_read) else { return false };
        request.attempts.iter_mut().for_each(|attempt| attempt.outcome = Outcome::Answered(Reply::Silence));
        true
    });
    assert_eq!(rule, "every request is answered");
}
