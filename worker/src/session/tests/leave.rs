//! Which ways out of memory end a session that is set up to close when idle, and which only passivate it.

use std::time::Duration;

use holdfast_protocol::error::Reason;
use holdfast_protocol::record::{EventType, State};
use holdfast_protocol::subject::Verb;
use serde_json::json;

use super::*;
use crate::letter::{Passivation, Who};
use crate::session::tests::world::Process;

/// A session that closes when nobody asks for anything for a minute.
async fn closing() -> (Arc<World>, Arc<Node>) {
    let config = json!({ "idle_timeout_ms": 60_000, "on_idle": "close" });
    world_of(Opening { config, ..Opening::default() }).await
}

fn reclaimed(max_idle_ms: u64) -> Call {
    Call::Passivate(Passivation::Reclaimed {
        max_idle_ms,
        who: Who { actor: Some("ops".to_owned()), actor_proven: None },
    })
}

fn leaving() -> Call {
    Call::Passivate(Passivation::Leaving { reason: "worker stops".to_owned(), who: Who::default() })
}

async fn letter(world: &World, node: &Node, call: Call) -> Option<Answer> {
    node.ask(&world.key, call, world.plain_ask(Revision(0))).await
}

async fn state(world: &World) -> (State, Option<EventType>) {
    let record = record(world).await;
    (record.state, record.event.map(|event| event.kind))
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_leaves_passivates_a_session_that_closes_when_idle() {
    let (world, node) = closing().await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    // However long it was idle: it leaves because its worker does.
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(matches!(letter(&world, &node, leaving()).await, Some(Answer::Done(_))));
    assert_eq!(state(&world).await, (State::Passive, Some(EventType::SessionPassivated)));
    give(&world, &world.node(1)).await;
    assert_eq!(body(&world, &world.node(1)).await, "a");
}

#[tokio::test(start_paused = true)]
async fn a_handover_leaves_the_record_as_it_is_also_where_nobody_takes_the_session() {
    let (world, node) = closing().await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    assert!(matches!(letter(&world, &node, Call::Handover).await, Some(Answer::Done(_))));
    assert_eq!((record(&world).await.state, node.supervisor.len()), (State::Active, 0));
    // Its coordinator is gone before it chose another worker: the next request starts it again here.
    assert_eq!(body(&world, &node).await, "a");
    assert_eq!(record(&world).await.state, State::Active);
}

#[tokio::test(start_paused = true)]
async fn a_killed_worker_leaves_a_session_that_closes_when_idle_to_the_next_one() {
    let (world, node) = closing().await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    node.process.send_replace(Process::Dead);
    tokio::time::sleep(Duration::from_secs(120)).await;
    give(&world, &world.node(1)).await;
    assert_eq!(body(&world, &world.node(1)).await, "a");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_idle_for_long_enough_is_reclaimed_and_one_that_was_not_stays() {
    let (world, node) = closing().await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    tokio::time::sleep(Duration::from_millis(9_999)).await;
    // Neither a question about the lock nor an attempt to reclaim it is activity.
    letter(&world, &node, Call::Lease).await;
    match letter(&world, &node, reclaimed(10_000)).await {
        Some(Answer::Refused(error)) => assert_eq!(error.reason, Reason::MailboxFull),
        other => panic!("answered {other:?}"),
    }
    assert_eq!(state(&world).await.0, State::Active);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(matches!(letter(&world, &node, reclaimed(10_000)).await, Some(Answer::Done(_))));
    assert_eq!(state(&world).await, (State::Closed, Some(EventType::SessionClosed)));
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_waits_in_front_of_a_reclaim_keeps_the_session() {
    let (world, node) = closing().await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    node.process.send_replace(Process::Stalls);
    // The first one keeps the agent busy, so that the others wait in its mailbox.
    let first = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("a")).await;
    let second = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("b")).await;
    let reclaim = begin_asking(&world, &node, reclaimed(40_000), json!({})).await;
    world.heal();
    assert!(matches!(first.await.unwrap(), Some(Answer::Done(_))));
    assert!(matches!(second.await.unwrap(), Some(Answer::Done(_))));
    assert!(matches!(reclaim.await.unwrap(), Some(Answer::Refused(_))));
    assert_eq!(state(&world).await.0, State::Active);
    assert_eq!(body(&world, &node).await, "ba");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_nobody_told_the_agent_of_keeps_a_reclaim_from_closing_its_session() {
    let (world, node) = closing().await;
    acquire(&world, "a", None).await;
    assert!(matches!(letter(&world, &node, reclaimed(0)).await, Some(Answer::Refused(_))));
    assert_eq!(state(&world).await.0, State::Active);
    // By now it knows: the session leaves memory, and stays.
    assert!(matches!(letter(&world, &node, reclaimed(0)).await, Some(Answer::Done(_))));
    assert_eq!(state(&world).await, (State::Passive, Some(EventType::SessionReclaimed)));
}

#[tokio::test(start_paused = true)]
async fn unsaved_changes_keep_a_reclaim_from_closing_their_session() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({ "idle_timeout_ms": 60_000, "on_idle": "close" });
    let opening = Opening { config, folder: Some(folder.path().to_owned()), ..Opening::default() };
    let (world, node) = world_of(opening).await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    assert!(matches!(letter(&world, &node, reclaimed(0)).await, Some(Answer::Done(_))));
    assert_eq!(state(&world).await.0, State::Passive);
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_brings_nothing_new_is_no_activity() {
    let (world, node) = closing().await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    let known = hint(&world).await;
    tell(&world, &node, known).await;
    tokio::time::sleep(Duration::from_millis(10_001)).await;
    assert_eq!(state(&world).await.0, State::Closed);
}
