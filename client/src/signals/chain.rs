//! Decides whether a signal is new, and whether it follows the one before.
//!
//! Invariant: a redelivered signal is never taken for a new one, and a missing one is always detected once a later one
//! of its kind arrives. A false gap is possible (a session that was closed and opened again) and costs one read.

use holdfast_protocol::signal::{DOC_FAILED, LOCK_CONFLICT, Signal};

use super::Gap;

/// A position in the stream: sequence, and index among the events of one message.
type Position = (u64, u64);

/// The last signals of a session.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// The last position in the groups `session` and `lock`, which come from the record.
    record: Option<Position>,
    /// The last position in the group `doc`, which comes from the log. It may arrive after a later change of the
    /// record, because a snapshot carries events of frames that it replaced.
    log: Option<Position>,
    document_revision: Option<u64>,
    lock_revision: Option<u64>,
}

/// The relation of a signal to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It is a repetition.
    Seen,
    /// It is the next one, or the first.
    Next,
    /// Something is missing before it.
    After(Gap),
}

impl Link {
    pub(super) fn gap(self) -> Option<Gap> {
        match self {
            Self::After(gap) => Some(gap),
            Self::Seen | Self::Next => None,
        }
    }
}

impl Chain {
    /// Adds `signal`.
    pub(super) fn add(&mut self, signal: &Signal) -> Link {
        let name = signal.kind.strip_prefix("holdfast.").and_then(|name| name.strip_suffix(".v1")).unwrap_or_default();
        if name == LOCK_CONFLICT || name == DOC_FAILED {
            // It is not a commit, so it has no position and is sent once.
            return Link::Next;
        }
        let position = position(signal);
        let last = if name.starts_with("doc.") { &mut self.log } else { &mut self.record };
        if last.is_some_and(|last| position <= last) {
            return Link::Seen;
        }
        *last = Some(position);
        self.follow(name, signal)
    }

    fn follow(&mut self, name: &str, signal: &Signal) -> Link {
        let number = |member: &str| signal.data.get(member).and_then(serde_json::Value::as_u64);
        match name.split_once('.') {
            Some(("doc", _)) => {
                let (last, next) = (self.document_revision, number("previous_revision"));
                self.document_revision = number("revision");
                differ(last, next).map_or(Link::Next, |(last, next)| Link::After(Gap::Document { last, next }))
            }
            // A hand edit may set any lock revision.
            Some(("lock", "changed")) => {
                self.lock_revision = number("lock_revision");
                Link::Next
            }
            Some(("lock", _)) => {
                let (last, next) = (self.lock_revision, number("lock_revision"));
                self.lock_revision = next;
                let expected = last.map(|last| last.saturating_add(1));
                differ(expected, next)
                    .map_or(Link::Next, |(_, next)| Link::After(Gap::Lock { last: last.unwrap_or_default(), next }))
            }
            Some(("session", "opened")) => {
                (self.document_revision, self.lock_revision) = (Some(0), Some(0));
                Link::Next
            }
            _ => Link::Next,
        }
    }

    /// Forgets the revisions after a gap that was detected otherwise, so that the next signals begin anew.
    pub(super) fn forget_revisions(&mut self) {
        (self.document_revision, self.lock_revision) = (None, None);
    }
}

fn position(signal: &Signal) -> Position {
    let sequence = signal.sequence.parse().unwrap_or_default();
    let index = signal.id.split(':').nth(2).and_then(|index| index.parse().ok()).unwrap_or_default();
    (sequence, index)
}

fn differ(expected: Option<u64>, actual: Option<u64>) -> Option<(u64, u64)> {
    expected.zip(actual).filter(|(expected, actual)| expected != actual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn signal(name: &str, sequence: u64, index: u64, data: Value) -> Signal {
        let id = if index == 0 { format!("KV_sessions:{sequence}") } else { format!("KV_sessions:{sequence}:{index}") };
        serde_json::from_value(json!({
            "specversion": "1.0", "id": id, "source": "/holdfast/default/s1", "type": format!("holdfast.{name}.v1"),
            "subject": "s1", "time": "", "datacontenttype": "application/json",
            "sequence": format!("{sequence:020}"), "data": data,
        }))
        .unwrap()
    }

    fn edited(sequence: u64, index: u64, revision: u64) -> Signal {
        signal("doc.edited", sequence, index, json!({"previous_revision": revision - 1, "revision": revision}))
    }

    fn lock(name: &str, sequence: u64, lock_revision: u64) -> Signal {
        signal(name, sequence, 0, json!({"lock_revision": lock_revision}))
    }

    fn links(signals: &[Signal]) -> Vec<Link> {
        let mut chain = Chain::default();
        signals.iter().map(|signal| chain.add(signal)).collect()
    }

    #[test]
    fn a_redelivered_signal_is_seen() {
        let signals = [edited(5, 0, 1), edited(5, 1, 2), edited(6, 0, 3), edited(5, 1, 2), edited(6, 0, 3)];
        assert_eq!(links(&signals), [Link::Next, Link::Next, Link::Next, Link::Seen, Link::Seen]);
    }

    #[test]
    fn an_event_that_a_snapshot_carried_is_new_behind_a_later_lock() {
        let signals = [edited(5, 0, 1), lock("lock.acquired", 7, 1), edited(6, 0, 2)];
        assert_eq!(links(&signals), [Link::Next; 3]);
    }

    #[test]
    fn a_missing_edit_is_a_gap() {
        let signals = [edited(5, 0, 1), edited(9, 0, 4), edited(10, 0, 5)];
        assert_eq!(links(&signals), [Link::Next, Link::After(Gap::Document { last: 1, next: 3 }), Link::Next]);
    }

    #[test]
    fn a_save_changes_no_revision_and_is_no_gap() {
        let saved = signal("doc.saved", 6, 0, json!({"previous_revision": 1, "revision": 1}));
        assert_eq!(links(&[edited(5, 0, 1), saved, edited(7, 0, 2)]), [Link::Next; 3]);
    }

    #[test]
    fn a_missing_grant_is_a_gap_and_a_hand_edit_is_none() {
        let signals = [
            lock("lock.acquired", 5, 1),
            lock("lock.taken_over", 8, 4),
            lock("lock.changed", 9, 9),
            lock("lock.released", 10, 10),
        ];
        let gap = Link::After(Gap::Lock { last: 1, next: 4 });
        assert_eq!(links(&signals), [Link::Next, gap, Link::Next, Link::Next]);
    }

    #[test]
    fn a_conflict_is_passed_on_whatever_it_was_decided_on() {
        let conflict = signal(LOCK_CONFLICT, 3, 0, json!({"lock_revision": 1}));
        assert_eq!(links(&[lock("lock.acquired", 5, 1), conflict.clone(), conflict]), [Link::Next; 3]);
    }

    #[test]
    fn a_session_made_anew_begins_anew() {
        let opened = signal("session.opened", 20, 0, json!({}));
        assert_eq!(links(&[edited(5, 0, 9), opened, edited(21, 0, 1)]), [Link::Next; 3]);
    }
}
