//! Undo and redo: inverses of what was done, bounded in number and in bytes. Part of the snapshot.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::step::Step;

const STEPS_MAX: usize = 100;
const BYTES_MAX: usize = 1024 * 1024;

/// How a change has the history weighed. It says so itself, since a replay must drop what was dropped then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Weight {
    /// Bytes of text, as the first version did: a control character is six times that in a snapshot.
    #[default]
    Raw,
    /// Bytes in a snapshot.
    Encoded,
}

impl Weight {
    pub(super) fn is_raw(&self) -> bool {
        *self == Self::Raw
    }
}

/// What can be undone and redone, the latest last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    /// Boxed, because most of the time there is room for more than there is.
    undo: VecDeque<Box<Step>>,
    redo: VecDeque<Box<Step>>,
}

impl History {
    pub(super) fn is_empty(&self) -> bool {
        self.undo.is_empty() && self.redo.is_empty()
    }

    /// A new change, whose inverse is `inverse`: there is nothing to redo any more.
    pub(super) fn done(&mut self, inverse: Step, weight: Weight) {
        self.redo.clear();
        push(&mut self.undo, inverse, weight);
    }

    /// The last change was taken back; `inverse` makes it again.
    pub(super) fn undone(&mut self, inverse: Step, weight: Weight) {
        push(&mut self.redo, inverse, weight);
    }

    /// A change that was taken back was made again.
    pub(super) fn redone(&mut self, inverse: Step, weight: Weight) {
        push(&mut self.undo, inverse, weight);
    }

    pub(super) fn last_done(&self) -> Option<&Step> {
        self.undo.back().map(|step| &**step)
    }

    pub(super) fn last_undone(&self) -> Option<&Step> {
        self.redo.back().map(|step| &**step)
    }

    pub(super) fn take_done(&mut self) -> Option<Step> {
        self.undo.pop_back().map(|step| *step)
    }

    pub(super) fn take_undone(&mut self) -> Option<Step> {
        self.redo.pop_back().map(|step| *step)
    }
}

fn push(steps: &mut VecDeque<Box<Step>>, step: Step, weight: Weight) {
    steps.push_back(Box::new(step));
    let mut bytes: usize = steps.iter().map(|step| step.bytes()).sum();
    // Encoded it is at most six times that, which is not worth a walk through all of it while it is little.
    let is_encoded = weight == Weight::Encoded && bytes.saturating_mul(6) > BYTES_MAX;
    let weigh = |step: &Step| if is_encoded { step.encoded_bytes() } else { step.bytes() };
    if is_encoded {
        bytes = steps.iter().map(|step| weigh(step)).sum();
    }
    while steps.len() > STEPS_MAX || bytes > BYTES_MAX {
        let Some(dropped) = steps.pop_front() else { return };
        bytes -= weigh(&dropped);
    }
}
