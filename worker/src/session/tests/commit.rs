//! What one frame may carry, and what is answered when.

use holdfast_protocol::error::Reason;
use holdfast_protocol::subject::Verb;
use holdfast_store::memory::Faults;
use serde_json::json;

use super::*;
use crate::session::tests::world::Process;

#[tokio::test(start_paused = true)]
async fn an_edit_that_waits_beside_the_news_of_a_takeover_is_refused() {
    let (world, node) = world().await;
    let (grant, hint) = acquire(&world, "a", None).await;
    tell(&world, &node, hint).await;
    // Both wait while the agent is busy, so both come into one batch: the edit was right when it was decided.
    node.process.send_replace(Process::Stalls);
    let busy = begin_asking(&world, &node, Call::Verb(Verb::DocGet), json!({ "consistency": "linearizable" })).await;
    let stale = json!({ "token": grant.lock_token, "body": "of the old holder" });
    let edit = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), stale).await;
    let (_, news) = take_over(&world, "b").await;
    let told = begin_asking(&world, &node, Call::Hint(Box::new(news)), json!({})).await;
    world.heal();
    assert!(busy.await.unwrap().is_some() && told.await.unwrap().is_some());
    match edit.await.unwrap() {
        Some(Answer::Refused(error)) => assert_eq!(error.reason, Reason::StaleToken),
        other => panic!("the old holder's edit was answered {other:?}"),
    }
    assert_eq!(body(&world, &node).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_takeover_that_nobody_told_of_stops_the_next_frame() {
    let (world, node) = world().await;
    let (grant, hint) = acquire(&world, "a", None).await;
    tell(&world, &node, hint).await;
    let (taken, _) = take_over(&world, "b").await;
    let stale = json!({ "token": grant.lock_token, "body": "of the old holder" });
    assert_eq!(refused(&world, &node, Verb::DocEdit, stale).await, Reason::StaleToken);
    done(&world, &node, Verb::DocEdit, json!({ "token": taken.lock_token, "body": "of the new one" })).await;
    assert_eq!(body(&world, &node).await, "of the new one");
}

#[tokio::test(start_paused = true)]
async fn many_edits_at_once_are_few_frames() {
    let (world, node) = world().await;
    node.process.send_replace(Process::Stalls);
    let mut edits = Vec::new();
    for number in 0..64 {
        edits.push(begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit(&format!("{number} "))).await);
    }
    world.heal();
    for edit in edits {
        assert!(matches!(edit.await.unwrap(), Some(Answer::Done(_))));
    }
    assert_eq!(world.memory.log_now(&world.key).len(), 2, "the first alone, then all that waited");
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_request_in_the_same_batch_is_made_once() {
    let (world, node) = world().await;
    node.process.send_replace(Process::Stalls);
    let first = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await;
    let body_of = json!({ "body": "once", "request_id": "r1" });
    let one = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), body_of.clone()).await;
    let two = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), body_of.clone()).await;
    world.heal();
    let (Some(Answer::Done(one)), Some(Answer::Done(two))) = (one.await.unwrap(), two.await.unwrap()) else {
        panic!("both copies are answered");
    };
    assert_eq!(one, two);
    assert!(first.await.unwrap().is_some());
    let third = done(&world, &node, Verb::DocEdit, body_of).await;
    assert_eq!(third["revision"], 2);
    assert_eq!(third, serde_json::from_slice::<Value>(&one).unwrap());
}

