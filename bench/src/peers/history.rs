//! What the driver saw of each key, and whether that may be: no two holders at once, fences that only grow, no accepted
//! write of a holder that had lost the lock, and every acknowledged edit still there at the end.
//!
//! A holder is entered when its grant has arrived, and is removed before its release is sent. So two holders here were
//! two holders in fact. Grants last longer than a span, so none ends by itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use super::system::{Edit, Held, Part, System};

/// How many faults are told.
const TOLD: usize = 10;

#[derive(Default)]
pub(crate) struct History {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    keys: HashMap<String, Key>,
    faults: Vec<String>,
    grants: u64,
    edits: u64,
}

#[derive(Default)]
struct Key {
    holder: Option<(usize, String)>,
    /// The highest fence so far.
    fence: u64,
    editors: HashMap<usize, Values>,
}

#[derive(Default)]
struct Values {
    sent: u64,
    acknowledged: u64,
}

impl History {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A grant has arrived; the key should have been free.
    pub(crate) fn granted(&self, key: &str, client: usize, held: &Held) {
        let mut seen = self.seen();
        let before = seen.keys.entry(key.to_owned()).or_default().holder.clone();
        if let Some((before, _)) = before {
            seen.faults.push(format!("{key}: client {client} was granted the lock while client {before} had it"));
        }
        seen.enter(key, client, held);
    }

    /// A takeover was answered.
    pub(crate) fn taken_over(&self, key: &str, client: usize, held: &Held) {
        self.seen().enter(key, client, held);
    }

    /// A release is about to be sent.
    pub(crate) fn releasing(&self, key: &str) {
        if let Some(key) = self.seen().keys.get_mut(key) {
            key.holder = None;
        }
    }

    /// The next edit of an editor, about to be sent.
    pub(crate) fn next(&self, key: &str, editor: usize) -> Part {
        let mut seen = self.seen();
        let values = seen.keys.entry(key.to_owned()).or_default().editors.entry(editor).or_default();
        values.sent += 1;
        Part { editor, value: values.sent }
    }

    /// An edit was answered. `current` says whether its holder had the lock, as far as is known, when it was sent.
    pub(crate) fn edited(&self, key: &str, part: Part, outcome: Edit, current: bool) {
        if outcome == Edit::Refused {
            return;
        }
        let mut seen = self.seen();
        seen.edits += 1;
        let values = seen.keys.entry(key.to_owned()).or_default().editors.entry(part.editor).or_default();
        values.acknowledged = values.acknowledged.max(part.value);
        if !current {
            seen.faults.push(format!("{key}: an edit of a holder that had lost the lock was accepted"));
        }
    }

    /// Whether `held` is the grant that was seen last.
    pub(crate) fn is_current(&self, key: &str, held: &Held) -> bool {
        let seen = self.seen();
        let holder = seen.keys.get(key).and_then(|key| key.holder.as_ref());
        holder.is_some_and(|(_, proof)| *proof == held.proof)
    }

    /// Reads every edited document, and compares it with what was acknowledged. Returns what is wrong, and in how much
    /// it was looked for.
    pub(crate) async fn check(&self, system: &dyn System) -> Result<Verdict> {
        let edited: Vec<(String, usize)> = {
            let seen = self.seen();
            let edited = seen.keys.iter().filter(|(_, key)| !key.editors.is_empty());
            edited.map(|(name, key)| (name.clone(), key.editors.keys().max().map_or(0, |last| last + 1))).collect()
        };
        for (name, editors) in edited {
            let values = system.values(&name, editors).await?;
            self.seen().compare(&name, &values);
        }
        let seen = self.seen();
        let (grants, edits) = (seen.grants, seen.edits);
        Ok(Verdict { grants, edits, faults: seen.faults.iter().take(TOLD).cloned().collect() })
    }
}

impl Seen {
    fn enter(&mut self, name: &str, client: usize, held: &Held) {
        self.grants += 1;
        let key = self.keys.entry(name.to_owned()).or_default();
        key.holder = Some((client, held.proof.clone()));
        let Some(fence) = held.fence else { return };
        if fence <= key.fence {
            self.faults.push(format!("{name}: a grant has the fence {fence}, and an earlier one had {}", key.fence));
        }
        key.fence = key.fence.max(fence);
    }

    fn compare(&mut self, name: &str, values: &[u64]) {
        let Some(key) = self.keys.get(name) else { return };
        for (editor, known) in &key.editors {
            let value = values.get(*editor).copied().unwrap_or_default();
            if value < known.acknowledged || value > known.sent {
                self.faults.push(format!(
                    "{name}: editor {editor} reads {value}, and {} was acknowledged of {} sent",
                    known.acknowledged, known.sent
                ));
            }
        }
    }
}

/// The outcome of a check.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Verdict {
    /// How many grants were looked at.
    pub(crate) grants: u64,
    /// How many acknowledged edits.
    pub(crate) edits: u64,
    pub(crate) faults: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(proof: &str, fence: u64) -> Held {
        Held { proof: proof.to_owned(), fence: Some(fence) }
    }

    fn faults(history: &History) -> Vec<String> {
        history.seen().faults.clone()
    }

    #[test]
    fn grants_one_after_the_other_are_well() {
        let history = History::default();
        for fence in 1..4 {
            history.granted("k", 1, &held("p", fence));
            history.releasing("k");
        }
        assert_eq!(faults(&history), Vec::<String>::new());
    }

    #[test]
    fn two_holders_at_once_are_seen() {
        let history = History::default();
        history.granted("k", 1, &held("p", 1));
        history.granted("k", 2, &held("q", 2));
        assert_eq!(faults(&history), ["k: client 2 was granted the lock while client 1 had it"]);
    }

    #[test]
    fn a_fence_that_does_not_grow_is_seen() {
        let history = History::default();
        history.granted("k", 1, &held("p", 5));
        history.releasing("k");
        history.granted("k", 1, &held("q", 5));
        history.taken_over("k", 1, &held("r", 4));
        assert_eq!(faults(&history).len(), 2);
    }

    #[test]
    fn an_accepted_edit_of_a_former_holder_is_seen() {
        let history = History::default();
        let (old, new) = (held("p", 1), held("q", 2));
        history.granted("k", 1, &old);
        history.taken_over("k", 2, &new);
        assert!(!history.is_current("k", &old) && history.is_current("k", &new));
        let part = history.next("k", 0);
        history.edited("k", part, Edit::Refused, false);
        assert_eq!(faults(&history), Vec::<String>::new());
        history.edited("k", part, Edit::Done, false);
        assert_eq!(faults(&history).len(), 1);
    }

    #[test]
    fn an_acknowledged_edit_that_is_gone_is_seen_and_one_without_an_answer_may_be_there() {
        let history = History::default();
        let first = history.next("k", 0);
        history.edited("k", first, Edit::Done, true);
        history.next("k", 0);
        for value in [1, 2] {
            history.seen().compare("k", &[value]);
            assert_eq!(faults(&history), Vec::<String>::new());
        }
        history.seen().compare("k", &[0]);
        history.seen().compare("k", &[3]);
        assert_eq!(faults(&history).len(), 2);
    }
}
