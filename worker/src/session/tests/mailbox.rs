//! What may wait for a session, and what never stands in the way of its holder.

use std::time::Duration;

use holdfast_protocol::error::Reason;
use holdfast_protocol::internal::LeaseView;
use holdfast_protocol::subject::Verb;
use serde_json::json;

use super::*;
use crate::letter::{Letter, ReplyTo};
use crate::session::tests::world::Process;

async fn lease(world: &World, node: &Node, revision: Revision) -> LeaseView {
    let asked = node.ask(&world.key, Call::Lease, world.plain_ask(revision));
    // It is not waited for whatever the agent does.
    match tokio::time::timeout(Duration::from_millis(1), asked).await.expect("at once") {
        Some(Answer::Done(view)) => serde_json::from_slice(&view).unwrap(),
        other => panic!("answered {other:?}"),
    }
}

/// Asks until the mailbox takes no more.
async fn flood(world: &Arc<World>, node: &Arc<Node>, verb: Verb, body: &Value) -> Vec<Pending> {
    let mut waiting = Vec::new();
    loop {
        let pending = begin_asking(world, node, Call::Verb(verb), body.clone()).await;
        if pending.is_finished() {
            assert!(is_full(pending.await.unwrap()));
            return waiting;
        }
        waiting.push(pending);
    }
}

fn is_full(answer: Option<Answer>) -> bool {
    matches!(answer, Some(Answer::Refused(error)) if error.reason == Reason::MailboxFull && error.retry_after_ms.is_some())
}

