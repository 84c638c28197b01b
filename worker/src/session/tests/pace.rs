//! Storages that are behind or that refuse, and a relay that stands still: nobody spins, and nothing goes unannounced.

use std::time::Duration;

use holdfast_protocol::error::{Code, Reason};
use holdfast_protocol::record::{MARK_EVERY, Mark, State};
use holdfast_protocol::subject::Verb;
use holdfast_store::Storage;
use holdfast_store::memory::Faults;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::letter::{Passivation, Who};

/// Makes the record one that must not change before the relay has come to `at`.
async fn mark(world: &World, changes: u32) -> Revision {
    let known = hint(world).await;
    let mark = Mark { at: known.revision, changes };
    let next = SessionRecord { mark, ..known.record };
    world.memory.commit(&world.key, known.revision, next.to_json().into(), world.fresh_id()).await.unwrap();
    known.revision
}

#[tokio::test(start_paused = true)]
async fn a_close_waits_for_the_relay_and_is_busy_when_it_stands_still() {
    let (world, node) = world().await;
    let at = mark(&world, MARK_EVERY).await;
    let began = Instant::now();
    assert_eq!(refused(&world, &node, Verb::SessionClose, json!({})).await, Reason::MailboxFull);
    assert!(began.elapsed() >= Duration::from_secs(2), "an idle relay is heard every two seconds");
    assert_eq!(record(&world).await.state, State::Active);
    let close = begin_asking(&world, &node, Call::Verb(Verb::SessionClose), json!({})).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.floor.advance(at.0);
    assert!(matches!(close.await.unwrap(), Some(Answer::Done(_))));
}

#[tokio::test(start_paused = true)]
async fn a_session_does_not_leave_ahead_of_the_relay() {
    let (world, node) = world().await;
    let at = mark(&world, MARK_EVERY).await;
    let news = hint(&world).await;
    tell(&world, &node, news).await;
    let (began, reads) = (Instant::now(), world.memory.reads());
    let passivate = || {
        let why = Passivation::Leaving { reason: "drain".to_owned(), who: Who::default() };
        node.ask(&world.key, Call::Passivate(why), world.plain_ask(Revision(at.0 + 1)))
    };
    match passivate().await {
        Some(Answer::Refused(error)) => assert_eq!(error.reason, Reason::MailboxFull),
        other => panic!("answered {other:?}"),
    }
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert_eq!(world.memory.reads(), reads, "it knows why it stays");
    node.floor.advance(at.0);
    assert!(matches!(passivate().await, Some(Answer::Done(_))));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_lease_uses_the_reserve_and_then_waits() {
    let (world, node) = world().await;
    let (_, told) = acquire(&world, "a", Some(1000)).await;
    tell(&world, &node, told).await;
    let at = mark(&world, MARK_EVERY + 2).await;
    let news = hint(&world).await;
    tell(&world, &node, news).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(record(&world).await.lock.is_none(), "what is urgent need not wait yet");

    let (_, told) = acquire(&world, "b", Some(1000)).await;
    tell(&world, &node, told).await;
    let at_most = mark(&world, 1000).await;
    assert!(at_most > at);
    let news = hint(&world).await;
    tell(&world, &node, news).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(record(&world).await.lock.is_some(), "it would go unannounced");
    node.floor.advance(at_most.0);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(record(&world).await.lock.is_none());
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_a_leader_that_is_behind_without_a_pause() {
    let wishes = [
        (Verb::DocEdit, edit("x")),
        (Verb::SessionClose, json!({})),
        (Verb::DocGet, json!({ "consistency": "linearizable" })),
    ];
    for (verb, body) in wishes {
        let (world, node) = world().await;
        // The record has moved, which only its writers learn; reads show what was before.
        acquire(&world, "a", None).await;
        world.memory.set_faults(Faults { stale: 1000, ..Faults::default() });
        let (began, reads) = (Instant::now(), world.memory.reads());
        assert_eq!(refused(&world, &node, verb, body).await, Reason::StorageUnavailable, "{verb}");
        let (took, reads) = (began.elapsed(), world.memory.reads() - reads);
        assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(15), "{verb} took {took:?}");
        assert!(reads < 100, "{verb} read {reads} times");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_ran_out_is_not_freed_again_and_again_while_the_leader_is_behind() {
    let (world, node) = world().await;
    let (_, told) = acquire(&world, "a", Some(1000)).await;
    tell(&world, &node, told).await;
    world.write_by_hand(&record(&world).await);
    world.memory.set_faults(Faults { stale: 1000, ..Faults::default() });
    let reads = world.memory.reads();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(world.memory.reads() - reads < 20);
    world.memory.set_faults(Faults::default());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(record(&world).await.lock.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_the_storage_refuses_is_a_bug_and_not_worth_a_retry() {
    let (world, node) = world().await;
    world.memory.set_faults(Faults { frame_bytes_max: 200, ..Faults::default() });
    match ask(&world, &node, Verb::DocEdit, edit(&"x".repeat(1000))).await {
        Some(Answer::Refused(error)) => assert_eq!((error.code, error.retryable), (Code::Internal, false)),
        other => panic!("answered {other:?}"),
    }
}
