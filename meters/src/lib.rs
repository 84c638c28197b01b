//! What a process shows of itself: its metrics, as Prometheus reads them, and whether it is healthy.
//!
//! A process has one [`Board`]. Coordinators and workers register their metrics there and count into handles that they
//! keep, so a request takes no lock of a map. Each part also shows a [`Part`]: values that are read only when somebody
//! looks, and [`Check`]s.
//!
//! Invariant: no label has a value that clients choose, such as a session id or a namespace, so the number of series is
//! bounded. Deliberately absent: which metrics there are; the parts that count them declare them.

mod board;
mod check;
mod http;
mod maybe;
mod scale;

pub use board::{Board, Part, Phase};
pub use check::{Check, Health, Probe};
pub use http::{AskError, Serving, ask, serve};
pub use maybe::MaybeGauge;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::{Family, MetricConstructor};
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::registry::{Registry, Unit};
pub use scale::{Scale, histograms};
