//! Which items of a list are still there after a change, and where.
//!
//! Deliberately absent: a search for items that moved. What is the same at the head and at the tail stays; between
//! them, items take each other's places.

use std::ops::Range;

use serde_json::Value;

/// How an old list and a new one are the same: so many items at the head, and so many at the tail.
#[derive(Clone, Copy)]
pub(super) struct Same {
    pub(super) head: usize,
    tail: usize,
}

impl Same {
    pub(super) fn of(old: &[Value], new: &[Value]) -> Self {
        let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let rest = old[head..].iter().rev().zip(new[head..].iter().rev());
        Self { head, tail: rest.take_while(|(old, new)| old == new).count() }
    }

    /// How many items between head and tail have another in their place.
    pub(super) fn kept(self, old: &[Value], new: &[Value]) -> usize {
        old.len().min(new.len()) - self.head - self.tail
    }

    /// Where the old item at `place` is in the new list.
    pub(super) fn place_of(self, place: usize, old: &[Value], new: &[Value]) -> Option<usize> {
        if place < self.head + self.kept(old, new) {
            Some(place)
        } else if place >= old.len() - self.tail {
            Some(place + new.len() - old.len())
        } else {
            None
        }
    }

    /// Which items are new and in no old one's place.
    pub(super) fn added(self, old: &[Value], new: &[Value]) -> Range<usize> {
        self.head + self.kept(old, new)..new.len() - self.tail
    }
}
