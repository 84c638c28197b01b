//! Whether sequences that were used before could be used again. Does no I/O.

use super::Note;
use crate::doctor::check::Check;
use crate::exit::Failure;

/// What tells how far the stream has been.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// The last sequence of the sessions' stream.
    pub(super) last: u64,
    /// The greatest sequence that kept signals name.
    pub(super) signals: Option<u64>,
    /// The greatest sequence that the relay was given.
    pub(super) relay: Option<u64>,
    /// What the operator knows from outside.
    pub(super) at_least: Option<u64>,
    /// The note of the last repair.
    pub(super) note: Option<Note>,
    /// The coordinators that run.
    pub(super) coordinators: Vec<String>,
    /// The workers with a lease.
    pub(super) workers: Vec<String>,
}

impl Evidence {
    /// The greatest sequence that is known to have been used.
    fn known(&self) -> u64 {
        [self.signals, self.relay, self.at_least].into_iter().flatten().max().unwrap_or(0)
    }

    /// The repair that was cut off, if one was.
    fn cut_off(&self) -> Option<&Note> {
        self.note.as_ref().filter(|note| !note.done)
    }

    /// The sequence that a repair must move the stream to, `margin` beyond what is known.
    ///
    /// # Errors
    /// When a part runs, or nothing tells how far the stream has been.
    pub(super) fn goal(&self, margin: u64) -> Result<u64, Failure> {
        let running: Vec<&str> = self.coordinators.iter().chain(&self.workers).map(String::as_str).collect();
        if !running.is_empty() {
            let parts = running.join(", ");
            return Err(Failure::Usage(format!(
                "nothing was changed: these parts run, or were killed less than 10 s ago: {parts}; stop all coordinators and \
                 workers first, because an agent may have more in memory than the stream"
            )));
        }
        if let Some(note) = self.cut_off() {
            return Ok(note.beyond.max(self.known().saturating_add(margin)));
        }
        if self.known() <= self.last && self.at_least.is_none() {
            return Err(Failure::Usage(format!(
                "nothing was changed: nothing in the streams tells that they have been beyond sequence {}; give --at-least N \
                 with the greatest fence that a database or a program has seen",
                self.last
            )));
        }
        Ok(self.known().max(self.last).saturating_add(margin))
    }
}

/// The findings.
pub(super) fn checks(evidence: &Evidence) -> Vec<Check> {
    let last = evidence.last;
    let fix = "stop all coordinators and workers, then: holdfast restore repair --reason WHY, with --at-least N if a database \
               or a program has seen a greater fence";
    let mut all = Vec::new();
    for (name, used, what) in [
        ("signals", evidence.signals, "kept signals name"),
        ("relay", evidence.relay, "the relay was given"),
        ("at least", evidence.at_least, "you say that somebody has seen"),
    ] {
        all.push(match used {
            Some(used) if used > last => {
                let found = format!("{what} sequence {used}, and the stream ends at {last}: it is from a backup");
                Check::problem(name, found, fix)
            }
            Some(used) => Check::ok(name, format!("{what} sequence {used}, and the stream ends at {last}")),
            None if name == "at least" => Check::unchecked(
                name,
                "a backup of all streams looks like a whole installation from inside",
                "give --at-least N with the greatest fence that a database or a program has seen",
            ),
            None => Check::unchecked(name, "there is nothing to compare with", "give --at-least N"),
        });
    }
    if let Some(note) = evidence.cut_off() {
        let found = format!("a repair to sequence {} was cut off: not all records were written again", note.beyond);
        all.push(Check::problem("repair", found, "run holdfast restore repair --reason WHY again"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Verdict;

    fn verdicts(evidence: &Evidence) -> Vec<Verdict> {
        checks(evidence).iter().map(|check| check.verdict).collect()
    }

    #[test]
    fn a_stream_that_ends_before_what_was_seen_is_a_problem() {
        use Verdict::{Ok as Fine, Problem, Unchecked};
        let seen = |signals, relay, at_least| Evidence { last: 10, signals, relay, at_least, ..Evidence::default() };
        assert_eq!(verdicts(&seen(Some(10), Some(10), Some(10))), [Fine, Fine, Fine]);
        assert_eq!(verdicts(&seen(Some(11), Some(9), None)), [Problem, Fine, Unchecked]);
        assert_eq!(verdicts(&seen(None, Some(11), None)), [Unchecked, Problem, Unchecked]);
        assert_eq!(verdicts(&seen(Some(9), Some(9), Some(11))), [Fine, Fine, Problem]);
    }

    #[test]
    fn a_repair_goes_beyond_everything_that_is_known_and_is_never_done_by_half() {
        let seen = Evidence { last: 10, signals: Some(70), relay: Some(9), ..Evidence::default() };
        assert_eq!(seen.goal(5).unwrap(), 75);
        assert_eq!(Evidence { at_least: Some(90), ..seen.clone() }.goal(5).unwrap(), 95);
        // After the sequence was moved, nothing but the note tells that records are still to be written.
        let cut_off = Evidence { last: 90, note: Some(Note::of(75, false)), ..seen.clone() };
        assert_eq!(verdicts(&cut_off).last(), Some(&Verdict::Problem));
        assert_eq!(cut_off.goal(5).unwrap(), 75);
        let done = Evidence { note: Some(Note::of(75, true)), ..cut_off };
        assert!(verdicts(&done).iter().all(|verdict| *verdict != Verdict::Problem));
        assert!(done.goal(5).is_err(), "nothing tells of a backup");
        assert_eq!(Evidence { at_least: Some(20), ..done }.goal(5).unwrap(), 95, "the operator does");
    }

    #[test]
    fn nothing_is_repaired_while_a_part_runs() {
        let seen = Evidence { last: 1, signals: Some(9), ..Evidence::default() };
        assert!(Evidence { coordinators: vec!["c1".into()], ..seen.clone() }.goal(1).is_err());
        assert!(Evidence { workers: vec!["w1".into()], ..seen }.goal(1).is_err());
    }
}
