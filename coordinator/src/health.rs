//! A coordinator's look at itself: how far its relay is behind, and whether the storage answers.
//!
//! Invariant: times are measured by this process's own clock. The age of what is not announced is counted from when
//! this process first saw that it was stored.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_meters::{Check, Part, Probe};
use holdfast_protocol::reply::WorkerState;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::relay::{self, Pin};

/// How many looks are remembered. An older backlog counts as as old as the oldest of them.
const REMEMBERED: usize = 4_096;
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// The name of this part.
const PART: &str = "coordinator";

/// What the last looks found.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// When the storage last answered, and what it said.
    answered: Option<Instant>,
    /// When the first look began.
    begun: Option<Instant>,
    /// Why the last look failed.
    fault: Option<String>,
    backlog: Backlog,
    /// Whether the relay of this coordinator was the last to be given messages. Only messages tell a reader that it is
    /// pinned, so this is not known of a relay that has not had one.
    is_active: bool,
    /// Whether another reader is pinned, as far as this coordinator knows.
    is_passive: bool,
}

/// How far a relay is behind, and for how long.
#[derive(Debug, Default)]
struct Backlog {
    /// The last sequence of the stream at each look, while it was not announced.
    ends: VecDeque<(u64, Instant)>,
    /// How many messages are not announced.
    messages: u64,
    /// Everything up to here is announced, and when that was last seen to change.
    announced: u64,
    moved: Option<Instant>,
}

impl Backlog {
    /// One look: everything up to `announced` is announced, `messages` are not, and the stream ends at `end`.
    fn see(&mut self, announced: u64, messages: u64, end: u64, now: Instant) {
        // What came since the last look has not waited yet.
        if announced != self.announced || messages == 0 || self.messages == 0 {
            self.moved = Some(now);
        }
        (self.announced, self.messages) = (announced, messages);
        while self.ends.front().is_some_and(|(end, _)| messages == 0 || *end <= announced) {
            self.ends.pop_front();
        }
        // Without an older one in the list, what waits came since the last look.
        if messages > 0 && self.ends.back().is_none_or(|(last, _)| *last < end) && self.ends.len() < REMEMBERED {
            self.ends.push_back((end, now));
        }
    }

    /// How long the oldest message has waited.
    fn age(&self, now: Instant) -> Duration {
        self.ends.front().map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(*since))
    }

    /// For how long nothing was announced although something waits.
    fn stands(&self, now: Instant) -> Duration {
        let moved = self.moved.filter(|_| self.messages > 0);
        moved.map_or(Duration::ZERO, |moved| now.saturating_duration_since(moved))
    }
}

impl Seen {
    fn storage_failure(&self, now: Instant, patience: Duration) -> Option<String> {
        let silent = now.saturating_duration_since(self.answered.or(self.begun)?);
        let why = self.fault.as_deref().unwrap_or("no answer");
        (silent > patience).then(|| format!("JetStream has not answered for {} s: {why}", silent.as_secs()))
    }

    fn relay_failure(&self, now: Instant, patience: Duration) -> Option<String> {
        let stands = self.backlog.stands(now);
        (!self.is_passive && stands > patience).then(|| {
            let waiting = self.backlog.messages;
            format!("{waiting} messages wait to be announced, and the relay has not moved for {} s", stands.as_secs())
        })
    }
}

/// Looks every `interval`, until `cancel`.
pub(crate) async fn run(context: Arc<Context>, pin: Arc<Pin>, interval: Duration, cancel: CancellationToken) {
    let looking = async {
        loop {
            look(&context, &pin).await;
            tokio::time::sleep(interval).await;
        }
    };
    cancel.run_until_cancelled(looking).await;
}

async fn look(context: &Context, pin: &Pin) {
    context.looks.lock().begun.get_or_insert_with(Instant::now);
    let read = async {
        // In this order: what is stored in between counts as announced late and not as never stored.
        let end = context.store.last().await.map_err(|error| error.to_string())?;
        let state = relay::state(context).await.map_err(|error| error.to_string())?;
        Ok::<_, String>((end, state))
    };
    let found = timeout(LOOK_TIMEOUT, read).await.unwrap_or_else(|_| Err(format!("no answer in {LOOK_TIMEOUT:?}")));
    let now = Instant::now();
    let mut seen = context.looks.lock();
    match found {
        Ok((end, state)) => {
            seen.answered = Some(now);
            seen.fault = None;
            seen.is_active = pin.is_ours(&state);
            seen.is_passive = !pin.is_ours_or_nobodys(&state);
            seen.backlog.see(state.acknowledged, state.behind, end, now);
        }
        Err(why) => seen.fault = Some(why),
    }
}

