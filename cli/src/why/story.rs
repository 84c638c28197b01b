//! The story of one session: what its record, its log and its kept signals say, in one order and each event once.
//!
//! Invariant: an event is known by its place in the stream (sequence, and index within the message), which the record's
//! revisions, the log's frames and the signals' ids all have. So a source that lacks an event is filled by another, and
//! none is told twice. Commits stand in commit order. Refusals are no commits: each stands after the revision on which
//! it was decided, by its time.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_client::protocol::frame::Frame;
use holdfast_client::protocol::record::SessionRecord;
use holdfast_client::protocol::signal::{
    EDITED_BY_HAND, Happening, LOCK_CONFLICT, Signal, StreamPosition, of_broken_record, of_deletion, of_event,
    of_hand_edit, of_op,
};
use holdfast_client::protocol::{SessionKey, signal};
use holdfast_store::{KeptMessage, Stored};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::phrase::{name, phrase, refusal, text};
use crate::record::hidden::changes;
use crate::span::span;

/// How many changes of a hand edit are told.
const CHANGES: usize = 6;

/// What was found of a session.
pub(super) struct Found {
    /// The session.
    pub(super) key: SessionKey,
    /// The stream of records and logs.
    pub(super) stream: String,
    /// The record's revisions, oldest first.
    pub(super) revisions: Vec<Stored>,
    /// The messages of its log, oldest first.
    pub(super) log: Vec<KeptMessage>,
    /// Its kept signals.
    pub(super) signals: Vec<Signal>,
}

/// One line of the story.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// When it began.
    pub(super) time: Timestamp,
    /// The stream sequence: of the event, of the first of several, or of the revision that a refusal was decided on.
    pub(super) sequence: u64,
    /// The sequence of the last one, if the line is about several.
    pub(super) last: u64,
    /// `group.event`; `doc.changed` for several changes of the document.
    pub(super) event: String,
    /// The sentence.
    pub(super) text: String,
    /// The data of the event, or what was counted.
    pub(super) data: Map<String, Value>,
}

/// The place of a committed event.
type Place = (u64, u32);

/// The place in the story. Commits of the record divide it; what is between two of them is ordered by time.
type Order = (u64, u8, Timestamp, u64, u32);

/// Tells the story.
pub(super) fn tell(found: &Found) -> Vec<Line> {
    let committed = committed(found);
    let revisions = found.revisions.iter().map(|stored| stored.revision.0);
    let is_of_log = |signal: &Signal| name(signal).starts_with("doc.");
    let of_records = committed.iter().filter(|(_, signal)| !is_of_log(signal)).map(|(place, _)| place.0);
    let divisions: BTreeSet<u64> = revisions.chain(of_records).collect();
    let mut ordered: BTreeMap<Order, &Signal> = BTreeMap::new();
    for (place, signal) in &committed {
        let order = if is_of_log(signal) {
            let division = divisions.range(..=place.0).next_back().copied().unwrap_or(0);
            (division, 1, time_of(signal), place.0, place.1)
        } else {
            (place.0, 0, Timestamp::MIN, place.0, place.1)
        };
        ordered.insert(order, signal);
    }
    for (n, refused) in (0..).zip(found.signals.iter().filter(|signal| name(signal) == LOCK_CONFLICT)) {
        let sequence = refused.sequence.parse().unwrap_or(0);
        ordered.insert((sequence, 1, time_of(refused), sequence, n), refused);
    }
    let mut teller = Teller::new(found);
    for ((_, _, _, sequence, index), signal) in ordered {
        teller.add((sequence, index), signal);
    }
    teller.lines
}

fn time_of(signal: &Signal) -> Timestamp {
    signal.time.parse().unwrap_or(Timestamp::MIN)
}

/// All committed events that any source has.
fn committed(found: &Found) -> BTreeMap<Place, Signal> {
    let mut all: BTreeMap<Place, Signal> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for signal in &found.signals {
        if let Some(place) = place(&signal.id, &found.stream).filter(|_| seen.insert(signal.id.as_str())) {
            all.insert(place, signal.clone());
        }
    }
    let add = |all: &mut BTreeMap<Place, Signal>, sequence: u64, index: u32, time: Timestamp, happening: Happening| {
        let (stream, time) = (found.stream.as_str(), time.to_string());
        let position = StreamPosition { stream, sequence, index, time: &time };
        all.insert((sequence, index), Signal::committed(&found.key, position, happening));
    };
    let mut before: Option<SessionRecord> = None;
    for (n, stored) in found.revisions.iter().enumerate() {
        let is_first_by_hand = n == 0 && stored.write_id.is_none();
        let is_told = is_first_by_hand && all.contains_key(&(stored.revision.0, 0));
        // What the first kept revision changed follows from the one before it, which only its signals know.
        let happenings = of_revision(stored, before.as_ref()).into_iter();
        let happenings = happenings.take(if is_first_by_hand { 1 } else { usize::MAX }).filter(|_| !is_told);
        for (index, happening) in (0..).zip(happenings) {
            add(&mut all, stored.revision.0, index, stored.time, happening);
        }
        before = stored.value.as_ref().and_then(|json| SessionRecord::from_json(json, &found.key).ok());
    }
    for message in &found.log {
        // A frame that does not parse is a fault that requests report; it has no event to tell.
        let Ok(frame) = Frame::from_json(&message.payload, &found.key) else { continue };
        for carried in frame.snapshot.iter().flat_map(|snapshot| &snapshot.carried) {
            add(&mut all, carried.sequence, carried.index, message.time, of_op(&carried.event, &carried.request_id));
        }
        let happenings = frame.ops.iter().filter_map(|op| Some(of_op(op.event.as_ref()?, &op.request_id)));
        for (index, happening) in (0..).zip(happenings) {
            add(&mut all, message.sequence, index, message.time, happening);
        }
    }
    all
}

