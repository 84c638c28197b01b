//! What a coordinator counts.
//!
//! Invariant: counting a request takes no lock of a map. The series of each verb and outcome is looked up once, when it
//! is counted for the first time. No label has a value that clients choose.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use holdfast_meters::{Counter, Family, Gauge, Histogram, MaybeGauge, Registry, Scale, Unit, histograms};
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Code, Reason};

/// The outcome of a request that was done.
const DONE: &str = "done";
/// The verb of a request whose subject names none.
const NO_VERB: &str = "unknown";

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Why a session got another owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// It is new.
    Opened,
    /// It had none, and a request needs one.
    Returned,
    /// Its worker still runs: an operator moved it, or its worker may not write its file.
    Moved,
    /// Its worker is gone, or does not answer.
    Failover,
    /// Its worker is gone, and nobody asks for the session: it was left without an owner.
    Reclaimed,
}

impl Placement {
    const ALL: [Self; 5] = [Self::Opened, Self::Returned, Self::Moved, Self::Failover, Self::Reclaimed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Returned => "returned",
            Self::Moved => "moved",
            Self::Failover => "failover",
            Self::Reclaimed => "reclaimed",
        }
    }
}

/// The metrics of a coordinator. Clones count into the same ones. The default ones are shown nowhere.
#[derive(Clone, Debug, Default)]
pub struct Meters(Arc<Series>);

#[derive(Debug)]
struct Series {
    verbs: Vec<OfVerb>,
    requests: Family<Labels<2>, Counter>,
    durations: Family<Labels<1>, Histogram, Scale>,
    conflicts: Family<Labels<1>, Counter>,
    /// Those of `conflicts`, in the order of [`Reason::ALL`].
    of_conflict: Vec<Option<Counter>>,
    placements: Family<Labels<1>, Counter>,
    retries: Counter,
    waiters: Gauge,
    in_flight: Gauge,
    in_flight_bytes: Gauge,
    workers: Family<Labels<1>, Gauge>,
    relay_active: Gauge,
    relay_lag: MaybeGauge,
    relay_lag_seconds: MaybeGauge,
    signals: Counter,
    restarts: Counter,
}

/// The series of one verb, or of all requests without one.
#[derive(Debug)]
struct OfVerb {
    name: &'static str,
    duration: Histogram,
    /// By outcome: done, then the reasons in the order of [`Reason::ALL`].
    outcomes: Vec<OnceLock<Counter>>,
}

impl Default for Series {
    fn default() -> Self {
        let requests = Family::<Labels<2>, Counter>::default();
        let durations = histograms(Scale::Seconds);
        let names = Verb::ALL.iter().map(|verb| verb.as_str()).chain([NO_VERB]);
        let verbs = names.map(|name| {
            let outcomes: Vec<OnceLock<Counter>> = (0..=Reason::ALL.len()).map(|_| OnceLock::new()).collect();
            // A series that begins at 0 has its first increase seen.
            let _ = outcomes[0].set(requests.get_or_create_owned(&[("verb", name), ("outcome", DONE)]));
            OfVerb { name, duration: Family::get_or_create_owned(&durations, &[("verb", name)]), outcomes }
        });
        let verbs = verbs.collect();
        let conflicts = Family::<Labels<1>, Counter>::default();
        let of_conflict = Reason::ALL.iter().map(|reason| {
            let is_conflict = reason.code() == Code::Conflict;
            is_conflict.then(|| conflicts.get_or_create_owned(&[("reason", reason.as_str())]))
        });
        let of_conflict = of_conflict.collect();
        let placements = Family::<Labels<1>, Counter>::default();
        for cause in Placement::ALL {
            placements.get_or_create_owned(&[("cause", cause.as_str())]);
        }
        Self {
            verbs,
            requests,
            durations,
            conflicts,
            of_conflict,
            placements,
            retries: Counter::default(),
            waiters: Gauge::default(),
            in_flight: Gauge::default(),
            in_flight_bytes: Gauge::default(),
            workers: Family::default(),
            relay_active: Gauge::default(),
            relay_lag: MaybeGauge::default(),
            relay_lag_seconds: MaybeGauge::default(),
            signals: Counter::default(),
            restarts: Counter::default(),
        }
    }
}

impl Meters {
    /// Metrics that `registry` shows. At most one coordinator of a process may be shown.
    pub fn shown(registry: &mut Registry) -> Self {
        let meters = Self::default();
        let of = &*meters.0;
        registry.register("requests", "Answered requests by verb and outcome", of.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from the arrival of a request to its answer, with the time that it waited for a lock",
            Unit::Seconds,
            of.durations.clone(),
        );
        registry.register("conflicts", "Requests refused with a conflict, by reason", of.conflicts.clone());
        registry.register("placements", "Sessions that got another owner, by cause", of.placements.clone());
        registry.register(
            "record_retries",
            "Writes of a record by a coordinator that lost against another writer and were decided again",
            of.retries.clone(),
        );
        registry.register("waiters", "Requests that wait for a lock now", of.waiters.clone());
        registry.register("requests_in_flight", "Requests that are being answered now", of.in_flight.clone());
        registry.register_with_unit(
            "requests_in_flight",
            "Bodies of the requests that are being answered now",
            Unit::Bytes,
            of.in_flight_bytes.clone(),
        );
        registry.register("workers", "Workers that seem alive to this coordinator, by state", of.workers.clone());
        registry.register(
            "relay_active",
            "Whether this coordinator announced the last commits: 1, or 0",
            of.relay_active.clone(),
        );
        registry.register(
            "relay_lag_messages",
            "Messages of the stream that are not announced yet; every coordinator shows this of the fleet",
            of.relay_lag.clone(),
        );
        registry.register_with_unit(
            "relay_lag",
            "For how long the oldest of them waits, as this coordinator saw it",
            Unit::Seconds,
            of.relay_lag_seconds.clone(),
        );
        registry.register("relay_signals", "Signals that were published", of.signals.clone());
        registry.register("relay_restarts", "Failures after which the relay began again", of.restarts.clone());
        meters
    }