#[tokio::test(start_paused = true)]
async fn the_holder_renews_though_questions_and_edits_of_others_fill_the_mailbox() {
    let others = [
        (Verb::DocGet, json!({})),
        (Verb::DocEdit, edit("x")),
        (Verb::LockRenew, json!({ "token": "hft_of_somebody_else" })),
        (Verb::SessionTouch, json!({})),
    ];
    for (verb, body) in others {
        let (world, node) = world_of(Opening { mailbox: 4, ..Opening::default() }).await;
        let (grant, hint) = acquire(&world, "a", Some(2000)).await;
        tell(&world, &node, hint).await;
        node.process.send_replace(Process::Stalls);
        let slow = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("slow")).await;
        let waiting = flood(&world, &node, verb, &body).await;
        let renewal =
            begin_asking(&world, &node, Call::Verb(Verb::LockRenew), json!({ "token": grant.lock_token })).await;
        tokio::time::sleep(Duration::from_millis(1900)).await;
        world.heal();
        assert!(matches!(renewal.await.unwrap(), Some(Answer::Done(_))), "behind {verb}");
        tokio::time::sleep(Duration::from_millis(1900)).await;
        assert!(record(&world).await.lock.is_some(), "behind {verb}");
        for pending in waiting.into_iter().chain([slow]) {
            assert!(pending.await.unwrap().is_some());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_concerns_the_session_itself_finds_room_in_a_full_mailbox() {
    let (world, node) = world_of(Opening { mailbox: 4, ..Opening::default() }).await;
    node.process.send_replace(Process::Stalls);
    let waiting = flood(&world, &node, Verb::DocEdit, &edit("x")).await;
    let handover = begin_asking(&world, &node, Call::Handover, json!({})).await;
    assert!(!handover.is_finished());
    world.heal();
    assert!(matches!(handover.await.unwrap(), Some(Answer::Done(_))));
    for pending in waiting {
        assert!(matches!(pending.await.unwrap(), Some(Answer::Done(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn how_a_lock_stands_is_told_at_once_whatever_its_agent_does() {
    let (world, node) = world().await;
    let (_, hint) = acquire(&world, "a", Some(5000)).await;
    tell(&world, &node, hint.clone()).await;
    node.process.send_replace(Process::Stalls);
    let slow = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let view = lease(&world, &node, hint.revision).await;
    assert_eq!((view.lock_revision, view.expires_in_ms), (1, Some(4000)));
    world.heal();
    assert!(slow.await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn those_who_know_more_than_the_agent_tell_it_once() {
    let (world, node) = world_of(Opening { mailbox: 4, ..Opening::default() }).await;
    let (_, known) = acquire(&world, "a", Some(5000)).await;
    node.process.send_replace(Process::Stalls);
    let slow = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await;
    for _ in 0..1000 {
        let view = lease(&world, &node, known.revision).await;
        assert_eq!((view.lock_revision, view.expires_in_ms), (0, None), "it has not heard of that lock");
    }
    // They take no place from others.
    let waiting = flood(&world, &node, Verb::DocGet, &json!({})).await;
    assert_eq!(waiting.len(), 3, "and one that tells");
    world.heal();
    for pending in waiting.into_iter().chain([slow]) {
        assert!(pending.await.unwrap().is_some());
    }
    let view = lease(&world, &node, known.revision).await;
    assert_eq!((view.lock_revision, view.expires_in_ms), (1, Some(5000)));
}

#[tokio::test(start_paused = true)]
async fn hints_that_find_no_room_are_not_lost() {
    let (world, node) = world_of(Opening { mailbox: 4, ..Opening::default() }).await;
    done(&world, &node, Verb::DocEdit, edit("x")).await;
    let (_, news) = acquire(&world, "a", Some(5000)).await;
    // All of this comes before the agent has its turn, and none of it makes it read the record.
    for _ in 0..10 {
        let question = Letter::own(Call::Verb(Verb::DocGet), ReplyTo::Nobody);
        node.supervisor.deliver(world.key.clone(), question).await;
    }
    for _ in 0..10 {
        let hint = Letter::own(Call::Hint(Box::new(news.clone())), ReplyTo::Nobody);
        node.supervisor.deliver(world.key.clone(), hint).await;
    }
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(lease(&world, &node, news.revision).await.lock_revision, 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_bytes_fills_one_session_and_not_the_worker() {
    let opening = Opening { bytes: (100_000, 1_000_000), ..Opening::default() };
    let (world, node) = world_of(opening).await;
    node.process.send_replace(Process::Stalls);
    let large = edit(&"x".repeat(30_000));
    let waiting = flood(&world, &node, Verb::DocEdit, &large).await;
    assert_eq!(waiting.len(), 3, "of 30,000 bytes within 100,000");
    let small = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await;
    assert!(!small.is_finished(), "a small one fits");
    world.heal();
    for pending in waiting.into_iter().chain([small]) {
        assert!(matches!(pending.await.unwrap(), Some(Answer::Done(_))));
    }
    // What was answered waits no more.
    for _ in 0..10 {
        done(&world, &node, Verb::DocEdit, json!({ "body": "x".repeat(30_000) })).await;
    }
}

#[tokio::test(start_paused = true)]
async fn floods_of_many_sessions_leave_room_for_one_that_has_little_waiting() {
    let opening = Opening { bytes: (1_000_000, 1_000_000), ..Opening::default() };
    let (world, node) = world_of(opening).await;
    node.process.send_replace(Process::Stalls);
    let waiting = flood(&world, &node, Verb::DocEdit, &json!({ "body": "x".repeat(100_000) })).await;
    assert_eq!(waiting.len(), 7, "of 100,000 bytes within three quarters of 1,000,000");
    let other = holdfast_protocol::SessionId::parse("s2").unwrap();
    let other = holdfast_protocol::SessionKey::new(world.key.namespace.clone(), other);
    world.create(&other, &node).await;
    world.heal();
    let ask = asked(&world, &edit(&"y".repeat(50_000)), Revision(0));
    assert!(matches!(node.ask(&other, Call::Verb(Verb::DocEdit), ask).await, Some(Answer::Done(_))));
    for pending in waiting {
        assert!(matches!(pending.await.unwrap(), Some(Answer::Done(_))));
    }
}
