//! Translates a message of the stream into its signals.
//!
//! Invariant: the same message always gives the same signals with the same ids. One exception saves work: events that a
//! snapshot carries are left out if this relay remembers announcing them. A relay that restarted announces them again.

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_protocol::frame::Frame;
use holdfast_protocol::signal::{
    Happening, Signal, StreamPosition, of_broken_record, of_deletion, of_event, of_hand_edit, of_op,
};
use holdfast_protocol::trace::TraceParent;
use holdfast_protocol::{Revision, SessionKey, SessionRecord};
use holdfast_store::{Store, StoreError};

use crate::relay::input::{Input, Origin, What};

/// How many ranges are remembered separately. More are merged, which at worst repeats signals.
const HOLES: usize = 64;

/// A signal to publish.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Announcement {
    /// Where it was committed: stream sequence, and index among the events of that message.
    pub(super) place: (u64, u32),
    /// `group.event`.
    pub(super) name: String,
    /// The trace of the request that caused it.
    pub(super) trace: Option<TraceParent>,
    /// Whether it is a release whose write also granted the lock to the next waiter.
    pub(super) is_handed_over: bool,
    /// The signal.
    pub(super) signal: Signal,
}

/// The bounded memory of a relay about sessions.
pub(super) struct Translator {
    stream: String,
    /// The last seen record of each session, for comparison with a hand edit.
    records: moka::sync::Cache<SessionKey, Arc<SessionRecord>>,
    /// The last announced message of each log.
    frames: moka::sync::Cache<SessionKey, u64>,
    /// Ranges (both ends exclusive) in which messages may have been removed before this relay read them.
    holes: VecDeque<(u64, u64)>,
}

impl Translator {
    pub(super) fn new(stream: &str) -> Self {
        Self {
            stream: stream.to_owned(),
            records: moka::sync::Cache::new(4_096),
            frames: moka::sync::Cache::new(65_536),
            holes: VecDeque::new(),
        }
    }

    /// Notes that the messages between `after` and `until` were read late. Some may have been replaced by snapshots
    /// that come later; those announce them, even if later events of the session were announced before.
    /// Another relay may have announced records meanwhile, so the records that are cached here may be old.
    pub(super) fn read_late(&mut self, after: u64, until: u64) {
        self.records.invalidate_all();
        self.holes.push_back((after, until));
        if self.holes.len() > HOLES {
            let (Some(first), Some(second)) = (self.holes.pop_front(), self.holes.pop_front()) else { return };
            self.holes.push_front((first.0, second.1));
        }
    }

    fn may_be_unannounced(&self, sequence: u64, announced: u64) -> bool {
        sequence > announced || self.holes.iter().any(|(after, until)| sequence > *after && sequence < *until)
    }

    /// The signals of `input`, in order.
    ///
    /// # Errors
    /// A failure of the store, for a hand edit whose previous record must be read.
    pub(super) async fn translate(&self, store: &Store, input: &Input) -> Result<Vec<Announcement>, StoreError> {
        match &input.what {
            What::Record(key, writer) => self.record(store, input, key, *writer).await,
            What::Frame(key) => Ok(self.frame(input, key)),
            What::Other => Ok(Vec::new()),
        }
    }

    async fn record(
        &self,
        store: &Store,
        input: &Input,
        key: &SessionKey,
        origin: Origin,
    ) -> Result<Vec<Announcement>, StoreError> {
        let revision = Revision(input.sequence);
        if input.value.is_empty() {
            self.records.invalidate(key);
            return Ok(match origin {
                // The session had ended long before, and that was announced.
                Origin::Holdfast => Vec::new(),
                Origin::Hand => self.place(input, key, of_deletion(revision)),
            });
        }
        let mut is_handed_over = false;
        let happenings = match SessionRecord::from_json(&input.value, key) {
            Err(error) => {
                self.records.invalidate(key);
                let problem = error.details.get("problem").and_then(|problem| problem.as_str());
                of_broken_record(problem.unwrap_or(&error.message), revision)
            }
            Ok(record) => {
                let happenings = match origin {
                    Origin::Holdfast => {
                        is_handed_over = record.event.as_ref().is_some_and(|event| event.hand_over.is_some());
                        of_event(&record, revision)
                    }
                    Origin::Hand => {
                        of_hand_edit(&record, revision, self.before(store, key, revision).await?.as_deref())
                    }
                };
                self.records.insert(key.clone(), Arc::new(record));
                happenings
            }
        };
        let mut announcements = self.place(input, key, happenings);
        // The release comes first, then the grant.
        if let Some(release) = announcements.first_mut() {
            release.is_handed_over = is_handed_over;
        }
        Ok(announcements)
    }

