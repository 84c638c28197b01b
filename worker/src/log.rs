//! Where an agent is in its session's log: how long it is, and which of its events may not have been announced yet.
//!
//! Invariant: an event leaves `unannounced` only once the relay has passed the message that holds it, because a snapshot
//! takes earlier frames out of the stream, and nothing committed may go unannounced.

use std::collections::VecDeque;

use holdfast_protocol::frame::{
    CarriedEvent, FRAME_VERSION, FRAMES_MAX, Frame, Op, SNAPSHOT_EVERY, SNAPSHOT_EVERY_BYTES, Snapshot,
};
use holdfast_protocol::id::Activation;

/// Most bytes of events that a snapshot may carry on; with more than that the relay is waited for.
const CARRIED_BYTES_MAX: usize = 1024 * 1024;

struct Unannounced {
    event: CarriedEvent,
    /// The message that holds it now: its own frame, or the snapshot that replaced it.
    held_at: u64,
}

/// Length and announcements of one log.
#[derive(Default)]
pub(crate) struct LogPosition {
    frames: u64,
    bytes: u64,
    /// The last accepted frame that is known, of this agent or of one before it.
    last: u64,
    /// Boxed, because most of the time there is room for more than there is.
    unannounced: VecDeque<Box<Unannounced>>,
}

impl LogPosition {
    /// The last frame that is known to be accepted: a read that does not come this far is not complete.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Frames up to `sequence` may have been accepted.
    pub(crate) fn expect(&mut self, sequence: u64) {
        self.last = self.last.max(sequence);
    }

    /// Forgets all but how far the log goes: it is about to be read.
    pub(crate) fn reset(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// Whether a snapshot is due.
    pub(crate) fn wants_snapshot(&self) -> bool {
        self.frames >= SNAPSHOT_EVERY || self.bytes >= SNAPSHOT_EVERY_BYTES
    }

    /// Whether no frame may follow but a snapshot.
    pub(crate) fn is_full(&self) -> bool {
        self.frames >= FRAMES_MAX
    }

    /// Whether a snapshot would replace anything.
    pub(crate) fn can_shrink(&self) -> bool {
        self.frames > 1 || self.bytes > 0
    }

    /// Whether a snapshot can take all unannounced events along.
    pub(crate) fn can_carry(&self) -> bool {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let bytes = |CarriedEvent { request_id, event, .. }: &CarriedEvent| {
            let error = event.error.as_ref().map_or(0, |error| error.to_string().len());
            200 + request_id.as_str().len() + text(&event.actor) + text(&event.path) + error
        };
        self.unannounced.iter().map(|unannounced| bytes(&unannounced.event)).sum::<usize>() <= CARRIED_BYTES_MAX
    }

    /// The relay has announced everything up to `floor`.
    pub(crate) fn announced(&mut self, floor: u64) {
        while self.unannounced.front().is_some_and(|first| first.held_at <= floor) {
            self.unannounced.pop_front();
        }
        if self.unannounced.is_empty() {
            self.unannounced.shrink_to_fit();
        }
    }

    /// The events for a snapshot.
    pub(crate) fn carried(&self) -> Vec<CarriedEvent> {
        self.unannounced.iter().map(|unannounced| unannounced.event.clone()).collect()
    }

    /// `frame` of `bytes` is in the log at `sequence`.
    pub(crate) fn appended(&mut self, frame: &Frame, sequence: u64, bytes: usize) {
        self.expect(sequence);
        if let Some(snapshot) = &frame.snapshot {
            self.frames = 0;
            self.bytes = 0;
            let held = |event: &CarriedEvent| Box::new(Unannounced { event: event.clone(), held_at: sequence });
            self.unannounced = snapshot.carried.iter().map(held).collect();
        } else {
            self.bytes += bytes as u64;
        }
        self.frames += 1;
        let events = frame.ops.iter().filter_map(|op| Some((op.event.clone()?, &op.request_id)));
        self.unannounced.extend(events.zip(0..).map(|((event, request_id), index)| {
            let event = CarriedEvent { sequence, index, request_id: request_id.clone(), event };
            Box::new(Unannounced { event, held_at: sequence })
        }));
    }
}

/// Builds the frame of `ops`, the first of which has number `first_op`, of a session that was `opened` at that sequence.
pub(crate) fn frame(
    activation: Activation,
    opened: u64,
    first_op: u64,
    first_revision: u64,
    ops: Vec<Op>,
    snapshot: Option<Snapshot>,
) -> Frame {
    let opened = if first_op == 1 || snapshot.is_some() { opened } else { 0 };
    Frame { v: FRAME_VERSION, activation, first_op, first_revision, ops, snapshot, opened }
}