/// The events of a revision of the record, as the relay announces them.
fn of_revision(stored: &Stored, before: Option<&SessionRecord>) -> Vec<Happening> {
    let is_by_hand = stored.write_id.is_none();
    let Some(json) = &stored.value else {
        return if is_by_hand { of_deletion(stored.revision) } else { Vec::new() };
    };
    match SessionRecord::from_json(json, &stored.key) {
        Err(error) => {
            let problem = error.details.get("problem").and_then(Value::as_str);
            of_broken_record(problem.unwrap_or(&error.message), stored.revision)
        }
        Ok(record) if is_by_hand => of_hand_edit(&record, stored.revision, before),
        Ok(record) => of_event(&record, stored.revision),
    }
}

/// The place that the id of a committed event names: `<stream>:<sequence>` or `<stream>:<sequence>:<n>`.
pub(crate) fn place(id: &str, stream: &str) -> Option<Place> {
    let rest = id.strip_prefix(stream)?.strip_prefix(':')?;
    match rest.split_once(':') {
        Some((sequence, index)) => Some((sequence.parse().ok()?, index.parse().ok()?)),
        None => Some((rest.parse().ok()?, 0)),
    }
}

/// Makes lines of events that come in order.
struct Teller<'a> {
    found: &'a Found,
    lines: Vec<Line>,
    /// Who holds the lock at this point of the story.
    holder: Option<String>,
    /// The changes or refusals that the last line is about.
    run: Option<Run>,
}

/// Several events in one line.
enum Run {
    /// Changes of the document: how many of each kind, by whom, up to which revision.
    Changes { kinds: BTreeMap<String, u64>, actors: BTreeSet<String>, first: u64, last: u64 },
    /// Refusals of the same kind.
    Refusals(usize),
}

impl<'a> Teller<'a> {
    fn new(found: &'a Found) -> Self {
        Self { found, lines: Vec::new(), holder: None, run: None }
    }

    fn add(&mut self, place: Place, signal: &Signal) {
        match name(signal) {
            LOCK_CONFLICT => self.refused(place, signal),
            "doc.edited" | "doc.undone" | "doc.redone" => self.changed(place, signal),
            event if event.starts_with("doc.") => {
                let text = of_document(event, signal);
                self.push(place, signal, text);
            }
            event => self.of_record(place, event, signal),
        }
    }

    fn push(&mut self, (sequence, _): Place, signal: &Signal, text: String) {
        self.run = None;
        let (event, data) = (name(signal).to_owned(), signal.data.clone());
        self.lines.push(Line { time: time_of(signal), sequence, last: sequence, event, text, data });
    }

    fn of_record(&mut self, place: Place, event: &str, signal: &Signal) {
        let record = self.record_at(place.0);
        if event.starts_with("lock.") {
            self.holder = match &record {
                Some(record) => record.lock.as_ref().map(|lock| lock.owner.clone()),
                None => text(&signal.data, "owner").map(str::to_owned),
            };
        }
        if event == "session.closed" {
            self.holder = None;
        }
        let same = self.lines.last_mut().filter(|line| place.1 > 0 && line.sequence == place.0);
        if let Some(line) = same {
            match (line.event.as_str(), event) {
                // It says on which worker it was opened.
                ("session.opened", "session.activated") => return,
                ("lock.changed", _) => {
                    let mut told = signal.clone();
                    told.data.remove("reason");
                    line.text.push_str(&format!("; {}", phrase(&told)));
                    return;
                }
                _ => {}
            }
        }
        let mut text = phrase(signal);
        match event {
            "lock.acquired" | "lock.rotated" | "lock.taken_over" => {
                let lease = record.and_then(|record| record.lock).map(|lock| lock.ttl_ms);
                let lease = match lease {
                    Some(Some(ttl_ms)) => format!(", lease {}", span(std::time::Duration::from_millis(ttl_ms))),
                    Some(None) => ", until it is released".to_owned(),
                    None => String::new(),
                };
                let number = signal.data.get("lock_revision").and_then(Value::as_u64).unwrap_or(0);
                text.push_str(&format!(" [lock revision {number}{lease}]"));
            }
            "lock.changed" => text.push_str(&self.edit_at(place.0)),
            _ => {}
        }
        self.push(place, signal, text);
    }

