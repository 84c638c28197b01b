//! What a record's past answers to late copies.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use holdfast_protocol::request::{Acquire, Takeover};
use holdfast_protocol::token::Secret;
use holdfast_protocol::{RequestId, Revision, SessionRecord};
use holdfast_rules::acquire::acquire;
use holdfast_rules::release::{hand_over, release};
use holdfast_rules::takeover::takeover;
use holdfast_rules::{Asked, Decision, Past};
use uuid::Uuid;

#[path = "fixture/lock.rs"]
#[allow(dead_code, reason = "one fixture for several tests")]
mod lock;

fn committed<Reply: std::fmt::Debug>(decision: Decision<Reply>) -> (SessionRecord, Reply) {
    match decision {
        Decision::Commit { next, reply } => (*next, reply),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_late_retry_gets_what_its_first_copy_got_though_the_lock_has_moved_on() {
    let secret = Secret::new([7; 32]);
    let ids: Vec<RequestId> = ["r1", "r2", "r3"].iter().map(|id| RequestId::parse(id).unwrap()).collect();
    let asked = |n: usize| Asked {
        request_id: &ids[n],
        by_caller: true,
        actor: None,
        actor_proven: None,
        at: "2026-11-22T12:00:00Z",
        nonce: Uuid::from_u128(n as u128),
        secret: &secret,
    };
    let wants: Acquire = serde_json::from_str(r#"{"owner":"a"}"#).unwrap();
    let takes: Takeover = serde_json::from_str(r#"{"owner":"ops","reason":"stuck"}"#).unwrap();
    let start = lock::free(0);
    let (held, grant) = committed(acquire(&start, Revision(1), &wants, &asked(0)));
    let (taken, over) = committed(takeover(&held, Revision(2), &takes, &asked(1)));
    let (free, released) = committed(release(&taken, Revision(3), &over.grant.lock_token, &asked(2)));

    let past = Past::new([start, held, taken, free], Revision(4));
    let later = |n| Asked { nonce: Uuid::from_u128(99), ..asked(n) };
    assert_eq!(past.grant(&later(0)), Some(grant));
    assert_eq!(past.takeover(&later(1)), Some(over));
    assert_eq!(past.release(&ids[2]), Some(released));
    assert_eq!(past.unlock(&ids[2]).unwrap().previous_owner.as_deref(), Some("ops"));
    assert_eq!(past.grant(&later(1)), None, "a takeover is no acquire");
    assert_eq!(past.release(&ids[0]), None);
}

#[test]
fn a_hand_over_is_remembered_as_a_release_and_as_a_grant() {
    let wants: Acquire = serde_json::from_str(r#"{"owner":"b"}"#).unwrap();
    let (freed, released) =
        committed(lock::asking("r", |asked| release(&lock::held("a", 3), Revision(8), &lock::token(3), asked)));
    let (both, grant) = lock::asking("w", |asked| hand_over(&freed, Revision(8), &wants, asked));
    let (free, _) = committed(lock::asking("s", |asked| release(&both, Revision(9), &grant.lock_token, asked)));
    let past = Past::new([lock::held("a", 3), both, free], Revision(10));
    let [r, w] = ["r", "w"].map(|id| RequestId::parse(id).unwrap());
    assert_eq!(past.release(&r), Some(released));
    assert_eq!(past.unlock(&r).unwrap().previous_owner.as_deref(), Some("a"));
    assert_eq!(lock::asking("w", |asked| past.grant(asked)), Some(grant));
    assert_eq!((past.release(&w), lock::asking("r", |asked| past.grant(asked))), (None, None));
}
