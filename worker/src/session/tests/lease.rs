//! A lock's lease, on the agent's clock.

use std::time::Duration;

use holdfast_protocol::error::Reason;
use holdfast_protocol::record::EventType;
use holdfast_protocol::subject::Verb;
use holdfast_store::memory::Faults;
use serde_json::json;
use tokio::time::Instant;

use super::*;

async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_expires_on_the_agents_clock_and_not_before() {
    let (world, node) = world().await;
    let (grant, hint) = acquire(&world, "a", Some(2000)).await;
    tell(&world, &node, hint).await;
    sleep_ms(1999).await;
    assert!(record(&world).await.lock.is_some());
    sleep_ms(2).await;
    let record = record(&world).await;
    assert!(record.lock.is_none());
    assert_eq!(record.lock_revision, grant.lock_revision + 1);
    let event = record.event.unwrap();
    assert_eq!((event.kind, event.previous_owner.as_deref()), (EventType::LockExpired, Some("a")));
    let late = json!({ "token": grant.lock_token, "body": "late" });
    assert_eq!(refused(&world, &node, Verb::DocEdit, late).await, Reason::NotLocked);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_and_an_edit_with_the_token_restart_the_lease() {
    let (world, node) = world().await;
    let (grant, hint) = acquire(&world, "a", Some(2000)).await;
    tell(&world, &node, hint).await;
    sleep_ms(1500).await;
    let renewed = done(&world, &node, Verb::LockRenew, json!({ "token": grant.lock_token })).await;
    assert_eq!(renewed["expires_in_ms"], 2000);
    sleep_ms(1500).await;
    done(&world, &node, Verb::DocEdit, json!({ "token": grant.lock_token, "body": "x" })).await;
    sleep_ms(1999).await;
    assert!(record(&world).await.lock.is_some());
    sleep_ms(2).await;
    assert!(record(&world).await.lock.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_others_ask_does_not_restart_the_lease() {
    let (world, node) = world().await;
    let (_, hint) = acquire(&world, "a", Some(2000)).await;
    tell(&world, &node, hint).await;
    sleep_ms(1500).await;
    assert_eq!(refused(&world, &node, Verb::DocEdit, edit("x")).await, Reason::LockHeld);
    let stale = json!({ "token": "hft_other" });
    assert_eq!(refused(&world, &node, Verb::LockRenew, stale).await, Reason::StaleToken);
    done(&world, &node, Verb::DocGet, json!({})).await;
    sleep_ms(501).await;
    assert!(record(&world).await.lock.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_is_never_empty_does_not_keep_a_lock_alive() {
    let (world, node) = world().await;
    let (_, hint) = acquire(&world, "a", Some(1000)).await;
    tell(&world, &node, hint).await;
    world.memory.set_faults(Faults { delay_ms: 5, ..Faults::default() });
    let (began, mut crowd) = (Instant::now(), Vec::new());
    for _ in 0..8 {
        let (world, node, tasks) = (world.clone(), node.clone(), world.tasks.clone());
        crowd.push(tasks.spawn(async move {
            while began.elapsed() < Duration::from_secs(3) {
                ask(&world, &node, Verb::DocEdit, edit("x")).await;
            }
        }));
    }
    sleep_ms(1200).await;
    assert!(record(&world).await.lock.is_none(), "nobody renewed it");
    for one in crowd {
        one.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_renewal_waited_for_the_storage_keeps_its_lock() {
    let (world, node) = world().await;
    let (grant, hint) = acquire(&world, "a", Some(1000)).await;
    tell(&world, &node, hint).await;
    // The agent stands in an edit while the lease runs out; the renewal came in time, and waits behind it.
    node.process.send_replace(super::world::Process::Stalls);
    let slow = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await;
    let renewal = begin_asking(&world, &node, Call::Verb(Verb::LockRenew), json!({ "token": grant.lock_token })).await;
    sleep_ms(3000).await;
    world.heal();
    assert!(matches!(slow.await.unwrap(), Some(Answer::Refused(_))));
    assert!(matches!(renewal.await.unwrap(), Some(Answer::Done(_))));
    assert!(record(&world).await.lock.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_counts_by_when_it_came_and_not_by_when_it_is_served() {
    for (came_at_ms, is_kept) in [(900, true), (1100, false)] {
        let (world, node) = world().await;
        let (grant, hint) = acquire(&world, "a", Some(1000)).await;
        tell(&world, &node, hint).await;
        // The agent stands in an edit over the deadline, with questions before and behind the renewal.
        node.process.send_replace(super::world::Process::Stalls);
        let mut waiting = vec![begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await];
        sleep_ms(came_at_ms).await;
        waiting.push(begin_asking(&world, &node, Call::Verb(Verb::DocGet), json!({})).await);
        let token = json!({ "token": grant.lock_token });
        let renewal = begin_asking(&world, &node, Call::Verb(Verb::LockRenew), token).await;
        sleep_ms(1500 - came_at_ms).await;
        for _ in 0..5 {
            waiting.push(begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("x")).await);
        }
        sleep_ms(500).await;
        world.heal();
        match (renewal.await.unwrap(), is_kept) {
            (Some(Answer::Done(_)), true) => {}
            (Some(Answer::Refused(error)), false) => assert_eq!(error.reason, Reason::NotLocked),
            (other, _) => panic!("a renewal after {came_at_ms} ms was answered {other:?}"),
        }
        for pending in waiting {
            assert!(pending.await.unwrap().is_some());
        }
        assert_eq!(record(&world).await.lock.is_some(), is_kept);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_reads_what_came_before_a_lease_counts_as_run_out() {
    for renews in [true, false] {
        let (world, node) = world().await;
        let (grant, hint) = acquire(&world, "a", Some(1000)).await;
        tell(&world, &node, hint).await;
        // The pulse beat a moment ago, and not since: nothing could be read over the deadline.
        node.pulse.beat(100);
        sleep_ms(1300).await;
        if renews {
            let token = json!({ "token": grant.lock_token });
            let renewal = begin_asking(&world, &node, Call::Verb(Verb::LockRenew), token).await;
            assert!(matches!(renewal.await.unwrap(), Some(Answer::Done(_))));
        }
        for beat in 1..=8 {
            node.pulse.beat(1300 + beat * 100);
            sleep_ms(100).await;
        }
        sleep_ms(700).await;
        assert_eq!(record(&world).await.lock.is_some(), renews, "it waits once, and for a second");
        sleep_ms(1500).await;
        assert!(record(&world).await.lock.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_came_in_time_keeps_the_lock_for_what_comes_behind_it() {
    let (world, node) = world().await;
    let (grant, hint) = acquire(&world, "a", Some(1000)).await;
    tell(&world, &node, hint).await;
    node.process.send_replace(super::world::Process::Stalls);
    let slow = begin_asking(&world, &node, Call::Verb(Verb::DocGet), json!({ "consistency": "linearizable" })).await;
    let in_time = json!({ "token": grant.lock_token, "body": "in time" });
    let in_time = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), in_time).await;
    sleep_ms(1500).await;
    let behind = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("of somebody else")).await;
    world.heal();
    assert!(slow.await.unwrap().is_some());
    assert!(matches!(in_time.await.unwrap(), Some(Answer::Done(_))));
    match behind.await.unwrap() {
        Some(Answer::Refused(error)) => assert_eq!(error.reason, Reason::LockHeld),
        other => panic!("answered {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failover_the_countdown_restarts_in_full() {
    let (world, node) = world().await;
    let (_, hint) = acquire(&world, "a", Some(2000)).await;
    tell(&world, &node, hint).await;
    sleep_ms(1500).await;
    give(&world, &world.node(1)).await;
    sleep_ms(1999).await;
    assert!(record(&world).await.lock.is_some());
    sleep_ms(2).await;
    assert!(record(&world).await.lock.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_changed_by_hand_counts_from_then() {
    let (world, node) = world().await;
    let (_, hint) = acquire(&world, "a", Some(60_000)).await;
    tell(&world, &node, hint).await;
    sleep_ms(1000).await;
    let mut edited = record(&world).await;
    edited.lock.as_mut().unwrap().ttl_ms = Some(2000);
    world.write_by_hand(&edited);
    // The agent learns of it with its next write.
    assert_eq!(refused(&world, &node, Verb::DocEdit, edit("x")).await, Reason::LockHeld);
    sleep_ms(1999).await;
    assert!(record(&world).await.lock.is_some());
    sleep_ms(2).await;
    assert!(record(&world).await.lock.is_none());
}
