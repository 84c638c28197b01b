//! Pages of records in the order of the stream: the records in a stretch of the stream that are last revisions.
//!
//! A stretch is read by many small concurrent requests, each for the first record at or after a sequence. One batched
//! direct get could answer all of them, but for it nats-server counts all matching messages after its start, so it
//! costs as much as the namespace is large (20 ms with 1,000,000 records, measured on 2.15.1).
//!
//! Invariant: everything up to `looked_until` was read, whichever replica answered. A replica that returns a message
//! has all messages before it. Only the leader is believed when it says that there are no more. A record that is
//! written between the two reads moves to after the stretch; it is in a later stretch, or in this one if the walk ends
//! here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};
use holdfast_protocol::{Namespace, SessionKey};
use tokio::time::Instant;

use crate::jetstream::Jetstream;
use crate::read::{self, BATCH, Query, Raw};
use crate::{Page, PageRecord, StoreError, Stored, Walk};

/// How many requests are sent concurrently at most.
const LANES: usize = 64;
/// How many sequences one lane covers, one request after another.
const STRIDE: u64 = 4;
/// A stretch ends early when its messages have this size in total: a KV client may store megabytes under a key.
const BYTES: usize = 4 * 1024 * 1024;
/// The share of one lane, so that a window is not much larger than [`BYTES`].
const LANE_BYTES: usize = BYTES / LANES;
/// A stretch ends early after this time. Requests may be slow when the stream is large and records in it are rare.
const LOOK: Duration = Duration::from_millis(500);
/// For how many namespaces the first record's sequence is remembered.
const BEGINNINGS: usize = 1024;

/// The earliest sequence of a namespace's records. It can only rise, because records are written at the stream's end. A
/// request that starts at the stream's first message makes the server walk all subjects; one that starts later does
/// not.
pub(crate) type Beginnings = HashMap<Option<Namespace>, u64>;

/// Reads one stretch of `walk`.
pub(crate) async fn read(store: &Jetstream, walk: &Walk<'_>) -> Result<Page, StoreError> {
    let mut stretch = Stretch::new(store, walk);
    stretch.read().await?;
    let Stretch { found, looked_until, .. } = stretch;
    let mut newest: BTreeMap<SessionKey, Stored> = BTreeMap::new();
    for stored in found.into_values().filter_map(|raw| store.stored(raw)) {
        newest.insert(stored.key.clone(), stored);
    }
    let last = last_revisions(store, newest.keys()).await?;
    let Sorted { mut records, moved } = Sorted::of(newest.into_values(), last, walk.until);
    let looks = stream::iter(moved).map(|moved| async move {
        let subject = store.root.record(&moved.stored.key);
        let next = read::next(&store.client, &store.stream, &subject, moved.at + 1).await?;
        Ok(next.is_none_or(|next| next.sequence > walk.until).then_some(moved))
    });
    let kept: Vec<Option<PageRecord>> = looks.buffered(LANES).try_collect().await?;
    records.extend(kept.into_iter().flatten());
    records.sort_unstable_by_key(|found| found.at);
    Ok(Page { records, looked_until })
}

async fn last_revisions(
    store: &Jetstream,
    keys: impl Iterator<Item = &SessionKey>,
) -> Result<HashMap<SessionKey, Stored>, StoreError> {
    let subjects: Vec<String> = keys.map(|key| store.root.record(key)).collect();
    let mut last = HashMap::with_capacity(subjects.len());
    for chunk in subjects.chunks(BATCH) {
        let query = Query::LastOf { multi_last: chunk, batch: BATCH };
        let messages = read::batch(&store.client, &store.stream, &query).await?;
        last.extend(
            messages.into_iter().filter_map(|raw| store.stored(raw)).map(|stored| (stored.key.clone(), stored)),
        );
    }
    Ok(last)
}

/// The last revisions in a stretch. A superseded revision is left to the stretch that has its successor. If the
/// successor is after the walk's end, it stands for its session here, unless another revision follows within the walk.
pub(crate) struct Sorted {
    /// Those that stand for their session.
    pub(crate) records: Vec<PageRecord>,
    /// Successors from after the walk's end. The caller must check whether other revisions are in between.
    pub(crate) moved: Vec<PageRecord>,
}

impl Sorted {
    pub(crate) fn of(newest: impl Iterator<Item = Stored>, mut last: HashMap<SessionKey, Stored>, until: u64) -> Self {
        let (mut records, mut moved) = (Vec::new(), Vec::new());
        for seen in newest {
            let at = seen.revision.0;
            match last.remove(&seen.key) {
                Some(later) if later.revision.0 > until => moved.push(PageRecord { at, stored: later }),
                Some(later) if later.revision > seen.revision => {}
                // A replica that is behind may have an older revision or none.
                Some(_) | None => records.push(PageRecord { at, stored: seen }),
            }
        }
        Self { records, moved }
    }
}

/// A stretch of the stream that is being read.
struct Stretch<'a> {
    store: &'a Jetstream,
    walk: &'a Walk<'a>,
    subject: Arc<str>,
    found: BTreeMap<u64, Raw>,
    bytes: usize,
    looked_until: u64,
    lanes: usize,
}

/// What one lane read.
struct Lane {
    /// The records in its range, and maybe the first one after it.
    found: Vec<Raw>,
    end: LaneEnd,
}

