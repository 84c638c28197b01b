//! The contract's "Lock rules", sentence by sentence: what each request does to a lock in each state.
//!
//! What holds for every row (the count of `lock_revision`, no token anywhere but in its grant, what every conflict
//! says) is checked by the fixture, where rows are told in one line.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use holdfast_protocol::record::SessionRecord;
use holdfast_protocol::reply::{Grant, TakenOver};
use holdfast_rules::Decision;
use holdfast_rules::acquire::acquire;
use holdfast_rules::conflict::explain;
use holdfast_rules::expire::expire;
use holdfast_rules::release::{hand_over, release};
use holdfast_rules::takeover::takeover;
use holdfast_rules::unlock::unlock;
use holdfast_rules::validate::{may_write, prove, validate};
use serde_json::{Value, json};

#[path = "fixture/lock.rs"]
mod lock;

use lock::{AT, asking, body, free, held, key, refusal, required, secret, token, told};

fn acquired(record: &SessionRecord, request: Value) -> String {
    told(record, asking("new", |asked| acquire(record, AT, &body(request), asked)))
}

fn released(record: &SessionRecord, token: &str) -> String {
    told(record, asking("new", |asked| release(record, AT, token, asked)))
}

fn taken(record: &SessionRecord, request: Value) -> String {
    told(record, asking("new", |asked| takeover(record, AT, &body(request), asked)))
}

fn unlocked(record: &SessionRecord, request: Value) -> String {
    told(record, asking("new", |asked| unlock(record, AT, &body(request), asked)))
}

fn validated(record: &SessionRecord, token: &str) -> String {
    match validate(record, AT, token) {
        Ok(valid) => format!("valid for {} at {}", valid.owner, valid.lock_revision),
        Err(error) => refusal(&error),
    }
}

/// What a renewal is decided by.
fn proven(record: &SessionRecord, token: &str) -> String {
    prove(record, AT, token).map_or_else(|error| refusal(&error), |lock| format!("proven for {}", lock.owner))
}

fn written(record: &SessionRecord, token: Option<&str>) -> String {
    may_write(record, AT, token).map_or_else(|error| refusal(&error), |()| "accepted".to_owned())
}

