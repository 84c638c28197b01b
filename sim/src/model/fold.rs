//! A session's log, folded from its first accepted frame to its last, life by life.
//!
//! Invariant: the fold uses no snapshot, only ops: what a snapshot says must be what the ops before it made.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::frame::{FRAMES_MAX, Frame};
use holdfast_protocol::record::State;
use holdfast_protocol::signal::{Happening, of_op};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Limits, Revision, SessionRecord};
use holdfast_rules::validate::may_write;
use holdfast_store::Rollup;
use holdfast_worker::document::DocumentKind;
use holdfast_worker::machine::{Kind, Machine, Surroundings};
use serde_json::Value;

use crate::history::Request;
use crate::run::{Framed, Revised, Written};

/// A state of the document that was committed.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The request that made it; empty: none did.
    pub(super) by: String,
    /// What a reader sees.
    pub(super) seen: Value,
    /// When it was committed.
    pub(super) from: Duration,
    /// When it was followed by another one, or its life ended.
    pub(super) until: Duration,
}

/// What a session's log says.
pub(super) struct Fold {
    machine: Option<Box<dyn Machine>>,
    /// The last revision of the record.
    record: Option<Revised>,
    /// The last record that parsed.
    life: Option<u64>,
    ops: u64,
    log: u64,
    /// Reply of each op, by its request: a request takes effect once over all lives.
    pub(super) replies: HashMap<String, Value>,
    /// In the order of their commits.
    pub(super) views: Vec<View>,
    /// Sequence and index of each op that is announced, with its frame.
    pub(super) events: Vec<(u64, u32, Happening)>,
}

fn blank(record: &SessionRecord) -> Box<dyn Machine> {
    DocumentKind.create(record, Surroundings { limits: Arc::new(Limits::default()), workspace: None })
}

/// A change is under a record that allows its token.
fn is_allowed(request: Option<&Request>, record: &SessionRecord, fence: Revision, sequence: u64) -> Result<(), String> {
    // What a session begins with needs no lock.
    let Some(request) = request.filter(|request| request.verb != Verb::SessionOpen) else { return Ok(()) };
    may_write(record, fence, request.token())
        .map_err(|refusal| format!("frame {sequence} has {}, whose token lost: {}", request.id, refusal.message))
}

fn value(json: &serde_json::value::RawValue) -> Value {
    serde_json::from_str(json.get()).unwrap_or(Value::Null)
}

impl Fold {
    /// Folds all that was written of a session.
    ///
    /// # Errors
    /// What cannot be.
    pub(super) fn of(written: &[Written], requests: &HashMap<&str, &Request>) -> Result<Self, String> {
        let mut fold = Self {
            machine: None,
            record: None,
            life: None,
            ops: 0,
            log: 0,
            replies: HashMap::new(),
            views: Vec::new(),
            events: Vec::new(),
        };
        for written in written {
            match written {
                Written::Record(revised) => fold.record(revised),
                Written::Frame(framed) => fold.frame(framed, requests)?,
            }
        }
        Ok(fold)
    }

    fn record(&mut self, revised: &Revised) {
        let is_over = match &revised.record {
            Some(record) => record.state == State::Closed,
            None => revised.json.is_none(),
        };
        if is_over {
            self.end_view(revised.at);
        }
        if let Some(record) = &revised.record
            && self.life.is_none_or(|life| record.log_after > life)
        {
            self.end_view(revised.at);
            (self.machine, self.life, self.ops) = (Some(blank(record)), Some(record.log_after), 0);
            self.view(revised.at, "");
        }
        self.record = Some(revised.clone());
    }

    fn end_view(&mut self, at: Duration) {
        if let Some(last) = self.views.last_mut() {
            last.until = last.until.min(at);
        }
    }

    fn view(&mut self, at: Duration, by: &str) {
        self.end_view(at);
        if let Some(machine) = &self.machine {
            self.views.push(View { by: by.to_owned(), seen: value(&machine.view()), from: at, until: Duration::MAX });
        }
    }

    fn frame(&mut self, framed: &Framed, requests: &HashMap<&str, &Request>) -> Result<(), String> {
        let Framed { at, fence, sequence, rollup, frame } = framed;
        let Some(revised) = self.record.clone() else { return Err(format!("frame {sequence} is of no session")) };
        if revised.revision != *fence {
            return Err(format!("frame {sequence} has the fence {fence}, and the record is at {}", revised.revision));
        }
        let Some(record) = revised.record else { return Err(format!("frame {sequence} is under a broken record")) };
        if record.owner.as_ref().map(|owner| owner.activation) != Some(frame.activation) {
            return Err(format!("frame {sequence} is not its owner's"));
        }
        self.length(frame, *sequence, *rollup)?;
        let machine = self.machine.as_ref().ok_or("no life has begun")?;
        if !frame.ops.is_empty() && (frame.first_op, frame.first_revision) != (self.ops + 1, machine.revision()) {
            return Err(format!(
                "frame {sequence} begins at op {} and revision {}, after op {} and revision {}",
                frame.first_op,
                frame.first_revision,
                self.ops,
                machine.revision()
            ));
        }
        let mut index = 0;
        for op in &frame.ops {
            let id = op.request_id.as_str();
            is_allowed(requests.get(id).copied(), &record, *fence, *sequence)?;
            let machine = self.machine.as_mut().ok_or("no life has begun")?;
            machine.apply(&op.change).map_err(|error| format!("op of {id} in frame {sequence}: {error}"))?;
            self.ops += 1;
            if self.replies.insert(id.to_owned(), value(&op.reply)).is_some() {
                return Err(format!("{id} was committed twice, at last in frame {sequence}"));
            }
            self.view(*at, id);
            if let Some(event) = &op.event {
                self.events.push((*sequence, index, of_op(event, &op.request_id)));
                index += 1;
            }
        }
        self.snapshot(frame, *sequence)
    }

    fn length(&mut self, frame: &Frame, sequence: u64, rollup: Rollup) -> Result<(), String> {
        if frame.snapshot.is_some() != (rollup == Rollup::Replace) {
            return Err(format!("frame {sequence} has a snapshot and replaces nothing, or replaces all without one"));
        }
        self.log = if rollup == Rollup::Replace { 1 } else { self.log + 1 };
        // The stream would drop the oldest of 65.
        if self.log > FRAMES_MAX + 1 {
            return Err(format!("the log has {} messages at {sequence}", self.log));
        }
        Ok(())
    }

    fn snapshot(&self, frame: &Frame, sequence: u64) -> Result<(), String> {
        let (Some(snapshot), Some(machine)) = (&frame.snapshot, &self.machine) else { return Ok(()) };
        if snapshot.ops != self.ops || snapshot.state.get() != machine.snapshot().get() {
            return Err(format!("the snapshot in frame {sequence} is not what its ops made"));
        }
        for answer in &snapshot.answered {
            let id = answer.request_id.as_str();
            if self.replies.get(id) != Some(&value(&answer.reply)) {
                return Err(format!("the snapshot in frame {sequence} remembers {id} otherwise than committed"));
            }
        }
        Ok(())
    }
}
