//! Everything that happens to a session beside its clients' requests: moves, kills, pauses, hand edits, old letters, and
//! the relay that announces with a lag.

use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::Revision;
use holdfast_protocol::frame::Frame;
use holdfast_protocol::internal::{Activate, Hint};
use holdfast_protocol::record::{EventType, Lock, SessionRecord, State};
use holdfast_protocol::subject::Verb;
use holdfast_store::memory::Faults;
use holdfast_store::{Storage, StoredFrame};

use super::Dice;
use super::world::{Asked, Node, Process, World};
use crate::letter::{Answer, Call, Passivation};

async fn pause(dice: &mut Dice, up_to_ms: u64) {
    tokio::time::sleep(Duration::from_millis(1 + dice.below(up_to_ms))).await;
}

pub(super) async fn meddle(world: Arc<World>, mut dice: Dice) {
    let mut old: Vec<Hint> = Vec::new();
    loop {
        pause(&mut dice, 800).await;
        old.extend(world.read_record().await.ok().flatten());
        if dice.percent(30) {
            let node = world.any_node();
            open_anew(&world, &node).await;
        }
        match dice.below(100) {
            0..=19 => move_away(&world, &mut dice).await,
            20..=24 => kill(&world, &mut dice).await,
            25..=27 => close_and_open(&world, &mut dice).await,
            28..=39 => stall(&world, &mut dice).await,
            40..=49 => reclaim(&world).await,
            50..=60 => edit_by_hand(&world, &mut dice).await,
            61..=64 => revert_by_hand(&world, &mut dice).await,
            65..=69 => break_by_hand(&world, &mut dice).await,
            70..=84 => send_old_letter(&world, &mut dice, &old).await,
            85..=89 => cut_off(&world, &mut dice).await,
            _ => world.heal(),
        }
    }
}

/// With a handover, or over the head of an owner that is not told.
async fn move_away(world: &World, dice: &mut Dice) {
    let Ok(Some(hint)) = world.read_record().await else { return };
    if hint.record.state == State::Closed {
        return;
    }
    let from = world.node_of(&hint.record);
    if let Some(from) = from.filter(|_| dice.percent(50)) {
        from.ask(&world.key, Call::Handover, world.plain_ask(hint.revision)).await;
    }
    if dice.percent(10) {
        // The coordinator is gone before its compare-and-set.
        return;
    }
    let node = world.any_node();
    if let Ok(given) = world.give_to(&hint, &node, EventType::SessionMoved).await
        && dice.percent(70)
    {
        world.activate(&node, given).await;
    }
}

