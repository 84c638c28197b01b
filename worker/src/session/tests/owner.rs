//! Who owns a session, and for how long an agent may believe that it does.

use std::time::Duration;

use holdfast_protocol::error::Reason;
use holdfast_protocol::subject::Verb;
use holdfast_store::memory::Faults;
use serde_json::json;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_worker_that_was_away_for_long_answers_no_read_of_a_session_that_moved() {
    let (world, zombie) = world().await;
    done(&world, &zombie, Verb::DocEdit, edit("x")).await;
    let known = hint(&world).await.revision;
    // It could not be reached, or stood still; others have moved the session, and nobody told it.
    give(&world, &world.node(1)).await;
    done(&world, &world.node(1), Verb::DocEdit, edit("y")).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    // Its lease is good again by now, and a coordinator's cache still says that it owns the session.
    let read = ask_knowing(&world, &zombie, Verb::DocGet, &json!({}), known).await;
    assert!(matches!(read, Some(Answer::Moved)), "{read:?}");
    assert_eq!(zombie.supervisor.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_old_word_that_a_session_begins_here_makes_nobody_read_an_empty_one() {
    let (world, first) = world_of(Opening { activated: false, ..Opening::default() }).await;
    let (_, late) = world.first.lock().unwrap().clone().unwrap();
    give(&world, &world.node(1)).await;
    done(&world, &world.node(1), Verb::DocEdit, edit("x")).await;
    let known = late.hint.revision;
    let ask = world.plain_ask(known);
    first.ask(&world.key, Call::Activate(Box::new(late)), ask).await;
    let read = ask_knowing(&world, &first, Verb::DocGet, &json!({}), known).await;
    assert!(matches!(read, Some(Answer::Moved)), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn reads_of_a_session_that_is_read_only_now_and_then_go_on() {
    let (world, node) = world_of(Opening { config: json!({ "idle_timeout_ms": 600_000 }), ..Opening::default() }).await;
    done(&world, &node, Verb::DocEdit, edit("x")).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert_eq!(body(&world, &node).await, "x");
    }
    tokio::time::sleep(Duration::from_secs(25)).await;
    world.memory.set_faults(Faults { unreadable: 1000, ..Faults::default() });
    assert_eq!(refused(&world, &node, Verb::DocGet, json!({})).await, Reason::StorageUnavailable);
}
