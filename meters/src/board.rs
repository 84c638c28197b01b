//! The metrics and the health of one process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::{Check, Health, Probe};

/// The first word of all names.
const PREFIX: &str = "holdfast";

/// The labels of a check.
type CheckLabels = [(&'static str, String); 3];

/// A part of a process, as it shows itself.
pub trait Part: Send + Sync {
    /// Sets the metrics that are read only when somebody looks. Called before each reading.
    fn observe(&self) {}

    /// Its checks. Must answer at once, and while NATS is away.
    fn checks(&self) -> Vec<Check>;
}

/// Where a process is between start and end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all parts run yet.
    Starting,
    /// All parts run.
    Running,
    /// The process was told to end.
    Ending,
}

impl Phase {
    fn failure(&self) -> Option<String> {
        match self {
            Self::Starting => Some("it has not started yet: it waits for NATS, or prepares its streams".to_owned()),
            Self::Running => None,
            Self::Ending => Some("it was told to end".to_owned()),
        }
    }
}

/// Everything that a process shows.
pub struct Board {
    registry: Mutex<Registry>,
    parts: Mutex<Vec<Arc<dyn Part>>>,
    phase: Mutex<Phase>,
    checks: Family<CheckLabels, Gauge>,
}

impl Board {
    /// The board of a process that is about to start, and whose program has this `version`.
    pub fn new(version: &str) -> Arc<Self> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register("build", "The program's version", Info::new([("version", version.to_owned())]));
        let checks = Family::default();
        registry.register("check", "Whether a health check passes: 1, or 0", Family::clone(&checks));
        Arc::new(Self {
            registry: Mutex::new(registry),
            parts: Mutex::default(),
            phase: Mutex::new(Phase::Starting),
            checks,
        })
    }

    /// Lets a part declare its metrics.
    pub fn register<T>(&self, declare: impl FnOnce(&mut Registry) -> T) -> T {
        declare(&mut lock(&self.registry))
    }

    /// Shows `part` from now on.
    pub fn show(&self, part: Arc<dyn Part>) {
        lock(&self.parts).push(part);
    }

    /// The process has come to `phase`.
    pub fn enter(&self, phase: Phase) {
        *lock(&self.phase) = phase;
    }

    fn parts(&self) -> Vec<Arc<dyn Part>> {
        lock(&self.parts).clone()
    }

    fn checks(&self) -> Vec<Check> {
        let own = Check::new("phase", "process", Probe::Readiness, lock(&self.phase).failure());
        let of_parts = self.parts().into_iter().flat_map(|part| part.checks());
        std::iter::once(own).chain(of_parts).collect()
    }

    /// The health of the process, as `/healthz` or `/readyz` asks.
    pub fn health(&self, asked: Probe) -> Health {
        Health::of(self.checks(), asked)
    }

    /// All metrics, as Prometheus reads them.
    ///
    /// # Panics
    /// Never: text is written into memory.
    pub fn text(&self) -> String {
        self.parts().iter().for_each(|part| part.observe());
        for Check { check, part, probe, ok, .. } in self.checks() {
            let labels = [("check", check.to_owned()), ("part", part), ("probe", probe.as_str().to_owned())];
            self.checks.get_or_create(&labels).set(i64::from(ok));
        }
        let mut text = String::new();
        encode(&mut text, &lock(&self.registry)).expect("a string takes every text");
        text
    }
}

/// Every change is one call, so a poisoned lock is safe to use.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Away;

    impl Part for Away {
        fn checks(&self) -> Vec<Check> {
            vec![Check::new("nats", "worker w1", Probe::Readiness, Some("away".to_owned()))]
        }
    }

    #[test]
    fn a_process_is_ready_when_it_runs_and_its_parts_are() {
        let board = Board::new("1.2.3");
        assert!(!board.health(Probe::Readiness).ok && board.health(Probe::Liveness).ok, "it starts");
        board.enter(Phase::Running);
        assert!(board.health(Probe::Readiness).ok);
        board.show(Arc::new(Away));
        assert!(!board.health(Probe::Readiness).ok);
        let text = board.text();
        assert!(text.contains("holdfast_build_info{version=\"1.2.3\"} 1\n"), "{text}");
        assert!(text.contains("holdfast_check{check=\"nats\",part=\"worker w1\",probe=\"readiness\"} 0\n"), "{text}");
        assert!(text.contains("holdfast_check{check=\"phase\",part=\"process\",probe=\"readiness\"} 1\n"), "{text}");
    }
}
