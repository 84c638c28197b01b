//! What the consumer promises, by a clock that stands still until all wait.

use bytes::Bytes;
use holdfast_protocol::{Namespace, Revision, SessionId, SessionKey};

use super::*;
use crate::memory::Faults;
use crate::{Rollup, Storage};

const CONFIG: FeedConfig = FeedConfig {
    name: "relay",
    group: "relay",
    description: "",
    ack_wait: Duration::from_secs(10),
    unacknowledged_max: 100,
    pin_timeout: Duration::from_secs(3),
    pull_expires: Duration::from_millis(750),
    batch: 4,
};

fn key() -> SessionKey {
    SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse("s1").unwrap())
}

/// A storage with a record of one revision and `frames` frames behind it.
async fn storage(frames: u64) -> Memory {
    let memory = Memory::new(Faults::default());
    memory.edit_by_hand(&key(), Some(Bytes::from_static(b"{}")));
    for frame in 0..frames {
        append(&memory, &format!("f{frame}"), Rollup::Keep).await;
    }
    memory
}

async fn append(memory: &Memory, id: &str, rollup: Rollup) {
    memory.append(&key(), Revision(1), Bytes::from_static(b"{}"), rollup, id.to_owned()).await.unwrap();
}

/// The next deliveries, which are there within a minute.
async fn next(reader: &mut Box<dyn Deliveries>) -> Batch {
    tokio::time::timeout(Duration::from_secs(60), reader.next()).await.expect("nothing is delivered").unwrap()
}

fn places(batch: &Batch) -> Vec<(u64, u64)> {
    batch.deliveries.iter().map(|delivery| (delivery.number, delivery.posted.sequence)).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_comes_again_under_new_numbers() {
    let memory = storage(2).await;
    let mut reader = memory.open(&CONFIG).await.unwrap();
    let first = next(&mut reader).await;
    assert_eq!(places(&first), [(1, 1), (2, 2), (3, 3)]);
    assert!(!first.deliveries[0].posted.has_write_id && first.deliveries[1].posted.has_write_id);
    memory.acknowledge(&first.deliveries[1].ack).await.unwrap();
    assert_eq!(memory.state(&CONFIG).await.unwrap().acknowledged, 2);
    let begun = Instant::now();
    assert_eq!(places(&next(&mut reader).await), [(4, 3)]);
    assert_eq!(begun.elapsed(), CONFIG.ack_wait);
}

#[tokio::test(start_paused = true)]
async fn what_left_the_stream_is_not_delivered() {
    let memory = storage(2).await;
    append(&memory, "snapshot", Rollup::Replace).await;
    let mut reader = memory.open(&CONFIG).await.unwrap();
    assert_eq!(places(&next(&mut reader).await), [(1, 1), (2, 4)]);
    let log = Root::default().log(&key());
    assert_eq!(memory.first(Some(&log), 1).await.unwrap().unwrap().sequence, 4);
    assert_eq!(memory.first(None, 2).await.unwrap().unwrap().sequence, 4);
    assert!(memory.first(None, 5).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn one_reader_is_pinned_until_it_is_silent_or_unpinned() {
    let memory = storage(6).await;
    let mut one = memory.open(&CONFIG).await.unwrap();
    let mut two = memory.open(&CONFIG).await.unwrap();
    let pin = next(&mut one).await.pin;
    assert!(pin.is_some() && memory.state(&CONFIG).await.unwrap().pinned == pin);
    let begun = Instant::now();
    let taken = next(&mut two).await;
    assert_eq!(begun.elapsed(), CONFIG.pin_timeout, "the first one asked for nothing that long");
    assert_eq!(places(&taken), [(5, 5), (6, 6), (7, 7)]);
    assert!(taken.pin != pin && memory.state(&CONFIG).await.unwrap().pinned == taken.pin);
    memory.unpin(&CONFIG).await.unwrap();
    append(&memory, "more", Rollup::Keep).await;
    let begun = Instant::now();
    assert_eq!(places(&next(&mut one).await), [(8, 8)]);
    assert!(begun.elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_keeps_its_pin_and_hears_at_once() {
    let memory = storage(0).await;
    let mut one = memory.open(&CONFIG).await.unwrap();
    memory.acknowledge(&next(&mut one).await.deliveries[0].ack).await.unwrap();
    let mut two = memory.open(&CONFIG).await.unwrap();
    let writes = async {
        tokio::time::sleep(CONFIG.pin_timeout * 3).await;
        append(&memory, "late", Rollup::Keep).await;
        Instant::now()
    };
    let heard = async { (next(&mut one).await, Instant::now()) };
    let other = tokio::time::timeout(CONFIG.pin_timeout * 3, two.next());
    let ((batch, heard), written, other) = tokio::join!(heard, writes, other);
    assert_eq!(places(&batch), [(2, 2)]);
    assert_eq!(written, heard);
    assert!(other.is_err());
}