/// Where a lane ended.
enum LaneEnd {
    /// After its whole range.
    Whole,
    /// Before that, because its records are large. It read up to the last one found.
    Early,
    /// The replica has no record from this sequence on.
    Last(u64),
}

impl<'a> Stretch<'a> {
    fn new(store: &'a Jetstream, walk: &'a Walk<'a>) -> Self {
        let subject = store.root.records(walk.namespace).into();
        Self { store, walk, subject, found: BTreeMap::new(), bytes: 0, looked_until: walk.after, lanes: 1 }
    }

    async fn read(&mut self) -> Result<(), StoreError> {
        if self.walk.after == 0 {
            self.begin().await?;
        }
        let begun = Instant::now();
        while self.looked_until < self.walk.until && self.found.len() < self.walk.most && self.bytes < BYTES {
            self.window().await?;
            if begun.elapsed() >= LOOK {
                break;
            }
        }
        Ok(())
    }

    /// Reads the first record of the namespace.
    async fn begin(&mut self) -> Result<(), StoreError> {
        let namespace = self.walk.namespace.cloned();
        let known = self.store.beginnings().get(&namespace).copied();
        let first = match known {
            // It has another subject if the stream was created anew since.
            Some(sequence) => match read::at(&self.store.sessions, sequence).await? {
                Some(raw) if self.is_walked(&raw) => Some(raw),
                Some(_) => read::next_of_leader(&self.store.sessions, &self.subject, 1).await?,
                None => read::next_of_leader(&self.store.sessions, &self.subject, sequence + 1).await?,
            },
            None => read::next_of_leader(&self.store.sessions, &self.subject, 1).await?,
        };
        let Some(first) = first else {
            self.looked_until = self.walk.until;
            return Ok(());
        };
        let mut beginnings = self.store.beginnings();
        if beginnings.len() < BEGINNINGS || beginnings.contains_key(&namespace) {
            beginnings.insert(namespace, first.sequence);
        }
        drop(beginnings);
        self.take(first);
        Ok(())
    }

    fn is_walked(&self, raw: &Raw) -> bool {
        let key = self.store.root.parse_record(&raw.subject);
        key.is_some_and(|key| self.walk.namespace.is_none_or(|namespace| key.namespace == *namespace))
    }

    /// Reads the next sequences: few while records are rare, more when they are dense.
    async fn window(&mut self) -> Result<(), StoreError> {
        let begin = self.looked_until;
        let wanted = (self.walk.most - self.found.len()) as u64 / STRIDE;
        let lanes = (self.lanes as u64).min(wanted.max(1)).min((self.walk.until - begin).div_ceil(STRIDE));
        // The caller may have given any end.
        let end = begin.saturating_add(lanes * STRIDE);
        let (store, subject) = (self.store, self.subject.clone());
        let starts: Vec<u64> = (0..lanes).map(|lane| begin.saturating_add(lane * STRIDE + 1)).collect();
        let looks =
            starts.into_iter().map(|start| lane(store, subject.clone(), start, start.saturating_add(STRIDE - 1)));
        let mut looks = stream::iter(looks).buffered(LANES);
        while let Some(seen) = looks.next().await {
            let Lane { found, end } = seen?;
            found.into_iter().for_each(|raw| self.take(raw));
            match end {
                LaneEnd::Whole if self.bytes < BYTES => continue,
                LaneEnd::Whole | LaneEnd::Early => {}
                LaneEnd::Last(from) => match read::next_of_leader(&self.store.sessions, &self.subject, from).await? {
                    Some(raw) => self.take(raw),
                    None => self.looked_until = self.walk.until,
                },
            }
            // Later lanes continue after this point.
            self.lanes = 1;
            return Ok(());
        }
        self.looked_until = self.looked_until.max(end.min(self.walk.until));
        let dense = self.found.range(begin + 1..=end).count() * 8 >= lanes as usize;
        let is_empty = self.found.range(begin + 1..=end).next().is_none();
        self.lanes = if dense && !is_empty { (self.lanes * 4).min(LANES) } else { (self.lanes / 4).max(1) };
        Ok(())
    }

    /// Takes `raw`, the first record after what was read so far.
    fn take(&mut self, raw: Raw) {
        self.looked_until = self.looked_until.max(raw.sequence.min(self.walk.until));
        if raw.sequence <= self.walk.until && raw.sequence > self.walk.after {
            self.bytes += raw.payload.len();
            self.found.insert(raw.sequence, raw);
        }
    }
}

/// Reads all records from `start` to `end`, and the first one after them.
async fn lane(store: &Jetstream, subject: Arc<str>, start: u64, end: u64) -> Result<Lane, StoreError> {
    let mut found = Vec::new();
    let (mut from, mut bytes) = (start, 0);
    while from <= end {
        if bytes >= LANE_BYTES {
            return Ok(Lane { found, end: LaneEnd::Early });
        }
        match read::next(&store.client, &store.stream, &subject, from).await? {
            Some(raw) => {
                from = raw.sequence + 1;
                bytes += raw.payload.len();
                found.push(raw);
            }
            None => return Ok(Lane { found, end: LaneEnd::Last(from) }),
        }
    }
    Ok(Lane { found, end: LaneEnd::Whole })
}
