//! Leaving memory: idle, handed over, closed.

use std::time::Duration;

use holdfast_protocol::error::Reason;
use holdfast_protocol::record::{EventType, State};
use holdfast_protocol::subject::Verb;
use holdfast_store::memory::Faults;
use serde_json::json;

use super::*;
use crate::letter::{Passivation, Who};
use crate::session::tests::world::Process;

const IDLE: Duration = Duration::from_millis(60_001);

fn closing() -> Opening {
    Opening { config: json!({ "idle_timeout_ms": 60_000, "on_idle": "close" }), ..Opening::default() }
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_leaves_memory_and_comes_back_as_it_was() {
    let (world, node) = world().await;
    for text in ["a", "b", "c"] {
        done(&world, &node, Verb::DocEdit, edit(text)).await;
    }
    tokio::time::sleep(IDLE).await;
    let left = record(&world).await;
    assert_eq!((left.state, left.owner.is_none(), node.supervisor.len()), (State::Passive, true, 0));
    assert_eq!(left.event.unwrap().kind, EventType::SessionPassivated);
    assert_eq!(world.memory.log_now(&world.key).len(), 1, "one snapshot");
    assert!(matches!(ask(&world, &node, Verb::DocEdit, edit("lost")).await, Some(Answer::Moved)));
    give(&world, &world.node(1)).await;
    assert_eq!(body(&world, &world.node(1)).await, "cba");
    assert_eq!(done(&world, &world.node(1), Verb::DocUndo, json!({})).await["revision"], 4);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_activity() {
    let (world, node) = world().await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        done(&world, &node, Verb::DocGet, json!({})).await;
    }
    done(&world, &node, Verb::SessionTouch, json!({})).await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(record(&world).await.state, State::Active);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(record(&world).await.state, State::Passive);
}

#[tokio::test(start_paused = true)]
async fn on_idle_close_ends_the_session_unless_it_is_locked() {
    let (world, _) = world_of(closing()).await;
    tokio::time::sleep(IDLE).await;
    assert_eq!(record(&world).await.state, State::Closed);

    let (world, node) = world_of(closing()).await;
    let (_, hint) = acquire(&world, "a", None).await;
    tell(&world, &node, hint).await;
    tokio::time::sleep(2 * IDLE).await;
    let left = record(&world).await;
    assert_eq!((left.state, left.lock.is_some()), (State::Passive, true));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_the_agent_does_not_know_of_keeps_its_session_from_being_closed() {
    let (world, node) = world_of(closing()).await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    acquire(&world, "a", None).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((record(&world).await.state, node.supervisor.len()), (State::Active, 1));
}

#[tokio::test(start_paused = true)]
async fn a_running_lease_keeps_a_session_in_memory() {
    let (world, node) = world().await;
    let (_, hint) = acquire(&world, "a", Some(90_000)).await;
    tell(&world, &node, hint).await;
    tokio::time::sleep(IDLE).await;
    assert_eq!(record(&world).await.state, State::Active);
    tokio::time::sleep(2 * IDLE).await;
    assert_eq!(record(&world).await.state, State::Passive);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_stays_while_the_storage_is_away() {
    let (world, node) = world().await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    world.memory.set_faults(Faults { unavailable: 1000, ..Faults::default() });
    tokio::time::sleep(2 * IDLE).await;
    assert_eq!(node.supervisor.len(), 1);
    world.memory.set_faults(Faults::default());
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((record(&world).await.state, node.supervisor.len()), (State::Passive, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reclaimed_session_says_so() {
    let (world, node) = world().await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    let why = Passivation::Reclaimed { max_idle_ms: 0, who: Who { actor: Some("ops".to_owned()), actor_proven: None } };
    let answer = node.ask(&world.key, Call::Passivate(why), world.plain_ask(Revision(0))).await;
    assert!(matches!(answer, Some(Answer::Done(_))));
    let left = record(&world).await;
    assert_eq!((left.state, left.event.unwrap().kind), (State::Passive, EventType::SessionReclaimed));
}

#[tokio::test(start_paused = true)]
async fn a_handover_finishes_compacts_and_sends_away_what_comes_after_it() {
    let (world, node) = world().await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    let before = hint(&world).await.revision;
    node.process.send_replace(Process::Stalls);
    let first = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("b")).await;
    let handover = begin_asking(&world, &node, Call::Handover, json!({})).await;
    let late = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("c")).await;
    world.heal();
    assert!(matches!(first.await.unwrap(), Some(Answer::Done(_))));
    assert!(matches!(handover.await.unwrap(), Some(Answer::Done(_))));
    assert!(matches!(late.await.unwrap(), Some(Answer::Moved)));
    assert_eq!(hint(&world).await.revision, before, "whose it is, is not its to say");
    assert_eq!(world.memory.log_now(&world.key).len(), 1, "one snapshot");
    give(&world, &world.node(1)).await;
    assert_eq!(body(&world, &world.node(1)).await, "ba");
}

#[tokio::test(start_paused = true)]
async fn closing_a_locked_session_needs_its_token() {
    let (world, node) = world().await;
    let (grant, _) = acquire(&world, "a", None).await;
    assert_eq!(refused(&world, &node, Verb::SessionClose, json!({ "token": "hft_other" })).await, Reason::StaleToken);
    done(&world, &node, Verb::SessionClose, json!({ "token": grant.lock_token })).await;
    let closed = record(&world).await;
    assert_eq!((closed.state, closed.lock, closed.lock_revision), (State::Closed, None, 2));
}
