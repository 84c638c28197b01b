//! What must hold, whatever happened: the log is folded from the first accepted frame to the last, and every answer is held
//! against it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::{FRAMES_MAX, Frame};
use holdfast_protocol::record::{EventType, Owner};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Limits, RequestId, Revision, SessionRecord};
use holdfast_rules::validate::may_write;
use holdfast_store::Rollup;
use holdfast_store::memory::Accepted;

use super::client::is_definite;
use super::world::{Attempt, Noted, Notes, Outcome, Told, World};
use crate::document::DocumentKind;
use crate::machine::{Kind, Machine, Surroundings};

/// The log, folded.
struct Fold<'a> {
    world: &'a World,
    notes: &'a Notes,
    machine: Box<dyn Machine>,
    /// Revisions of the record: at which sequence, and what could be read there.
    records: BTreeMap<u64, Option<SessionRecord>>,
    ops: u64,
    /// Which life of the session it is, as `log_after` of its record.
    life: u64,
    /// Which life has the op of a request.
    lives: HashMap<RequestId, u64>,
    /// Reply of each op, by its request. A request takes effect once over all lives.
    replies: HashMap<RequestId, String>,
    /// What a reader could see in each life at each revision of the document.
    views: HashMap<(u64, u64), BTreeSet<String>>,
    /// Which revisions of the document were committed in which life.
    committed: BTreeSet<(u64, u64)>,
    events: Vec<(u64, u32)>,
    log: usize,
}

/// Everything that was accepted, for whoever looks for a bug with `HOLDFAST_SEED`.
pub(super) fn tell(world: &World) {
    for accepted in world.memory.accepted() {
        match accepted {
            Accepted::Record(stored) => {
                let json = stored.value.unwrap_or_default();
                eprintln!("{} record {}", stored.revision, String::from_utf8_lossy(&json));
            }
            Accepted::Frame { fence, sequence, value, rollup, .. } => {
                let Frame { activation, first_op, ops, .. } = Frame::from_json(&value, &world.key).unwrap();
                let ids: Vec<_> = ops.iter().map(|op| op.request_id.as_str()).collect();
                eprintln!("{sequence} frame at {fence} by {activation} {rollup:?} from op {first_op}: {ids:?}");
            }
        }
    }
}

pub(super) fn check(world: &World) {
    let notes = world.notes.lock().unwrap();
    let first = world.first.lock().unwrap().clone().unwrap().1.hint.record;
    let machine = blank(&first);
    let mut fold = Fold {
        world,
        notes: &notes,
        views: HashMap::new(),
        machine,
        records: BTreeMap::new(),
        ops: 0,
        life: first.log_after,
        lives: HashMap::new(),
        replies: HashMap::new(),
        committed: BTreeSet::new(),
        events: Vec::new(),
        log: 0,
    };
    fold.begin_life(&first);
    for accepted in world.memory.accepted() {
        match accepted {
            Accepted::Record(stored) => {
                let record = stored.value.and_then(|json| SessionRecord::from_json(&json, &world.key).ok());
                let event = record.as_ref().and_then(|record| record.event.as_ref());
                if let Some(event) = event.filter(|event| event.kind == EventType::SessionClosed) {
                    // Idleness names no request, and does not come.
                    assert!(event.request_id.is_some(), "only session.close and idleness close");
                }
                if let Some(record) = record.as_ref().filter(|record| record.log_after > fold.life) {
                    fold.begin_life(record);
                }
                fold.records.insert(stored.revision.0, record);
            }
            Accepted::Frame { fence, sequence, value, rollup, .. } => fold.frame(fence, sequence, &value, rollup),
        }
    }
    fold.every_answer_is_true();
    fold.every_event_is_announced_in_order();
}

fn blank(record: &SessionRecord) -> Box<dyn Machine> {
    DocumentKind.create(record, Surroundings { limits: Arc::new(Limits::default()), workspace: None })
}