    fn record_at(&self, sequence: u64) -> Option<SessionRecord> {
        let stored = self.found.revisions.iter().find(|stored| stored.revision.0 == sequence)?;
        SessionRecord::from_json(stored.value.as_ref()?, &self.found.key).ok()
    }

    /// What the hand edit at a revision changed.
    fn edit_at(&self, sequence: u64) -> String {
        let before = self.found.revisions.iter().rev().find(|stored| stored.revision.0 < sequence);
        let before = before.and_then(|stored| self.record_at(stored.revision.0));
        let Some((before, after)) = before.zip(self.record_at(sequence)) else { return String::new() };
        let changes = changes(&before, &after);
        let more = changes.len().saturating_sub(CHANGES);
        let mut text = changes.into_iter().take(CHANGES).collect::<Vec<_>>().join(", ");
        if more > 0 {
            text.push_str(&format!(" and {more} more"));
        }
        format!(" [{text}]")
    }

    fn refused(&mut self, (sequence, _): Place, signal: &Signal) {
        if let (Some(Run::Refusals(times)), Some(line)) = (&mut self.run, self.lines.last_mut()) {
            let same = |member: &str| line.data.get(member) == signal.data.get(member);
            if ["requested_owner", "reason", "owner", "actor"].into_iter().all(same) {
                *times += 1;
                line.last = sequence;
                line.text = refusal(signal, *times);
                line.data.insert("times".to_owned(), json!(*times));
                return;
            }
        }
        self.push((sequence, 0), signal, refusal(signal, 1));
        self.run = Some(Run::Refusals(1));
    }

    fn changed(&mut self, place: Place, signal: &Signal) {
        let number = |member: &str| signal.data.get(member).and_then(Value::as_u64).unwrap_or(0);
        if !matches!(self.run, Some(Run::Changes { .. })) {
            self.push(place, signal, String::new());
            let first = number("revision");
            self.run = Some(Run::Changes { kinds: BTreeMap::new(), actors: BTreeSet::new(), first, last: first });
        }
        let (Some(Run::Changes { kinds, actors, first, last }), Some(line)) = (&mut self.run, self.lines.last_mut())
        else {
            return;
        };
        let kind = name(signal).trim_start_matches("doc.").to_owned();
        *kinds.entry(kind).or_default() += 1;
        actors.extend(text(&signal.data, "actor").map(str::to_owned));
        *last = number("revision");
        line.last = place.0;
        line.event = "doc.changed".to_owned();
        let count: u64 = kinds.values().sum();
        let counted: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let who =
            self.holder.clone().map_or("without a lock".to_owned(), |holder| format!("with the lock of {holder}"));
        let by: Vec<String> = actors.iter().cloned().collect();
        let by = if by.is_empty() { String::new() } else { format!(", asked by {}", by.join(", ")) };
        let noun = if count == 1 { "change" } else { "changes" };
        let revisions =
            if first == last { format!("revision {first}") } else { format!("revisions {first} to {last}") };
        line.text = format!("{count} {noun} of the document {who}{by}: {} [document {revisions}]", counted.join(", "));
        line.data = Map::from_iter([
            ("holder".to_owned(), json!(self.holder)),
            ("actors".to_owned(), json!(by_list(actors))),
            ("counts".to_owned(), json!(kinds)),
            ("first_revision".to_owned(), json!(first)),
            ("last_revision".to_owned(), json!(last)),
        ]);
    }
}

fn by_list(actors: &BTreeSet<String>) -> Vec<&String> {
    actors.iter().collect()
}

/// The sentence for an event of the document that is told by itself.
fn of_document(event: &str, signal: &Signal) -> String {
    let data = &signal.data;
    let path = text(data, "path").map(|path| format!(" {path}")).unwrap_or_default();
    let by = text(data, "actor").map(|actor| format!(" (asked by {actor})")).unwrap_or_default();
    let revision = data.get("revision").and_then(Value::as_u64).unwrap_or(0);
    let why = data.get("error").and_then(|error| error.get("message")).and_then(Value::as_str);
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let said = match event {
        "doc.saved" => format!("saved to{path}{by}"),
        "doc.loaded" => format!("read from{path}{by}"),
        "doc.diverged" => format!("the file{path} was changed by another program{why}"),
        "doc.converged" => format!("the file{path} is again what the session knows"),
        other => format!("{other}{path}{by}{why}"),
    };
    format!("{said} [document revision {revision}]")
}

/// The document's revision up to which a snapshot replaced the messages before it, if `message` has one.
pub(super) fn snapshot_at(message: &KeptMessage, key: &SessionKey) -> Option<u64> {
    let frame = Frame::from_json(&message.payload, key).ok()?;
    frame.snapshot.is_some().then_some(frame.first_revision)
}

/// What is known of hand edits: whether a reason is that of one.
pub(crate) fn is_by_hand(reason: Option<&str>) -> bool {
    reason.is_some_and(|reason| reason.starts_with(EDITED_BY_HAND) || reason == signal::RECORD_DELETED)
}