/// Ends the session, by its agent or over its head, and opens it anew after a while.
async fn close_and_open(world: &Arc<World>, dice: &mut Dice) {
    let Ok(Some(hint)) = world.read_record().await else { return };
    match world.node_of(&hint.record).filter(|_| dice.percent(70)) {
        Some(node) => {
            let ask = Asked { payload: r#"{"discard":true}"#.into(), ..world.plain_ask(hint.revision) };
            node.ask(&world.key, Call::Verb(Verb::SessionClose), ask).await;
        }
        None => {
            let next = SessionRecord { state: State::Closed, owner: None, lock: None, ..hint.record };
            world.write_record(hint.revision, &next).await.ok();
        }
    }
    pause(dice, 500).await;
    let node = world.any_node();
    if dice.percent(80) && open_anew(world, &node).await.is_none() {
        pause(dice, 500).await;
    }
}

/// Opens the session anew if it is over.
pub(super) async fn open_anew(world: &World, node: &Node) -> Option<Answer> {
    let hint = world.read_record().await.ok()??;
    if hint.record.state != State::Closed {
        return None;
    }
    let hint = world.try_create(&world.key, node).await.ok()?;
    world.begin_at(node, hint).await
}

async fn kill(world: &World, dice: &mut Dice) {
    let node = world.any_node();
    node.process.send_replace(Process::Dead);
    if dice.percent(30) {
        // The machine of the storage went with it. What a relay is told twice is not what this is about.
        announce(world, u64::MAX).await;
        world.memory.forget_deletions(&world.key);
    }
    world.start_node(if dice.percent(50) { "w1" } else { "w2" });
}

async fn stall(world: &World, dice: &mut Dice) {
    let node = world.any_node();
    node.process.send_if_modified(|process| {
        let runs = *process == Process::Runs;
        if runs {
            *process = Process::Stalls;
        }
        runs
    });
    pause(dice, 4000).await;
    world.heal();
}

/// The storage is away for longer than agents try, or only its reads are.
async fn cut_off(world: &World, dice: &mut Dice) {
    let unavailable = if dice.percent(50) { 0 } else { 1000 };
    world.memory.set_faults(Faults { unavailable, unreadable: 1000, ..world.opening.faults });
    pause(dice, 12_000).await;
    world.memory.set_faults(world.opening.faults);
}

/// An operator takes the session out of memory, or its worker is drained with nobody else there.
async fn reclaim(world: &World) {
    let node = world.any_node();
    let why = match world.opening.closes_when_idle {
        true => Passivation::Leaving { reason: "drain".to_owned(), actor: None },
        false => Passivation::Reclaimed { max_idle_ms: 0, actor: None },
    };
    node.ask(&world.key, Call::Passivate(why), world.plain_ask(Default::default())).await;
}

/// What an operator does with `nats kv update`.
async fn edit_by_hand(world: &World, dice: &mut Dice) {
    let Some(record) = world.peek().await else { return };
    let lock = match dice.below(3) {
        0 => None,
        1 => Some(Lock {
            owner: "ops".to_owned(),
            revision: record.lock_revision,
            token_hash: String::new(),
            nonce: Default::default(),
            acquired_at: String::new(),
            ttl_ms: dice.percent(80).then_some(1000),
            request_id: None,
            fence: 0,
            reasked: false,
        }),
        _ => record.lock.clone(),
    };
    world.write_by_hand(&SessionRecord { lock, event: None, ..record });
}

/// An earlier lock back, whose token lost long ago.
async fn revert_by_hand(world: &World, dice: &mut Dice) {
    let earlier = world.memory.history(&world.key, Revision(0)).await.unwrap();
    let chosen = &earlier[usize::try_from(dice.below(earlier.len() as u64)).unwrap()];
    let record = chosen.value.as_ref().and_then(|json| SessionRecord::from_json(json, &world.key).ok());
    let now = world.peek().await;
    if let (Some(SessionRecord { lock, lock_revision, .. }), Some(now)) = (record, now) {
        world.write_by_hand(&SessionRecord { lock, lock_revision, ..now });
    }
}

/// Nonsense, and after a while what was there before.
async fn break_by_hand(world: &World, dice: &mut Dice) {
    let Some(record) = world.peek().await else { return };
    let nonsense = dice.percent(50).then(|| "{nonsense".into());
    world.memory.edit_by_hand(&world.key, nonsense);
    // Uninterrupted, because the end of the simulation comes at any time.
    let (memory, key) = (world.memory.clone(), world.key.clone());
    let after = Duration::from_millis(dice.below(500));
    let repair = world.tasks.spawn(async move {
        tokio::time::sleep(after).await;
        memory.edit_by_hand(&key, Some(record.to_json().into()));
    });
    repair.await.unwrap();
}

/// A hint or an activation that was long under way.
async fn send_old_letter(world: &Arc<World>, dice: &mut Dice, old: &[Hint]) {
    let first = world.first.lock().unwrap().clone();
    if let Some((node, activate)) = first.filter(|_| dice.percent(30))
        && !node.is(Process::Dead)
    {
        let ask = world.plain_ask(activate.hint.revision);
        node.ask(&world.key, Call::Activate(Box::new(activate)), ask).await;
        return;
    }
    if old.is_empty() {
        return;
    }
    let hint = old[usize::try_from(dice.below(old.len() as u64)).unwrap()].clone();
    let Some(node) = world.node_of(&hint.record) else { return };
    let ask = world.plain_ask(hint.revision);
    let call = if dice.percent(50) {
        Call::Hint(Box::new(hint))
    } else {
        let request_id = ask.request_id.clone();
        Call::Activate(Box::new(Activate { hint, created: false, content: None, request_id }))
    };
    node.ask(&world.key, call, ask).await;
}

/// Announces what is in the stream, with a lag, and tells the workers how far it is.
pub(super) async fn relay(world: Arc<World>, mut dice: Dice) {
    let lag_ms = [5, 300, 3000][usize::try_from(dice.below(3)).unwrap()];
    loop {
        pause(&mut dice, lag_ms).await;
        let most = 1 + dice.below(40);
        announce(&world, most).await;
    }
}

/// Announces up to `most` messages.
pub(crate) async fn announce(world: &World, most: u64) {
    let last = world.memory.last_sequence();
    let floor = {
        let notes = world.notes.lock().unwrap();
        notes.relayed.saturating_add(most).min(last)
    };
    let frames = world.memory.log_now(&world.key);
    let mut notes = world.notes.lock().unwrap();
    let relayed = notes.relayed;
    for StoredFrame { value, sequence } in frames {
        if sequence > relayed && sequence <= floor {
            let frame = Frame::from_json(&value, &world.key).unwrap();
            let carried = frame.snapshot.iter().flat_map(|snapshot| &snapshot.carried);
            notes.announced.extend(carried.map(|carried| (carried.sequence, carried.index)));
            let own = frame.ops.iter().filter(|op| op.event.is_some()).zip(0..);
            notes.announced.extend(own.map(|(_, index)| (sequence, index)));
        }
    }
    notes.relayed = floor;
    drop(notes);
    for node in world.nodes.lock().unwrap().iter() {
        if world.throw(|dice| dice.percent(70)) {
            node.floor.advance(floor);
        }
    }
}