    /// Counts a request that was answered `took` after its arrival; `refused` is the reason of an error.
    pub(crate) fn answered(&self, verb: Option<Verb>, refused: Option<Reason>, took: Duration) {
        let series = &*self.0;
        // A verb and a reason number themselves in the order of their lists; tests pin it.
        let Some(of_verb) = series.verbs.get(verb.map_or(Verb::ALL.len(), |verb| verb as usize)) else { return };
        of_verb.duration.observe(took.as_secs_f64());
        let Some(outcome) = of_verb.outcomes.get(refused.map_or(0, |reason| reason as usize + 1)) else { return };
        let name = refused.map_or(DONE, Reason::as_str);
        let labels = || series.requests.get_or_create_owned(&[("verb", of_verb.name), ("outcome", name)]);
        outcome.get_or_init(labels).inc();
        if let Some(Some(conflict)) = refused.and_then(|reason| series.of_conflict.get(reason as usize)) {
            conflict.inc();
        }
    }

    /// Counts a session that got another owner, or none.
    pub(crate) fn placed(&self, cause: Placement) {
        self.0.placements.get_or_create(&[("cause", cause.as_str())]).inc();
    }

    /// Counts a write of a record that lost against another writer.
    pub(crate) fn retried(&self) {
        self.0.retries.inc();
    }

    /// The number of requests that wait for locks.
    pub(crate) fn waiters(&self) -> &Gauge {
        &self.0.waiters
    }

    /// Counts a request of `bytes` that was admitted.
    pub(crate) fn admitted(&self, bytes: usize) {
        self.0.in_flight.inc();
        self.0.in_flight_bytes.inc_by(signed(bytes as u64));
    }

    /// Takes it back.
    pub(crate) fn released(&self, bytes: usize) {
        self.0.in_flight.dec();
        self.0.in_flight_bytes.dec_by(signed(bytes as u64));
    }

    /// Sets how many workers are in the state `state`.
    pub(crate) fn workers(&self, state: &'static str, count: usize) {
        self.0.workers.get_or_create(&[("state", state)]).set(signed(count as u64));
    }

    /// Counts signals that were published.
    pub(crate) fn announced(&self, signals: u64) {
        self.0.signals.inc_by(signals);
    }

    /// Counts a failure of the relay.
    pub(crate) fn relay_restarted(&self) {
        self.0.restarts.inc();
    }

    /// Sets whether this coordinator relays, and how far the relay of the fleet is behind; `None`: not known yet.
    pub(crate) fn relay(&self, is_active: bool, lag: Option<(u64, Duration)>) {
        let series = &*self.0;
        series.relay_active.set(i64::from(is_active));
        series.relay_lag.set(lag.map(|(messages, _)| messages as f64));
        series.relay_lag_seconds.set(lag.map(|(_, time)| time.as_secs_f64()));
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_the_order_of_their_list() {
        for (n, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, n, "{reason}");
        }
    }

    #[test]
    fn requests_are_counted_by_verb_and_outcome_and_conflicts_by_reason() {
        let meters = Meters::default();
        let ms = Duration::from_millis;
        meters.answered(Some(Verb::DocEdit), None, ms(3));
        meters.answered(Some(Verb::DocEdit), None, ms(3));
        meters.answered(Some(Verb::DocEdit), Some(Reason::RevisionMismatch), ms(3));
        meters.answered(Some(Verb::LockAcquire), Some(Reason::LockHeld), ms(3));
        meters.answered(Some(Verb::LockAcquire), Some(Reason::MailboxFull), ms(3));
        meters.answered(None, Some(Reason::BadValue), ms(3));
        let of = &*meters.0;
        let count = |verb, outcome| of.requests.get_or_create(&[("verb", verb), ("outcome", outcome)]).get();
        assert_eq!((count("doc.edit", "done"), count("doc.edit", "revision_mismatch")), (2, 1));
        assert_eq!((count("lock.acquire", "lock_held"), count("lock.acquire", "done")), (1, 0));
        assert_eq!(count("unknown", "bad_value"), 1);
        let conflicts = |reason| of.conflicts.get_or_create(&[("reason", reason)]).get();
        assert_eq!((conflicts("revision_mismatch"), conflicts("lock_held"), conflicts("stale_token")), (1, 1, 0));
    }
}
