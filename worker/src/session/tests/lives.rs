//! A session that ends and is opened anew: what belongs to which life.

use holdfast_protocol::error::Reason;
use holdfast_protocol::record::State;
use holdfast_protocol::subject::Verb;
use serde_json::json;

use super::*;
use crate::session::tests::world::Process;

/// Closes the session and opens it anew on `node`, as a coordinator does.
async fn open_anew(world: &World, node: &Node) -> Hint {
    let hint = world.create(&world.key, node).await;
    let ask = world.plain_ask(hint.revision);
    let request_id = ask.request_id.clone();
    let activate = Activate { hint: hint.clone(), created: true, content: None, request_id };
    let up = node.ask(&world.key, Call::Activate(Box::new(activate)), ask).await;
    assert!(matches!(up, Some(Answer::Done(_))), "{up:?}");
    hint
}

fn edit_as(id: &str, text: &str) -> Value {
    json!({ "body": text, "request_id": id })
}

#[tokio::test(start_paused = true)]
async fn a_late_copy_of_an_edit_of_an_earlier_life_changes_nothing() {
    let (world, node) = world().await;
    let first = done(&world, &node, Verb::DocEdit, edit_as("e1", "of the first life")).await;
    done(&world, &node, Verb::SessionClose, json!({})).await;
    open_anew(&world, &node).await;
    assert_eq!(done(&world, &node, Verb::DocEdit, edit_as("e1", "of the first life")).await, first);
    assert_eq!(body(&world, &node).await, "");
    // Over a compaction, a failover, and one more life, too.
    for number in 0..80 {
        done(&world, &node, Verb::DocEdit, edit_as(&format!("n{number}"), "new")).await;
        node.floor.advance(u64::MAX);
    }
    give(&world, &world.node(1)).await;
    assert_eq!(done(&world, &world.node(1), Verb::DocEdit, edit_as("e1", "of the first life")).await, first);
    done(&world, &world.node(1), Verb::SessionClose, json!({})).await;
    open_anew(&world, &node).await;
    assert_eq!(done(&world, &node, Verb::DocEdit, edit_as("e1", "of the first life")).await, first);
    assert_eq!(done(&world, &node, Verb::DocEdit, edit_as("n79", "new")).await["revision"], 80);
    assert_eq!(body(&world, &node).await, "");
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_earlier_lives_is_bounded_and_the_own_answers_win() {
    let (world, node) = world().await;
    done(&world, &node, Verb::DocEdit, edit_as("e1", "old")).await;
    done(&world, &node, Verb::SessionClose, json!({})).await;
    open_anew(&world, &node).await;
    for number in 0..1024 {
        done(&world, &node, Verb::DocEdit, edit_as(&format!("n{number}"), "new")).await;
        node.floor.advance(u64::MAX);
    }
    assert_eq!(done(&world, &node, Verb::DocEdit, edit_as("n0", "again")).await["revision"], 1);
    assert_eq!(done(&world, &node, Verb::DocEdit, edit_as("e1", "long forgotten")).await["revision"], 1025);
}

#[tokio::test(start_paused = true)]
async fn what_waits_when_its_session_is_closed_does_not_reach_the_next_one() {
    let (world, node) = world().await;
    let known = hint(&world).await.revision;
    node.process.send_replace(Process::Stalls);
    let slow = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await;
    let of_close = json!({ "request_id": "c1" });
    let close = begin_asking(&world, &node, Call::Verb(Verb::SessionClose), of_close.clone()).await;
    let copy = begin_asking(&world, &node, Call::Verb(Verb::SessionClose), of_close).await;
    let other = begin_asking(&world, &node, Call::Verb(Verb::SessionClose), json!({ "request_id": "c2" })).await;
    let late = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("late")).await;
    // This one's sender knows of a session that was opened since.
    let newer = Asked { revision: Revision(known.0 + 100), ..asked(&world, &edit("newer"), Revision(0)) };
    let (of_newer, at) = (world.clone(), node.clone());
    let newer = world.tasks.spawn(async move { at.ask(&of_newer.key, Call::Verb(Verb::DocEdit), newer).await });
    tokio::task::yield_now().await;
    world.heal();
    for done in [slow, close, copy] {
        assert!(matches!(done.await.unwrap(), Some(Answer::Done(_))));
    }
    for waited in [other, late] {
        match waited.await.unwrap() {
            Some(Answer::Refused(error)) => assert_eq!((error.reason, error.retryable), (Reason::NoSession, false)),
            answered => panic!("answered {answered:?}"),
        }
    }
    assert!(matches!(newer.await.unwrap(), Some(Answer::Moved)));
    assert_eq!(record(&world).await.state, State::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_waits_when_idleness_closes_its_session_is_told_that_there_is_none() {
    let config = json!({ "idle_timeout_ms": 60_000, "on_idle": "close" });
    let (world, node) = world_of(Opening { config, ..Opening::default() }).await;
    tokio::time::sleep(std::time::Duration::from_millis(59_999)).await;
    node.process.send_replace(Process::Stalls);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let late = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("late")).await;
    world.heal();
    match late.await.unwrap() {
        Some(Answer::Refused(error)) => assert_eq!(error.reason, Reason::NoSession),
        answered => panic!("answered {answered:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_of_another_life_is_sent_to_look_again() {
    let (world, node) = world().await;
    done(&world, &node, Verb::SessionClose, json!({})).await;
    let hint = open_anew(&world, &node).await;
    for (life, is_its_own) in [(0, false), (hint.record.log_after, true), (hint.record.log_after + 7, false)] {
        for (verb, body) in [
            (Verb::DocEdit, edit("x")),
            (Verb::DocGet, json!({})),
            (Verb::SessionTouch, json!({})),
            (Verb::DocUndo, json!({})),
        ] {
            let ask = Asked { life: Some(life), ..asked(&world, &body, Revision(0)) };
            let answer = node.ask(&world.key, Call::Verb(verb), ask).await;
            assert_eq!(matches!(answer, Some(Answer::Moved)), !is_its_own, "{verb} for {life}: {answer:?}");
        }
    }
    let ask = Asked { life: Some(0), ..asked(&world, &json!({}), Revision(0)) };
    assert!(matches!(node.ask(&world.key, Call::Verb(Verb::SessionClose), ask).await, Some(Answer::Moved)));
    assert_eq!(record(&world).await.state, State::Active);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_life_began_with_does_not_come_into_the_next_one() {
    let opening =
        Opening { activated: false, content: Some(json!({ "body": "of the first life" })), ..Opening::default() };
    let (world, node) = world_of(opening).await;
    let (_, late) = world.first.lock().unwrap().clone().unwrap();
    let known = hint(&world).await;
    let closed = SessionRecord { state: State::Closed, owner: None, ..known.record };
    world.write_record(known.revision, &closed).await.unwrap();
    open_anew(&world, &node).await;
    let ask = world.plain_ask(late.hint.revision);
    let answer = node.ask(&world.key, Call::Activate(Box::new(late)), ask).await;
    assert!(matches!(answer, Some(Answer::Moved)), "{answer:?}");
    assert_eq!(body(&world, &node).await, "");
}