impl Looks {
    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A coordinator as it shows itself.
pub(crate) struct Shown(pub(crate) Arc<Context>);

impl Part for Shown {
    fn observe(&self) {
        let meters = &self.0.config.meters;
        let live = self.0.fleet.live();
        for (state, word) in [(WorkerState::Ready, "ready"), (WorkerState::Draining, "draining")] {
            meters.workers(word, live.iter().filter(|lease| lease.state == state).count());
        }
        let seen = self.0.looks.lock();
        let is_active = seen.is_active;
        let lag = seen.answered.map(|_| (seen.backlog.messages, seen.backlog.age(Instant::now())));
        drop(seen);
        meters.relay(is_active, lag);
    }

    fn checks(&self) -> Vec<Check> {
        let (now, patience) = (Instant::now(), self.0.config.patience);
        let leaving = self.0.leaving.is_cancelled().then(|| "it answers what it has, and ends".to_owned());
        let seen = self.0.looks.lock();
        let (storage, relay) = (seen.storage_failure(now, patience), seen.relay_failure(now, patience));
        drop(seen);
        vec![
            Check::new("storage", PART, Probe::Readiness, storage),
            Check::new("relay", PART, Probe::Readiness, relay),
            Check::new("leaving", PART, Probe::Readiness, leaving),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn what_waits_is_as_old_as_the_look_that_first_saw_it() {
        let begin = Instant::now();
        let mut backlog = Backlog::default();
        // (second, announced, waiting, end of the stream) → (age, for how long it stands), in seconds.
        let table = [
            ((0, 10, 0, 10), (0, 0), "nothing waits"),
            ((2, 10, 3, 13), (0, 0), "seen just now"),
            ((4, 10, 5, 15), (2, 2), "the same ones still wait"),
            ((6, 12, 5, 17), (4, 0), "it moves, but the oldest of the first look still waits"),
            ((8, 14, 3, 17), (4, 0), "those of the first look are announced"),
            ((9, 17, 0, 17), (0, 0), "all is announced"),
            ((60, 17, 1, 18), (0, 0), "it came since the last look, however long ago that was"),
            ((61, 17, 1, 18), (1, 1), "it still waits"),
        ];
        for (n, ((second, announced, waiting, end), (age, stands), why)) in table.into_iter().enumerate() {
            let now = begin + S * second;
            backlog.see(announced, waiting, end, now);
            let found = (backlog.age(now), backlog.stands(now));
            assert_eq!(found, (S * age, S * stands), "row {n}: {why}");
        }
    }

    #[test]
    fn a_relay_that_stands_still_fails_unless_another_coordinator_relays() {
        let begin = Instant::now();
        let mut seen = Seen::default();
        seen.backlog.see(10, 3, 13, begin);
        seen.backlog.see(10, 4, 14, begin + S * 20);
        assert_eq!(
            seen.relay_failure(begin + S * 20, S * 15).as_deref(),
            Some("4 messages wait to be announced, and the relay has not moved for 20 s")
        );
        assert_eq!(seen.relay_failure(begin + S * 20, S * 30), None);
        seen.is_passive = true;
        assert_eq!(seen.relay_failure(begin + S * 20, S * 15), None);
    }

    #[test]
    fn a_storage_that_never_answered_fails_too() {
        let begin = Instant::now();
        let mut seen = Seen { begun: Some(begin), ..Seen::default() };
        assert_eq!(seen.storage_failure(begin + S * 15, S * 15), None);
        assert!(seen.storage_failure(begin + S * 16, S * 15).is_some());
        seen.answered = Some(begin + S * 10);
        assert_eq!(seen.storage_failure(begin + S * 16, S * 15), None);
    }
}
