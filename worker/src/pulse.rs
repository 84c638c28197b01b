//! Whether this process stood still: paused by an operator, or by a machine that gave it no time.
//!
//! While it stands still, what clients send waits unread in its sockets. So a deadline that passed meanwhile says
//! nothing about whether they were in time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often the pulse beats.
pub(crate) const BEAT: Duration = Duration::from_millis(100);
/// A beat that comes later than this shows that the process stood still.
const STOOD_STILL_MS: u64 = 400;
/// For how long after that what is read may have been sent long before.
pub(crate) const READ_FIRST: Duration = Duration::from_secs(1);
const READ_FIRST_MS: u64 = 1_000;

/// The pulse of a process. All times are milliseconds of one monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// The last beat; 0 before the first.
    beat_ms: AtomicU64,
    /// When a beat last came late; 0 if none did.
    woke_ms: AtomicU64,
}

impl Pulse {
    /// Beats once, at `now_ms`.
    pub(crate) fn beat(&self, now_ms: u64) {
        let before = self.beat_ms.swap(now_ms.max(1), Ordering::Relaxed);
        if before > 0 && now_ms.saturating_sub(before) > STOOD_STILL_MS {
            self.woke_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Whether the process stood still until a moment before `now_ms`. Without a beat it is not known to have.
    pub(crate) fn stood_still(&self, now_ms: u64) -> bool {
        let since =
            |at: &AtomicU64| Some(at.load(Ordering::Relaxed)).filter(|at| *at > 0).map(|at| now_ms.saturating_sub(at));
        // Whoever asks may run before the first beat that is late.
        since(&self.beat_ms).is_some_and(|ago| ago > STOOD_STILL_MS)
            || since(&self.woke_ms).is_some_and(|ago| ago < READ_FIRST_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_beat_and_a_missing_one_show_that_the_process_stood_still() {
        let pulse = Pulse::default();
        assert!(!pulse.stood_still(5_000), "it does not beat yet");
        for now_ms in (0..1_000).step_by(100) {
            pulse.beat(now_ms);
            assert!(!pulse.stood_still(now_ms + 100));
        }
        assert!(pulse.stood_still(3_000), "before the beat that is late");
        pulse.beat(3_000);
        assert!(pulse.stood_still(3_500), "and for a second behind it");
        for now_ms in (3_100..=4_000).step_by(100) {
            pulse.beat(now_ms);
        }
        assert!(!pulse.stood_still(4_000));
    }
}