impl Fold<'_> {
    /// Opened, or opened anew over one that was closed: empty.
    fn begin_life(&mut self, record: &SessionRecord) {
        (self.machine, self.ops, self.life) = (blank(record), 0, record.log_after);
        self.views.entry((self.life, 0)).or_default().insert(self.machine.view().get().to_owned());
        self.committed.insert((self.life, 0));
    }

    fn frame(&mut self, fence: Revision, sequence: u64, value: &Bytes, rollup: Rollup) {
        let frame = Frame::from_json(value, &self.world.key).unwrap();
        let (at, record) = self.records.last_key_value().unwrap();
        assert_eq!(*at, fence.0, "frame {sequence} was accepted under a fence that was not current");
        let record = record.clone().unwrap_or_else(|| panic!("frame {sequence} was accepted under a broken record"));
        let owner = record.owner.as_ref().map(|Owner { activation, .. }| *activation);
        assert_eq!(owner, Some(frame.activation), "frame {sequence} is not its owner's");
        self.length(&frame, sequence, rollup);
        if !frame.ops.is_empty() {
            assert_eq!(frame.first_op, self.ops + 1, "frame {sequence} repeats or skips ops");
            assert_eq!(frame.first_revision, self.machine.revision(), "of frame {sequence}");
        }
        let mut index = 0;
        for op in &frame.ops {
            if let Some(place) = self.notes.by_id.get(&op.request_id) {
                let token = self.notes.requests[*place].1.token.as_deref();
                let allowed = may_write(&record, fence, token);
                assert!(allowed.is_ok(), "frame {sequence} has {:?}, whose token lost: {allowed:?}", op.request_id);
            }
            self.machine.apply(&op.change).unwrap();
            self.ops += 1;
            let twice = self.replies.insert(op.request_id.clone(), op.reply.get().to_owned());
            self.lives.insert(op.request_id.clone(), self.life);
            assert!(twice.is_none(), "{:?} was committed twice, at last in frame {sequence}", op.request_id);
            let revision = self.machine.revision();
            self.views.entry((self.life, revision)).or_default().insert(self.machine.view().get().to_owned());
            self.committed.insert((self.life, revision));
            if op.event.is_some() {
                self.events.push((sequence, index));
                index += 1;
            }
        }
        if let Some(snapshot) = &frame.snapshot {
            assert_eq!(snapshot.ops, self.ops, "of the snapshot in frame {sequence}");
            assert_eq!(snapshot.state.get(), self.machine.snapshot().get(), "of the snapshot in frame {sequence}");
            assert_eq!(snapshot.answered.len(), self.replies.len(), "of the snapshot in frame {sequence}");
            for answer in &snapshot.answered {
                assert_eq!(self.replies.get(&answer.request_id).map(String::as_str), Some(answer.reply.get()));
            }
        }
    }

    fn length(&mut self, frame: &Frame, sequence: u64, rollup: Rollup) {
        assert_eq!(frame.snapshot.is_some(), rollup == Rollup::Replace, "frame {sequence} is both or neither");
        self.log = if rollup == Rollup::Replace { 1 } else { self.log + 1 };
        // The stream would drop the oldest of 65.
        assert!(self.log as u64 <= FRAMES_MAX + 1, "the log has {} messages at {sequence}", self.log);
    }

    fn every_answer_is_true(&self) {
        let mut seen: HashMap<(u64, u64), u64> = HashMap::new();
        for (id, noted) in &self.notes.requests {
            for attempt in &noted.attempts {
                match (&attempt.outcome, noted.verb) {
                    (Outcome::Done(reply), Verb::DocGet) => self.read_is_true(id, noted, attempt, reply, &mut seen),
                    (Outcome::Done(reply), Verb::DocEdit | Verb::DocUndo | Verb::DocRedo) => {
                        let committed = self.replies.get(id);
                        assert_eq!(committed, Some(reply), "{id:?} was acknowledged otherwise than committed");
                    }
                    (Outcome::Refused(error), _) => self.refusal_is_true(id, noted, attempt, error),
                    _ => {}
                }
            }
            let refused = |attempt: &Attempt| matches!(&attempt.outcome, Outcome::Refused(error) if is_definite(error));
            if noted.attempts.iter().all(refused) {
                let outcome = &noted.attempts.last().unwrap().outcome;
                assert!(!self.replies.contains_key(id), "{id:?} was refused and is in the log: {outcome:?}");
            }
        }
    }

    fn read_is_true(
        &self,
        id: &RequestId,
        noted: &Noted,
        attempt: &Attempt,
        reply: &str,
        seen: &mut HashMap<(u64, u64), u64>,
    ) {
        let revision = revision_of(reply);
        let Some(life) = attempt.life else {
            let mut views = self.views.iter().filter(|((_, at), _)| *at == revision);
            assert!(views.any(|(_, views)| views.contains(reply)), "{id:?} read what was never committed: {reply}");
            return;
        };
        let views = self.views.get(&(life, revision));
        assert!(views.is_some_and(|views| views.contains(reply)), "{id:?} read what was never committed: {reply}");
        let told = self.told(life, if noted.linearizable { attempt.told_before } else { attempt.told_long_before });
        assert!(revision >= told, "{id:?} read {revision}, behind {told}");
        let before = seen.insert((noted.client, life), revision).unwrap_or(0);
        assert!(revision >= before, "{id:?} read revision {revision} after {before}");
    }

    /// The highest revision of the document in `life` that anybody was told of by then.
    fn told(&self, life: u64, by_then: usize) -> u64 {
        let of_life = |told: &&Told| told.life.or_else(|| self.lives.get(&told.request_id).copied()) == Some(life);
        self.notes.told[..by_then].iter().filter(of_life).map(|told| told.revision).max().unwrap_or(0)
    }

    fn refusal_is_true(&self, id: &RequestId, noted: &Noted, attempt: &Attempt, error: &holdfast_protocol::Error) {
        let revision = error.details.get("revision").and_then(serde_json::Value::as_u64);
        match error.reason {
            Reason::LockHeld | Reason::StaleToken | Reason::NotLocked | Reason::LockRequired => {
                let at = revision.unwrap();
                let record = self.records[&at].as_ref().unwrap();
                let allowed = may_write(record, Revision(at), noted.token.as_deref());
                assert!(allowed.is_err(), "{id:?} was refused by a record that allows it: {error:?}");
                let after = self.records.range(at + 1..).next().map(|(next, _)| *next);
                let superseded = after.is_some_and(|next| next <= attempt.began_at);
                assert!(!superseded, "{id:?} was refused by an old record: {error:?}");
            }
            Reason::RevisionMismatch | Reason::NothingToUndo => {
                let (revision, Some(life)) = (revision.unwrap(), attempt.life) else { return };
                assert!(self.committed.contains(&(life, revision)), "{id:?} was refused by what is not committed");
                let told = self.told(life, attempt.told_before);
                assert!(revision >= told, "{id:?} was refused by an old state: {error:?}");
            }
            Reason::StorageUnavailable | Reason::AckTimeout | Reason::LeaseLost | Reason::SnapshotPending => {}
            // That nobody opened it again meanwhile is for coordinators to say.
            Reason::NoSession => {}
            // A splice outside of the text.
            Reason::BadValue => {}
            _ => panic!("{id:?} was refused for no reason: {error:?}"),
        }
    }

    fn every_event_is_announced_in_order(&self) {
        let mut last = None;
        let mut announced = BTreeSet::new();
        for event in &self.notes.announced {
            if announced.insert(*event) {
                assert!(last < Some(*event), "event {event:?} was announced after {last:?}");
                last = Some(*event);
            }
        }
        for event in &self.events {
            assert!(announced.contains(event), "event {event:?} was never announced");
        }
    }
}

fn revision_of(reply: &str) -> u64 {
    let reply: serde_json::Value = serde_json::from_str(reply).unwrap();
    reply["revision"].as_u64().unwrap()
}
