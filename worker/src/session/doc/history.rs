//! Undo and redo: inverses of what was done, bounded in number and in bytes. Part of the snapshot.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::delta::Delta;

const DELTAS_MAX: usize = 100;
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

/// Which way to go through the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Undo,
    Redo,
}

impl Way {
    /// The way back.
    pub(super) fn opposite(self) -> Self {
        match self {
            Self::Undo => Self::Redo,
            Self::Redo => Self::Undo,
        }
    }
}

/// What can be undone and redone, the latest last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    /// Boxed, since a deque has room for more than is in it.
    undo: VecDeque<Box<Delta>>,
    redo: VecDeque<Box<Delta>>,
}

impl History {
    pub(super) fn is_empty(&self) -> bool {
        self.undo.is_empty() && self.redo.is_empty()
    }

    /// Adds the inverse of a new change, after which there is nothing to redo.
    pub(super) fn record(&mut self, inverse: Delta, weight: Weight) {
        self.redo.clear();
        self.push(Way::Undo, inverse, weight);
    }

    /// What would be done next.
    pub(super) fn next(&self, way: Way) -> Option<&Delta> {
        let deltas = if way == Way::Undo { &self.undo } else { &self.redo };
        deltas.back().map(|delta| &**delta)
    }

    /// Takes what is done next.
    pub(super) fn pop(&mut self, way: Way) -> Option<Delta> {
        self.deltas(way).pop_back().map(|delta| *delta)
    }

    /// Adds what is done next, and drops the oldest that is over the bounds.
    pub(super) fn push(&mut self, way: Way, delta: Delta, weight: Weight) {
        let deltas = self.deltas(way);
        deltas.push_back(Box::new(delta));
        let mut bytes: usize = deltas.iter().map(|delta| delta.bytes()).sum();
        // Encoded it is at most six times that, which is not worth a walk through all of it while it is little.
        let is_encoded = weight == Weight::Encoded && bytes.saturating_mul(6) > BYTES_MAX;
        let weigh = |delta: &Delta| if is_encoded { delta.encoded_bytes() } else { delta.bytes() };
        if is_encoded {
            bytes = deltas.iter().map(|delta| weigh(delta)).sum();
        }
        while deltas.len() > DELTAS_MAX || bytes > BYTES_MAX {
            let Some(dropped) = deltas.pop_front() else { return };
            bytes -= weigh(&dropped);
        }
    }

    fn deltas(&mut self, way: Way) -> &mut VecDeque<Box<Delta>> {
        match way {
            Way::Undo => &mut self.undo,
            Way::Redo => &mut self.redo,
        }
    }
}