/// Compares all rows before it fails, so that one run shows everything that is wrong.
fn table(rows: &[(&str, String, &str)]) {
    let wrong: Vec<String> = rows
        .iter()
        .filter(|(_, told, expected)| told != expected)
        .map(|(rule, told, expected)| format!("{rule}: {told:?}, not {expected:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn acquiring() {
    let mine = token(3);
    let stale = json!({"owner": "a", "expected_token": token(2)});
    let other = json!({"owner": "b", "expected_token": token(2)});
    let proof = json!({"owner": "a", "expected_token": mine});
    let rotate = json!({"owner": "a", "expected_token": mine, "rotate": true});
    table(&[
        ("free is granted, the first as 1", acquired(&free(0), json!({"owner": "a"})), "lock.acquired to a at 1"),
        ("free is granted, + 1", acquired(&free(6), json!({"owner": "a"})), "lock.acquired to a at 7"),
        ("required changes nothing", acquired(&required(free(6)), json!({"owner": "a"})), "lock.acquired to a at 7"),
        ("held by another", acquired(&held("a", 3), json!({"owner": "b"})), "lock_held, same_owner false"),
        ("a name is no proof", acquired(&held("a", 3), json!({"owner": "a"})), "lock_held, same_owner true"),
        (
            "nor for a new token",
            acquired(&held("a", 3), json!({"owner": "a", "rotate": true})),
            "lock_held, same_owner true",
        ),
        ("the current token: the same grant", acquired(&held("a", 3), proof.clone()), "unchanged at 3"),
        ("rotate: a new token, + 1", acquired(&held("a", 3), rotate.clone()), "lock.rotated to a at 4"),
        (
            "the current token under another name",
            acquired(&held("a", 3), json!({"owner": "b", "expected_token": mine})),
            "lock_held, same_owner false",
        ),
        ("not the current token, held by the same", acquired(&held("a", 3), stale.clone()), "stale_token"),
        ("not the current token, held by another", acquired(&held("a", 3), other), "stale_token"),
        ("not the current token, free", acquired(&free(3), stale), "stale_token"),
        ("the last token, free", acquired(&free(4), proof), "stale_token"),
        ("rotate what is free", acquired(&free(4), rotate), "stale_token"),
        (
            "rotate without a token what is free",
            acquired(&free(4), json!({"owner": "a", "rotate": true})),
            "lock.acquired to a at 5",
        ),
    ]);
}

#[test]
fn showing_a_token() {
    let (mine, old) = (token(3), token(2));
    table(&[
        ("validate the current", validated(&held("a", 3), &mine), "valid for a at 3"),
        ("validate an old one", validated(&held("a", 3), &old), "stale_token"),
        ("validate nonsense", validated(&held("a", 3), "nonsense"), "stale_token"),
        ("validate while free", validated(&free(4), &mine), "not_locked"),
        ("renew with the current", proven(&held("a", 3), &mine), "proven for a"),
        ("renew with an old one", proven(&held("a", 3), &old), "stale_token"),
        ("renew while free", proven(&free(4), &mine), "not_locked"),
        ("release with the current, + 1", released(&held("a", 3), &mine), "lock.released to nobody at 4"),
        ("release with an old one", released(&held("a", 3), &old), "stale_token"),
        ("release while free", released(&free(4), &mine), "not_locked"),
    ]);
}

#[test]
fn changing_the_document() {
    let (mine, old) = (token(3), token(2));
    table(&[
        ("the current token", written(&held("a", 3), Some(&mine)), "accepted"),
        ("an old token", written(&held("a", 3), Some(&old)), "stale_token"),
        ("a token while free", written(&free(4), Some(&mine)), "not_locked"),
        ("no token while held", written(&held("a", 3), None), "lock_held, same_owner false"),
        ("no token while free", written(&free(4), None), "accepted"),
        ("required: the current token", written(&required(held("a", 3)), Some(&mine)), "accepted"),
        ("required: an old token", written(&required(held("a", 3)), Some(&old)), "stale_token"),
        ("required: no token while held", written(&required(held("a", 3)), None), "lock_held, same_owner false"),
        ("required: no token while free", written(&required(free(4)), None), "lock_required"),
        ("required: a token while free", written(&required(free(4)), Some(&mine)), "not_locked"),
    ]);
}

#[test]
fn overriding() {
    let ops = json!({"owner": "ops", "reason": "stuck"});
    let at = |lock_revision: u64| json!({"owner": "ops", "reason": "stuck", "expected_lock_revision": lock_revision});
    let (stuck, stuck_at) =
        (json!({"reason": "stuck"}), |seen: u64| json!({"reason": "stuck", "expected_lock_revision": seen}));
    table(&[
        ("takeover, + 1", taken(&held("a", 3), ops.clone()), "lock.taken_over to ops at 4"),
        ("takeover of what is free", taken(&free(4), ops.clone()), "lock.taken_over to ops at 5"),
        ("takeover from oneself", taken(&held("ops", 3), ops), "lock.taken_over to ops at 4"),
        ("takeover of what was seen", taken(&held("a", 3), at(3)), "lock.taken_over to ops at 4"),
        ("takeover of what was seen free", taken(&free(4), at(4)), "lock.taken_over to ops at 5"),
        ("takeover of another than was seen", taken(&held("a", 3), at(2)), "lock_moved"),
        ("takeover of what was not there yet", taken(&held("a", 3), at(4)), "lock_moved"),
        ("takeover of what is free by now", taken(&free(4), at(3)), "lock_moved"),
        ("unlock, + 1", unlocked(&held("a", 3), stuck.clone()), "lock.released to nobody at 4"),
        ("unlock what was seen", unlocked(&held("a", 3), stuck_at(3)), "lock.released to nobody at 4"),
        ("unlock another than was seen", unlocked(&held("a", 3), stuck_at(2)), "lock_moved"),
        ("unlock what is free by now", unlocked(&free(4), stuck_at(3)), "lock_moved"),
        ("unlock what is free", unlocked(&free(4), stuck), "not_locked"),
    ]);
}

/// The record and the reply of a decision that must be a commit.
fn commit<R: std::fmt::Debug>(decision: Decision<R>) -> (SessionRecord, R) {
    match decision {
        Decision::Commit { next, reply } => (*next, reply),
        other => panic!("not a commit: {other:?}"),
    }
}

fn unchanged<R: std::fmt::Debug>(decision: Decision<R>) -> R {
    match decision {
        Decision::Unchanged(reply) => reply,
        other => panic!("not unchanged: {other:?}"),
    }
}

#[test]
fn a_retried_acquire_gets_the_same_grant() {
    let request = body(json!({"owner": "a", "ttl_ms": 5_000}));
    let (next, grant) = commit(asking("r", |asked| acquire(&free(0), AT, &request, asked)));
    assert_eq!(unchanged(asking("r", |asked| acquire(&next, AT, &request, asked))), grant);
    let renamed = asking("r", |asked| acquire(&next, AT, &body(json!({"owner": "b"})), asked));
    table(&[
        ("another request", acquired(&next, json!({"owner": "a"})), "lock_held, same_owner true"),
        ("the same request id, another owner", told(&next, renamed), "lock_held, same_owner false"),
    ]);
    let rotate = body(json!({"owner": "a", "expected_token": grant.lock_token, "rotate": true}));
    let (rotated, second) = commit(asking("r2", |asked| acquire(&next, AT, &rotate, asked)));
    assert_eq!(second.ttl_ms, Some(5_000), "a rotation keeps the lease");
    assert_eq!(unchanged(asking("r2", |asked| acquire(&rotated, AT, &rotate, asked))), second);
    let late: Decision<Grant> = asking("r", |asked| acquire(&rotated, AT, &request, asked));
    assert_eq!(told(&rotated, late), "lock_held, same_owner true", "the first grant is over");
    assert_eq!(validated(&rotated, &grant.lock_token), "stale_token");
    assert_eq!(validated(&rotated, &second.lock_token), "valid for a at 2");
}

#[test]
fn a_retried_release_or_unlock_gets_the_same_answer() {
    let (next, first) = commit(asking("r", |asked| release(&held("a", 3), AT, &token(3), asked)));
    assert_eq!(unchanged(asking("r", |asked| release(&next, AT, &token(3), asked))), first);
    assert_eq!(released(&next, &token(3)), "not_locked", "another request");
    let request = body(json!({"reason": "stuck"}));
    let (next, first) = commit(asking("r", |asked| unlock(&held("a", 3), AT, &request, asked)));
    assert_eq!(first.previous_owner.as_deref(), Some("a"));
    assert_eq!(unchanged(asking("r", |asked| unlock(&next, AT, &request, asked))), first);
    let held_again = SessionRecord { lock: held("b", 5).lock, lock_revision: 5, ..next };
    let again = asking("r", |asked| release(&held_again, AT, &token(3), asked));
    assert_eq!(told(&held_again, again), "stale_token", "it has been granted since");
}

#[test]
fn a_release_with_somebody_waiting_is_a_release_and_a_grant_in_one_write() {
    let wants = body(json!({"owner": "b", "ttl_ms": 5_000}));
    let (freed, first) = commit(asking("r", |asked| release(&held("a", 3), AT, &token(3), asked)));
    let (next, grant) = asking("w", |asked| hand_over(&freed, AT, &wants, asked));
    assert_eq!((first.lock_revision, grant.lock_revision, next.lock_revision), (4, 5, 5));
    assert_eq!((grant.owner.as_str(), grant.ttl_ms, grant.fence), ("b", Some(5_000), AT.0));
    assert_eq!(validated(&next, &grant.lock_token), "valid for b at 5");
    assert_eq!(validated(&next, &token(3)), "stale_token");
    let event = next.event.as_ref().unwrap();
    let release_of = event.hand_over.as_ref().unwrap();
    assert_eq!((event.kind.as_str(), event.previous_owner.as_deref()), ("lock.acquired", None));
    assert_eq!((event.holder_before(), release_of.actor.as_deref()), (Some("a"), Some("tester")));
    assert_eq!(unchanged(asking("r", |asked| release(&next, AT, &token(3), asked))), first, "a copy of the release");
    assert_eq!(unchanged(asking("w", |asked| acquire(&next, AT, &wants, asked))), grant, "a copy of the acquire");
    let late = asking("w", |asked| release(&next, AT, &token(3), asked));
    assert_eq!(told(&next, late), "stale_token", "the grant's id is no release's");
}

#[test]
fn a_retried_takeover_gets_the_same_grant() {
    let request = body(json!({"owner": "ops", "reason": "stuck", "expected_lock_revision": 3}));
    let (next, first) = commit(asking("r", |asked| takeover(&held("a", 3), AT, &request, asked)));
    let TakenOver { grant, previous_owner, reason } = &first;
    assert_eq!((grant.owner.as_str(), previous_owner.as_deref(), reason.as_str()), ("ops", Some("a"), "stuck"));
    assert_eq!(next.event.as_ref().unwrap().reason.as_deref(), Some("stuck"));
    assert_eq!(unchanged(asking("r", |asked| takeover(&next, AT, &request, asked))), first);
    let other = asking("other", |asked| takeover(&next, AT, &request, asked));
    assert_eq!(told(&next, other), "lock_moved", "another operator saw an older lock");
}

/// Request ids are announced, so they must not be a way to somebody else's token.
#[test]
fn a_takeover_under_the_request_id_of_a_grant_does_not_hand_out_its_token() {
    let request = body(json!({"owner": "ops", "reason": "stuck"}));
    let (_, taken) = commit(asking("first", |asked| takeover(&held("a", 3), AT, &request, asked)));
    assert_eq!((taken.grant.owner.as_str(), taken.grant.lock_revision), ("ops", 4));
}

#[test]
fn a_lease_that_ran_out_frees_only_its_own_lock() {
    let next = expire(&held("a", 3), 3).unwrap();
    assert_eq!((&next.lock, next.lock_revision), (&None, 4));
    let event = next.event.unwrap();
    assert_eq!((event.kind.as_str(), event.previous_owner.as_deref()), ("lock.expired", Some("a")));
    assert_eq!(expire(&held("b", 4), 3), None, "granted anew since");
    assert_eq!(expire(&free(4), 3), None, "released since");
    let mut forever = held("a", 3);
    forever.lock.as_mut().unwrap().ttl_ms = None;
    assert_eq!(expire(&forever, 3), None, "it has no lease");
}

#[test]
fn a_conflict_says_who_since_when_until_when_and_what_was_asked() {
    let decision = asking("r", |asked| acquire(&held("client-a", 1), AT, &body(json!({"owner": "client-b"})), asked));
    let Decision::Refuse(mut error) = decision else { panic!("{decision:?}") };
    explain(&mut error, Some(12_000), Some(18_000));
    assert_eq!(error.message, "session s1 is locked by client-a for 12 s");
    assert_eq!(error.retry_after_ms, Some(18_000));
    assert_eq!(
        Value::Object(error.details),
        json!({"session_id": "s1", "owner": "client-a", "requested_owner": "client-b", "same_owner": false,
            "lock_revision": 1, "held_for_ms": 12_000, "expires_in_ms": 18_000, "revision": 42,
            "acquired_at": "2026-11-22T12:00:00Z"})
    );
    let mut stale = prove(&held("a", 3), AT, "nonsense").unwrap_err();
    explain(&mut stale, Some(1), Some(2));
    assert_eq!((&stale.details["held_for_ms"], &stale.details["expires_in_ms"]), (&json!(1), &json!(2)));
    assert_eq!(stale.retry_after_ms, None, "waiting does not make a token current");
}

/// The actions of the error that a request is refused with.
fn advised<T: std::fmt::Debug>(decision: Decision<T>) -> String {
    let Decision::Refuse(error) = decision else { panic!("{decision:?}") };
    error.actions.join(", ")
}

#[test]
fn the_actions_of_a_refusal_help_while_the_lock_is_as_it_is() {
    let (held, free, old) = (held("a", 3), free(3), token(2));
    let stale = || body(json!({"owner": "b", "expected_token": token(2)}));
    let acquired = |record| asking("new", |asked| advised(acquire(record, AT, &stale(), asked)));
    let released = |record| asking("new", |asked| advised(release(record, AT, &old, asked)));
    let unlocked = |record| asking("new", |asked| advised(unlock(record, AT, &body(json!({"reason": "r"})), asked)));
    let written = |record| may_write(record, AT, Some(&old)).unwrap_err().actions.join(", ");
    table(&[
        ("stale_token of an acquire, held", acquired(&held), "wait, takeover"),
        ("stale_token of an acquire, free", acquired(&free), "acquire"),
        ("stale_token of a release", released(&held), "wait, takeover"),
        ("stale_token of a change", written(&held), "wait, takeover"),
        ("not_locked of a change", written(&free), "acquire"),
        ("not_locked of a release, which has what it wants", released(&free), ""),
        ("not_locked of an unlock, which has what it wants", unlocked(&free), ""),
    ]);
}

#[test]
fn a_token_proves_its_own_grant_only() {
    assert!(held("a", 3).lock.unwrap().is_proven_by(&token(3)));
    assert_ne!(secret().token(&key(), 3, uuid::Uuid::from_u128(1)), token(3), "another nonce");
    for wrong in ["", "hft_", "nonsense", &token(2), &token(4), &token(3).to_uppercase(), &token(3)[..43]] {
        assert!(!held("a", 3).lock.unwrap().is_proven_by(wrong), "{wrong}");
    }
}
