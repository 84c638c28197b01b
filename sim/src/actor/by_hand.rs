//! People who edit records with a KV client.

use std::time::Duration;

use bytes::Bytes;
use holdfast_protocol::record::{Lock, SessionRecord, State};
use holdfast_protocol::{Revision, SessionKey};
use holdfast_store::chance::Dice;
use holdfast_store::{Storage, Stored};
use tokio::time::sleep;

use crate::plan::place;
use crate::world::{World, key};

fn parse(stored: &Stored, key: &SessionKey) -> Option<SessionRecord> {
    SessionRecord::from_json(stored.value.as_ref()?, key).ok()
}

fn write(world: &World, key: &SessionKey, what: &str, value: Option<Bytes>) {
    world.history.note(world.now(), format!("somebody edits {} by hand: {what}", key.id));
    world.memory.edit_by_hand(key, value);
}

/// One edit of the record of `id`, if there is one that can be read.
pub(super) async fn edit(world: &World, dice: &mut Dice, id: &str) {
    let key = key(id);
    let history = world.memory.history(&key, Revision(0)).await.unwrap_or_default();
    let Some(now) = history.last().and_then(|stored| parse(stored, &key)) else { return };
    if now.state == State::Closed {
        return;
    }
    let json = |record: SessionRecord| Some(record.to_json().into());
    match dice.below(10) {
        0..=2 => write(world, &key, "the lock is removed", json(SessionRecord { lock: None, event: None, ..now })),
        3..=5 => {
            let lock = Some(given(&now, dice));
            write(world, &key, "the lock is given away", json(SessionRecord { lock, event: None, ..now }));
        }
        6 | 7 => {
            let earlier = &history[place(dice, history.len())];
            let of_life = |record: &SessionRecord| record.log_after == now.log_after && record.owner.is_some();
            let Some(earlier) = parse(earlier, &key).filter(of_life) else { return };
            let next = SessionRecord { owner: earlier.owner, state: State::Active, ..now };
            write(world, &key, "an earlier owner is back", json(next));
        }
        8 => {
            write(world, &key, "nonsense", Some("{nonsense".into()));
            sleep(Duration::from_millis(dice.below(3_000))).await;
            write(world, &key, "repaired", json(now));
        }
        _ => write(world, &key, "deleted", None),
    }
}

fn given(record: &SessionRecord, dice: &mut Dice) -> Lock {
    Lock {
        owner: "by hand".to_owned(),
        revision: record.lock_revision,
        token_hash: String::new(),
        nonce: Default::default(),
        acquired_at: String::new(),
        ttl_ms: dice.happens(800).then_some(1_000),
        request_id: None,
        fence: 0,
        reasked: false,
    }
}