#[tokio::test(start_paused = true)]
async fn copies_are_answered_when_the_session_is_gone() {
    let (world, node) = world().await;
    node.process.send_replace(Process::Stalls);
    let busy = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await;
    let body_of = json!({ "body": "once", "request_id": "r1" });
    let one = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), body_of.clone()).await;
    let two = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), body_of).await;
    world.give_to(&hint(&world).await, &world.node(1), EventType::SessionMoved).await.unwrap();
    world.heal();
    for pending in [busy, one, two] {
        assert!(matches!(pending.await.unwrap(), Some(Answer::Moved)));
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_refused_by_a_change_that_is_not_committed() {
    let (world, node) = world().await;
    node.process.send_replace(Process::Stalls);
    let busy = begin_asking(&world, &node, Call::Verb(Verb::DocGet), json!({ "consistency": "linearizable" })).await;
    let change = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await;
    let body_of = json!({ "body": "y", "expected_revision": 0 });
    let behind = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), body_of).await;
    // The read was sent already. The frame of the two edits is not taken.
    world.memory.set_faults(Faults { unavailable: 1000, ..Faults::default() });
    world.heal();
    assert!(busy.await.unwrap().is_some());
    for pending in [change, behind] {
        match pending.await.unwrap() {
            Some(Answer::Refused(error)) => assert_eq!(error.reason, Reason::StorageUnavailable),
            other => panic!("answered {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn content_is_what_a_session_begins_with_and_never_what_it_goes_on_with() {
    let (world, node) = world_of(Opening { content: Some(json!({ "body": "begin" })), ..Opening::default() }).await;
    assert_eq!(body(&world, &node).await, "begin");
    activate_with(&world, &node, json!({ "body": "again" })).await.unwrap();
    assert_eq!(body(&world, &node).await, "begin");
    done(&world, &node, Verb::DocEdit, edit("x")).await;
    give(&world, &world.node(1)).await;
    activate_with(&world, &world.node(1), json!({ "body": "again" })).await.unwrap();
    assert_eq!(body(&world, &world.node(1)).await, "xbegin");
}

#[tokio::test(start_paused = true)]
async fn content_that_waits_behind_an_edit_does_not_write_over_it() {
    let (world, node) = world().await;
    node.process.send_replace(Process::Stalls);
    let busy = begin_asking(&world, &node, Call::Verb(Verb::DocGet), json!({ "consistency": "linearizable" })).await;
    let change = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await;
    let ask = world.plain_ask(Revision(0));
    let content = Some(serde_json::from_value(json!({ "body": "begin" })).unwrap());
    let activate = Activate { hint: hint(&world).await, created: false, content, request_id: ask.request_id.clone() };
    let late = begin_asking(&world, &node, Call::Activate(Box::new(activate)), json!({})).await;
    world.heal();
    for pending in [busy, change, late] {
        assert!(matches!(pending.await.unwrap(), Some(Answer::Done(_))));
    }
    assert_eq!(body(&world, &node).await, "x");
    give(&world, &world.node(1)).await;
    assert_eq!(body(&world, &world.node(1)).await, "x");
}

#[tokio::test(start_paused = true)]
async fn a_zombie_sends_everybody_away() {
    let (world, zombie) = world().await;
    done(&world, &zombie, Verb::DocEdit, edit("x")).await;
    let given = give(&world, &world.node(1)).await;
    done(&world, &world.node(1), Verb::DocEdit, edit("y")).await;
    // Not told, it has what it had; a coordinator that knows better is sent away even with a local read.
    assert_eq!(body(&world, &zombie).await, "x");
    for (verb, body) in [
        (Verb::DocEdit, edit("z")),
        (Verb::DocEdit, json!({ "body": "z", "expected_revision": 7 })),
        (Verb::DocRedo, json!({})),
        (Verb::DocGet, json!({ "consistency": "linearizable" })),
        (Verb::LockRenew, json!({ "token": "hft_any" })),
        (Verb::SessionClose, json!({})),
    ] {
        let (world, zombie) = super::world().await;
        done(&world, &zombie, Verb::DocEdit, edit("x")).await;
        give(&world, &world.node(1)).await;
        assert!(matches!(ask(&world, &zombie, verb, body).await, Some(Answer::Moved)), "{verb}");
        assert_eq!(zombie.supervisor.len(), 0);
    }
    let read = ask_knowing(&world, &zombie, Verb::DocGet, &json!({}), given.revision).await;
    assert!(matches!(read, Some(Answer::Moved)));
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_is_busy_and_nothing_else() {
    let (world, node) = world_of(Opening { mailbox: 2, ..Opening::default() }).await;
    node.process.send_replace(Process::Stalls);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await);
    }
    match ask(&world, &node, Verb::DocEdit, edit("x")).await {
        Some(Answer::Refused(error)) => {
            assert_eq!((error.reason, error.retryable), (Reason::MailboxFull, true));
            assert!(error.retry_after_ms.is_some() && !error.request_id.is_empty());
        }
        other => panic!("answered {other:?}"),
    }
    world.heal();
    for pending in waiting {
        assert!(matches!(pending.await.unwrap(), Some(Answer::Done(_))));
    }
    assert_eq!(body(&world, &node).await, "xxx");
}
