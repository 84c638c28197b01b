//! Laws of a record's life: fences only rise, and no revision falls out of the bucket before it is announced.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use holdfast_protocol::record::{REVISIONS_KEPT, SessionRecord, Urgency};
use holdfast_protocol::token::Secret;
use holdfast_protocol::{Namespace, RequestId, Revision, SessionId, SessionKey};
use holdfast_rules::acquire::acquire;
use holdfast_rules::release::release;
use holdfast_rules::takeover::takeover;
use holdfast_rules::unlock::unlock;
use holdfast_rules::{Asked, Decision};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

fn fresh() -> SessionRecord {
    let key = SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse("s1").unwrap());
    let record = json!({
        "v": 1, "namespace": "default", "id": "s1", "kind": "document", "state": "passive", "lock_revision": 0,
        "config": {"idle_timeout_ms": 1_800_000},
    });
    SessionRecord::from_json(&serde_json::to_vec(&record).unwrap(), &key).unwrap()
}

/// One change of a record, in a life of many.
#[derive(Clone, Copy, Debug)]
enum Act {
    Acquire,
    Release,
    TakeOver,
    Unlock,
    /// Closed, and opened again; the record was perhaps removed in between.
    Reopen,
    /// Another session's writes move the stream on.
    Elsewhere(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Acquire),
        2 => Just(Act::Release),
        2 => Just(Act::TakeOver),
        1 => Just(Act::Unlock),
        1 => Just(Act::Reopen),
        1 => any::<u8>().prop_map(Act::Elsewhere),
    ]
}

/// What a decision wrote: the record, and the token and fence of a grant.
fn written<R>(
    decision: Decision<R>,
    grant: impl Fn(&R) -> Option<(String, u64)>,
) -> Option<(SessionRecord, Option<(String, u64)>)> {
    match decision {
        Decision::Commit { next, reply } => Some((*next, grant(&reply))),
        Decision::Note { .. } | Decision::Unchanged(_) | Decision::Refuse(_) => None,
    }
}

proptest! {
    #[test]
    fn each_grant_has_a_greater_fence_than_all_before_it(acts in vec(act(), 1..60)) {
        let secret = Secret::new([7; 32]);
        let (mut record, mut revision, mut token) = (fresh(), Revision(1), String::new());
        let mut fences: Vec<u64> = Vec::new();
        for (n, act) in (0u128..).zip(acts) {
            let request_id = RequestId::parse(&format!("r{n}")).unwrap();
            let nonce = Uuid::from_u128(n + 1);
            let (actor, actor_proven) = (None, None);
            let asked =
                Asked { request_id: &request_id, by_caller: true, actor, actor_proven, at: "now", nonce, secret: &secret };
            let body = |body: serde_json::Value| serde_json::to_vec(&body).unwrap();
            let change = match act {
                Act::Acquire => {
                    let request = serde_json::from_slice(&body(json!({"owner": "a"}))).unwrap();
                    written(acquire(&record, revision, &request, &asked), |grant| {
                        Some((grant.lock_token.to_string(), grant.fence))
                    })
                }
                Act::TakeOver => {
                    let request = serde_json::from_slice(&body(json!({"owner": "ops", "reason": "stuck"}))).unwrap();
                    let decision = takeover(&record, revision, &request, &asked);
                    written(decision, |taken| Some((taken.grant.lock_token.to_string(), taken.grant.fence)))
                }
                Act::Release => written(release(&record, revision, &token, &asked), |_| None),
                Act::Unlock => {
                    let request = serde_json::from_slice(&body(json!({"reason": "stuck"}))).unwrap();
                    written(unlock(&record, revision, &request, &asked), |_| None)
                }
                Act::Reopen => Some((fresh(), None)),
                Act::Elsewhere(writes) => {
                    // The record stays at its revision; the stream's next sequence is further on.
                    revision = Revision(revision.0 + u64::from(writes));
                    None
                }
            };
            let Some((next, grant)) = change else { continue };
            if let Some((granted, fence)) = grant {
                prop_assert!(fences.iter().all(|earlier| *earlier < fence), "{fence} after {fences:?}");
                prop_assert_eq!(next.lock.as_ref().map(|lock| lock.fence), Some(fence), "the record has it, for a retry");
                fences.push(fence);
                token = granted;
            }
            (record, revision) = (next, Revision(revision.0 + 1));
        }
    }

    /// Writers see the relay's progress late or not at all, and some are in a hurry.
    #[test]
    fn no_revision_leaves_the_bucket_unannounced(steps in vec((any::<bool>(), 0u64..8, 0u64..30), 1..400)) {
        let (mut record, mut revision, mut announced) = (fresh(), 0u64, 0u64);
        for (is_urgent, pause, progress) in steps {
            // The relay stands still most of the time, then catches up by some.
            if pause == 0 {
                announced = (announced + progress).min(revision);
            }
            let urgency = if is_urgent { Urgency::Urgent } else { Urgency::Ordinary };
            match record.clone().marked(Revision(revision), announced, urgency) {
                Ok(next) => (record, revision) = (next, revision + 1),
                Err(awaited) => prop_assert!(awaited.0 > announced, "refused though {awaited} was announced"),
            }
            // A writer may have been told of less than was announced, never of more; the bucket keeps the last ones.
            prop_assert!(revision - announced <= u64::from(REVISIONS_KEPT), "{revision} written, {announced} announced");
        }
    }
}
