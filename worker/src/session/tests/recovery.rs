//! Writes with unknown outcome, storages that are away, logs that must stay short.

use std::time::Duration;

use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::FRAMES_MAX;
use holdfast_protocol::subject::Verb;
use holdfast_store::memory::Faults;
use holdfast_store::{Rollup, Storage};
use serde_json::json;

use super::world::announce;
use super::*;

const AWAY: Faults = Faults {
    seed: 0,
    unavailable: 1000,
    lost_ack: 0,
    lost_write: 0,
    late: 0,
    unreadable: 1000,
    delay_ms: 0,
    behind: 0,
    stale: 0,
    frame_bytes_max: 0,
};

async fn log_len(world: &World) -> usize {
    world.memory.log_now(&world.key).len()
}

#[tokio::test(start_paused = true)]
async fn an_edit_whose_acknowledgement_is_lost_is_found_in_the_log() {
    let (world, node) = world().await;
    world.memory.set_faults(Faults { lost_ack: 400, seed: 3, ..Faults::default() });
    for number in 0..100 {
        assert_eq!(done(&world, &node, Verb::DocEdit, edit("x")).await["revision"], number + 1);
    }
    assert_eq!(body(&world, &node).await.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_may_have_landed_is_never_called_unavailable() {
    let (world, node) = world().await;
    let body_of = json!({ "body": "x", "request_id": "r1" });
    world.memory.set_faults(Faults { lost_ack: 1000, ..Faults::default() });
    let pending = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), body_of.clone()).await;
    world.memory.set_faults(AWAY);
    match pending.await.unwrap() {
        Some(Answer::Refused(error)) => assert_eq!((error.reason, &*error.request_id), (Reason::AckTimeout, "r1")),
        other => panic!("answered {other:?}"),
    }
    // What comes now was not sent.
    assert_eq!(refused(&world, &node, Verb::DocEdit, edit("y")).await, Reason::StorageUnavailable);
    world.memory.set_faults(Faults::default());
    assert_eq!(done(&world, &node, Verb::DocEdit, body_of).await["revision"], 1);
    assert_eq!(body(&world, &node).await, "x");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_arrives_late_is_fenced_off() {
    for seed in 0..50 {
        let (world, node) = world().await;
        world.memory.set_faults(Faults { late: 300, seed, ..Faults::default() });
        for _ in 0..20 {
            ask(&world, &node, Verb::DocEdit, edit("x")).await;
        }
        world.memory.set_faults(Faults::default());
        let live = done(&world, &node, Verb::DocGet, json!({ "consistency": "linearizable" })).await;
        give(&world, &world.node(1)).await;
        assert_eq!(done(&world, &world.node(1), Verb::DocGet, json!({})).await, live, "with seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_session_begins_with_cannot_arrive_after_its_first_edits() {
    for seed in 0..50 {
        let opening = Opening {
            faults: Faults { late: 1000, seed, ..Faults::default() },
            content: Some(json!({ "body": "begin" })),
            ..Opening::default()
        };
        let (world, node) = world_of(opening).await;
        world.memory.set_faults(Faults { seed, ..Faults::default() });
        done(&world, &node, Verb::DocEdit, edit("x")).await;
        done(&world, &node, Verb::DocEdit, edit("y")).await;
        let live = body(&world, &node).await;
        give(&world, &world.node(1)).await;
        assert_eq!(body(&world, &world.node(1)).await, live, "with seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_cannot_be_read_does_not_make_the_log_longer() {
    let (world, node) = world().await;
    done(&world, &node, Verb::DocEdit, edit("x")).await;
    world.memory.set_faults(Faults { unreadable: 1000, lost_ack: 300, ..Faults::default() });
    for _ in 0..30 {
        ask(&world, &node, Verb::DocEdit, edit("y")).await;
    }
    assert!(log_len(&world).await <= 8, "the log has {} messages", log_len(&world).await);
    world.memory.set_faults(Faults::default());
    give(&world, &world.node(1)).await;
    assert!(body(&world, &world.node(1)).await.ends_with('x'));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_read_stays_as_it_is() {
    let (world, node) = world().await;
    done(&world, &node, Verb::DocEdit, edit("x")).await;
    let fence = hint(&world).await.revision;
    world.memory.append(&world.key, fence, "nonsense".into(), Rollup::Keep, "hand".to_owned()).await.unwrap();
    give_silently(&world, 1).await;
    for _ in 0..100 {
        assert_eq!(refused(&world, &world.node(1), Verb::DocGet, json!({})).await, Reason::RecordInvalid);
    }
    assert_eq!(log_len(&world).await, 2, "the edit and the nonsense");
}

async fn give_silently(world: &World, node: usize) {
    world.give_to(&hint(world).await, &world.node(node), EventType::SessionMoved).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_the_server_does_not_take_loses_nothing() {
    let (world, node) = world().await;
    let long = "x".repeat(3000);
    done(&world, &node, Verb::DocEdit, edit(&long)).await;
    world.memory.set_faults(Faults { frame_bytes_max: 2500, ..Faults::default() });
    let mut accepted = 3000;
    for _ in 0..200 {
        if let Some(Answer::Done(_)) = ask(&world, &node, Verb::DocEdit, edit("y")).await {
            accepted += 1;
        }
    }
    give(&world, &world.node(1)).await;
    assert!(log_len(&world).await as u64 <= FRAMES_MAX + 2);
    assert_eq!(body(&world, &world.node(1)).await.len(), accepted);
    world.memory.set_faults(Faults::default());
    done(&world, &world.node(1), Verb::DocEdit, edit("z")).await;
    assert_eq!(body(&world, &world.node(1)).await.len(), accepted + 1);
}

#[tokio::test(start_paused = true)]
async fn every_frame_twice_is_the_same_document() {
    let (world, node) = world().await;
    for number in 0..45 {
        let verb = [Verb::DocEdit, Verb::DocEdit, Verb::DocUndo, Verb::DocRedo][number % 4];
        let body = if verb == Verb::DocEdit { edit(&format!("{number} ")) } else { json!({}) };
        done(&world, &node, verb, body).await;
    }
    let live = done(&world, &node, Verb::DocGet, json!({})).await;
    let fence = hint(&world).await.revision;
    for (number, frame) in world.memory.log_now(&world.key).into_iter().enumerate() {
        world.memory.append(&world.key, fence, frame.value, Rollup::Keep, format!("again {number}")).await.unwrap();
    }
    give(&world, &world.node(1)).await;
    assert_eq!(done(&world, &world.node(1), Verb::DocGet, json!({})).await, live);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_a_hand_edit_brought_back_reads_what_was_written_without_it() {
    let (world, first) = world().await;
    done(&world, &first, Verb::DocEdit, edit("a")).await;
    let before = record(&world).await;
    give(&world, &world.node(1)).await;
    done(&world, &world.node(1), Verb::DocEdit, edit("b")).await;
    world.write_by_hand(&before);
    done(&world, &first, Verb::DocEdit, edit("c")).await;
    assert_eq!(body(&world, &first).await, "cba");
    give(&world, &world.node(1)).await;
    assert_eq!(body(&world, &world.node(1)).await, "cba");
}

#[tokio::test(start_paused = true)]
async fn a_broken_record_is_not_touched() {
    let (world, node) = world().await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    let good = record(&world).await;
    world.memory.edit_by_hand(&world.key, Some("{nonsense".into()));
    let at = world.memory.last_sequence();
    for _ in 0..3 {
        assert!(matches!(ask(&world, &node, Verb::DocEdit, edit("b")).await, Some(Answer::Moved)));
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.memory.last_sequence(), at);
    world.write_by_hand(&good);
    done(&world, &node, Verb::DocEdit, edit("b")).await;
    assert_eq!(body(&world, &node).await, "ba");
}

#[tokio::test(start_paused = true)]
async fn events_of_a_closed_session_survive_its_successor() {
    let (world, node) = world().await;
    for _ in 0..5 {
        done(&world, &node, Verb::DocEdit, edit("old")).await;
    }
    done(&world, &node, Verb::SessionClose, json!({})).await;
    let hint = world.create(&world.key, &node).await;
    let ask_of = world.plain_ask(hint.revision);
    let activate = Activate { hint, created: true, content: None, request_id: ask_of.request_id.clone() };
    node.ask(&world.key, Call::Activate(Box::new(activate)), ask_of).await.unwrap();
    assert_eq!(body(&world, &node).await, "");
    for _ in 0..70 {
        done(&world, &node, Verb::DocEdit, edit("n")).await;
    }
    give(&world, &world.node(1)).await;
    assert_eq!(body(&world, &world.node(1)).await.len(), 70);
    announce(&world).await;
    assert_eq!(world.announced.lock().unwrap().events.len(), 75);
}

#[tokio::test(start_paused = true)]
async fn a_lagging_relay_finds_every_event_in_a_snapshot() {
    let (world, node) = world().await;
    for _ in 0..200 {
        done(&world, &node, Verb::DocEdit, edit("x")).await;
    }
    announce(&world).await;
    assert_eq!(world.announced.lock().unwrap().events.len(), 200);
    // Once they are announced, they are not carried on.
    node.floor.advance(world.memory.last_sequence());
    for _ in 0..33 {
        done(&world, &node, Verb::DocEdit, edit("x")).await;
    }
    announce(&world).await;
    let mut announced = world.announced.lock().unwrap().events.clone();
    announced.sort_unstable();
    announced.dedup();
    assert_eq!(announced.len(), 233);
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_forgot_what_a_snapshot_replaced_loses_nothing() {
    let (world, node) = world().await;
    let mut edits = 0;
    // Long enough for several snapshots, so that the storage has only part of what it brings back.
    let next = world.node(1);
    for _ in 0..4 {
        for _ in 0..50 {
            done(&world, &node, Verb::DocEdit, edit("x")).await;
            edits += 1;
            node.floor.advance(u64::MAX);
        }
        world.memory.forget_deletions(&world.key);
        give(&world, &next).await;
        assert_eq!(body(&world, &next).await.len(), edits);
        give(&world, &node).await;
        assert_eq!(body(&world, &node).await.len(), edits, "and once more, compacted or not");
    }
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_forgot_that_a_session_was_purged_does_not_bring_it_back() {
    let (world, node) = world().await;
    let next = world.node(1);
    for _ in 0..40 {
        done(&world, &node, Verb::DocEdit, edit("old")).await;
    }
    done(&world, &node, Verb::SessionClose, json!({})).await;
    let last = Revision(world.memory.last_sequence());
    world.memory.purge(&world.key, last).await.unwrap();
    // Nothing is known of it: the new one has no `log_after`.
    let hint = world.create(&world.key, &node).await;
    assert_eq!(hint.record.log_after, 0);
    let ask_of = world.plain_ask(hint.revision);
    let activate = Activate { hint, created: true, content: None, request_id: ask_of.request_id.clone() };
    node.ask(&world.key, Call::Activate(Box::new(activate)), ask_of).await.unwrap();
    for edits in [1, 2, 30, 50] {
        while body(&world, &node).await.len() < edits {
            done(&world, &node, Verb::DocEdit, edit("n")).await;
        }
        world.memory.forget_deletions(&world.key);
        for owner in [&next, &node] {
            give(&world, owner).await;
            assert_eq!(body(&world, owner).await, "n".repeat(edits));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_number_of_failovers_drops_a_frame_of_a_full_log() {
    let (world, mut node) = world().await;
    // A snapshot cannot be made: the server does not take frames of that size.
    done(&world, &node, Verb::DocEdit, edit(&"x".repeat(3000))).await;
    world.memory.set_faults(Faults { frame_bytes_max: 2500, behind: 500, ..Faults::default() });
    let mut accepted = 3000;
    for _ in 0..100 {
        if let Some(Answer::Done(_)) = ask(&world, &node, Verb::DocEdit, edit("y")).await {
            accepted += 1;
        }
    }
    for failover in 0..10 {
        node = world.node((failover + 1) % 2);
        give(&world, &node).await;
        assert_eq!(body(&world, &node).await.len(), accepted, "after failover {failover}");
        assert!(log_len(&world).await as u64 <= FRAMES_MAX, "the log has {} messages", log_len(&world).await);
    }
    world.memory.set_faults(Faults::default());
    done(&world, &node, Verb::DocEdit, edit("z")).await;
    assert_eq!(body(&world, &node).await.len(), accepted + 1);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_again_under_the_same_fence_reads_what_the_one_before_wrote() {
    let (world, node) = world().await;
    for number in 0..5 {
        done(&world, &node, Verb::DocEdit, edit("x")).await;
        // Whoever asked for it is gone before it moves the session.
        node.ask(&world.key, Call::Handover, world.plain_ask(Revision(0))).await;
        world.memory.set_faults(Faults { behind: 1000, ..Faults::default() });
        assert_eq!(body(&world, &node).await.len(), number + 1);
    }
}