    /// The record before this revision.
    async fn before(
        &self,
        store: &Store,
        key: &SessionKey,
        revision: Revision,
    ) -> Result<Option<Arc<SessionRecord>>, StoreError> {
        if let Some(record) = self.records.get(key) {
            return Ok(Some(record));
        }
        let history = store.history(key, revision).await?;
        let before = history.into_iter().rev().find(|stored| stored.revision < revision);
        let value = before.and_then(|stored| stored.value);
        Ok(value.and_then(|json| SessionRecord::from_json(&json, key).ok()).map(Arc::new))
    }

    fn frame(&self, input: &Input, key: &SessionKey) -> Vec<Announcement> {
        if input.value.is_empty() {
            return Vec::new();
        }
        let frame = match Frame::from_json(&input.value, key) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(%key, sequence = input.sequence, %error, "a frame cannot be announced");
                return Vec::new();
            }
        };
        let mut announcements = self.carried(input, key, &frame, u64::MAX);
        let own = frame.ops.iter().zip(0..).filter_map(|(op, number)| {
            let happening = of_op(op.event.as_ref()?, &op.request_id);
            Some((happening, input.traces.of(number)))
        });
        announcements.extend((0..).zip(own).map(|(index, (happening, trace))| Announcement {
            trace,
            ..self.announcement(key, input.sequence, index, &input.time, happening)
        }));
        announcements
    }

    /// The events that a snapshot carries, were committed up to `until`, and may not have been announced.
    fn carried(&self, input: &Input, key: &SessionKey, frame: &Frame, until: u64) -> Vec<Announcement> {
        let announced = self.frames.get(key).unwrap_or(0);
        let carried = frame.snapshot.iter().flat_map(|snapshot| &snapshot.carried);
        carried
            .filter(|carried| carried.sequence <= until && self.may_be_unannounced(carried.sequence, announced))
            .map(|carried| {
                let happening = of_op(&carried.event, &carried.request_id);
                self.announcement(key, carried.sequence, carried.index, &input.time, happening)
            })
            .collect()
    }

    /// The events up to `until` that were removed unread and that the snapshot `input`, later in the stream, carries.
    /// Announcing them now keeps the commit order.
    pub(super) fn ahead(&self, input: &Input, key: &SessionKey, until: u64) -> Vec<Announcement> {
        match Frame::from_json(&input.value, key) {
            Ok(frame) if input.sequence > until => self.carried(input, key, &frame, until),
            // Other frames are announced in their turn; one that does not parse is reported then.
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// Notes that all changes of the session of `key` up to `until` were announced.
    pub(super) fn was_announced_until(&self, key: &SessionKey, until: u64) {
        self.frames.insert(key.clone(), until);
    }

    /// The record in `input`, if it is one and parses.
    pub(super) fn last_record(&self, input: &Input) -> Option<Arc<SessionRecord>> {
        match &input.what {
            What::Record(key, _) => self.records.get(key),
            What::Frame(_) | What::Other => None,
        }
    }

    /// Notes that `input` was announced, with the events that it carries.
    pub(super) fn was_announced(&self, input: &Input) {
        if let What::Frame(key) = &input.what {
            self.frames.insert(key.clone(), input.sequence);
        }
    }

    fn place(&self, input: &Input, key: &SessionKey, happenings: Vec<Happening>) -> Vec<Announcement> {
        let numbered = (0..).zip(happenings);
        numbered
            .map(|(index, happening)| Announcement {
                trace: input.traces.of(0),
                ..self.announcement(key, input.sequence, index, &input.time, happening)
            })
            .collect()
    }

    fn announcement(
        &self,
        key: &SessionKey,
        sequence: u64,
        index: u32,
        time: &str,
        happening: Happening,
    ) -> Announcement {
        let name = happening.name.clone();
        let place = StreamPosition { stream: &self.stream, sequence, index, time };
        let signal = Signal::committed(key, place, happening);
        Announcement { place: (sequence, index), name, trace: None, is_handed_over: false, signal }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::frame::{CarriedEvent, FRAME_VERSION, Op, OpEvent, Snapshot};
    use holdfast_protocol::record::{Event, EventType, State};
    use holdfast_protocol::{Activation, RequestId};
    use holdfast_store::memory::Memory;
    use holdfast_store::trace::Traces;
    use serde_json::value::RawValue;
    use uuid::Uuid;

    use super::*;
    use crate::fixture;

    fn raw() -> Box<RawValue> {
        RawValue::from_string("{}".to_owned()).unwrap()
    }

    fn event(revision: u64) -> OpEvent {
        OpEvent {
            kind: "edited".to_owned(),
            revision,
            previous_revision: revision - 1,
            changed: vec!["body".to_owned()],
            actor: None,
            actor_proven: None,
            path: None,
            error: None,
        }
    }

    fn op(revision: Option<u64>) -> Op {
        let request_id = RequestId::parse("r").unwrap();
        Op { request_id, event: revision.map(event), change: raw(), reply: raw() }
    }

    fn frame(ops: Vec<Op>, carried: Vec<CarriedEvent>) -> Frame {
        let snapshot = Snapshot { ops: 0, state: raw(), answered: Vec::new(), carried };
        let snapshot = (!snapshot.carried.is_empty()).then_some(snapshot);
        Frame {
            v: FRAME_VERSION,
            activation: Activation(Uuid::nil()),
            first_op: 1,
            first_revision: 0,
            ops,
            snapshot,
            opened: 0,
        }
    }

    fn carried(sequence: u64, index: u32, revision: u64) -> CarriedEvent {
        CarriedEvent { sequence, index, request_id: RequestId::parse("r").unwrap(), event: event(revision) }
    }

    fn input(sequence: u64, what: What, value: impl Into<bytes::Bytes>) -> Input {
        let (time, traces) = ("2026-11-22T12:00:00Z".to_owned(), Traces::default());
        Input { sequence, time, traces, value: value.into(), what }
    }

    fn ids(announcements: &[Announcement]) -> Vec<(&str, &str)> {
        announcements.iter().map(|one| (one.signal.id.as_str(), one.name.as_str())).collect()
    }

    async fn say(translator: &Translator, input: &Input) -> Vec<Announcement> {
        let store: Store = Arc::new(Memory::default());
        let announcements = translator.translate(&store, input).await.unwrap();
        translator.was_announced(input);
        announcements
    }

    #[tokio::test]
    async fn a_group_commit_is_one_event_per_op_that_has_one() {
        let translator = Translator::new("S");
        let frame = frame(vec![op(Some(1)), op(None), op(Some(2))], Vec::new());
        let said = say(&translator, &input(7, What::Frame(fixture::key("s1")), frame.to_json())).await;
        assert_eq!(ids(&said), [("S:7", "doc.edited"), ("S:7:1", "doc.edited")]);
    }

    #[tokio::test]
    async fn each_event_of_a_group_commit_has_the_trace_of_its_own_request() {
        let traces = [1, 2, 3].map(|last| TraceParent::new([7; 16], [last; 8], 1));
        let frame = frame(vec![op(Some(1)), op(None), op(Some(2))], Vec::new());
        let frame = input(7, What::Frame(fixture::key("s1")), frame.to_json());
        let said = say(&Translator::new("S"), &Input { traces: Traces::each(traces), ..frame }).await;
        assert_eq!(said.iter().map(|one| one.trace).collect::<Vec<_>>(), [traces[0], traces[2]]);
    }

    #[tokio::test]
    async fn a_snapshot_announces_what_it_carries_and_only_what_was_not_announced() {
        let key = fixture::key("s1");
        let snapshot = frame(vec![op(Some(5))], vec![carried(7, 0, 1), carried(7, 1, 2), carried(9, 0, 3)]);
        let snapshot = input(12, What::Frame(key.clone()), snapshot.to_json());
        let forgetful = Translator::new("S");
        let all = [("S:7", "doc.edited"), ("S:7:1", "doc.edited"), ("S:9", "doc.edited"), ("S:12", "doc.edited")];
        assert_eq!(ids(&say(&forgetful, &snapshot).await), all);

        let translator = Translator::new("S");
        let first = frame(vec![op(Some(1)), op(Some(2))], Vec::new());
        say(&translator, &input(7, What::Frame(key), first.to_json())).await;
        assert_eq!(ids(&say(&translator, &snapshot).await), all[2..]);
    }

    #[tokio::test]
    async fn a_snapshot_from_further_on_says_what_was_committed_so_far_and_the_rest_in_its_turn() {
        let key = fixture::key("s1");
        let translator = Translator::new("S");
        let snapshot = frame(vec![op(Some(4))], vec![carried(5, 0, 1), carried(7, 0, 2), carried(12, 0, 3)]);
        let snapshot = input(20, What::Frame(key.clone()), snapshot.to_json());
        assert_eq!(ids(&translator.ahead(&snapshot, &key, 9)), [("S:5", "doc.edited"), ("S:7", "doc.edited")]);
        translator.was_announced_until(&key, 9);
        assert_eq!(ids(&translator.ahead(&snapshot, &key, 20)), [], "it is there by now");
        assert_eq!(ids(&say(&translator, &snapshot).await), [("S:12", "doc.edited"), ("S:20", "doc.edited")]);
    }

    #[tokio::test]
    async fn what_may_have_left_the_stream_unread_is_announced_by_the_snapshot_that_replaced_it() {
        let key = fixture::key("s1");
        let mut translator = Translator::new("S");
        // Frame 12 was in this relay's hands when it looked for what came before; frame 7 had gone by then.
        translator.read_late(5, 12);
        let late = frame(vec![op(Some(3))], Vec::new());
        say(&translator, &input(12, What::Frame(key.clone()), late.to_json())).await;
        let snapshot = frame(Vec::new(), vec![carried(5, 0, 1), carried(7, 0, 2), carried(12, 0, 3)]);
        let said = say(&translator, &input(20, What::Frame(key), snapshot.to_json())).await;
        assert_eq!(ids(&said), [("S:7", "doc.edited")]);
        for n in 0..100 {
            translator.read_late(100 + n, 101 + n);
        }
        assert!(translator.holes.len() <= HOLES && translator.may_be_unannounced(7, 50));
    }

    #[tokio::test]
    async fn records_say_what_they_are_and_hand_edits_what_they_changed() {
        let key = fixture::key("s1");
        let by_us = |writer| What::Record(key.clone(), writer);
        let translator = Translator::new("S");
        let mut opened = fixture::active("s1", "w1");
        opened.event = Some(Event {
            kind: EventType::SessionOpened,
            actor: None,
            actor_proven: None,
            reason: None,
            previous_owner: None,
            previous_worker: None,
            request_id: None,
            unheard: false,
            hand_over: None,
        });
        let said = say(&translator, &input(1, by_us(Origin::Holdfast), opened.to_json())).await;
        assert_eq!(ids(&said), [("S:1", "session.opened"), ("S:1:1", "session.activated")]);

        let edited = SessionRecord { state: State::Passive, owner: None, ..opened };
        let said = say(&translator, &input(2, by_us(Origin::Hand), edited.to_json())).await;
        assert_eq!(ids(&said), [("S:2", "lock.changed"), ("S:2:1", "session.passivated")]);
        let said = say(&translator, &input(3, by_us(Origin::Hand), "nonsense")).await;
        assert_eq!(ids(&said), [("S:3", "lock.changed")]);
        let said = say(&translator, &input(4, by_us(Origin::Hand), "")).await;
        assert_eq!(ids(&said), [("S:4", "session.closed")]);
        assert!(say(&translator, &input(5, What::Other, "x")).await.is_empty());
    }

    #[tokio::test]
    async fn a_relay_that_has_forgotten_compares_a_hand_edit_with_what_is_stored() {
        let key = fixture::key("s1");
        let memory = Memory::default();
        memory.edit_by_hand(&key, Some(fixture::active("s1", "w1").to_json().into()));
        let edited = fixture::passive("s1").to_json();
        let revision = memory.edit_by_hand(&key, Some(edited.clone().into()));
        let store: Store = Arc::new(memory);
        let edit = input(revision.0, What::Record(key, Origin::Hand), edited);
        let said = Translator::new("S").translate(&store, &edit).await.unwrap();
        assert_eq!(said[1].name, "session.passivated");
        assert_eq!(said[1].signal.data["previous_worker"], "w1");
    }
}
