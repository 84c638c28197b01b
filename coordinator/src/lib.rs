//! The coordinator: stateless, many, interchangeable. It answers `session`, `lock`, `admin` and `worker` requests, passes
//! `doc` requests to the session's agent, places and moves sessions, and turns what was committed into signals.
//!
//! Data flows `endpoint` → `handle` → `decide` (and `protocol::lock`) → `records` → `agent` and back once; beside it run
//! `registry` (who seems alive), `relay` (signals) and `sweep` (sessions of lost workers).
//!
//! Invariant: nothing here is truth. A coordinator may be killed at any moment and another asked the same question; what
//! decides is the compare-and-set on the session's record.

mod admission;
mod agent;
mod answer;
mod cache;
mod call;
mod change;
mod config;
mod coordinator;
mod countdown;
mod decide;
mod endpoint;
mod error;
mod explain;
#[cfg(test)]
mod fixture;
mod grants;
mod handle;
mod hub;
mod leave;
mod micro;
mod past;
mod place;
mod placement;
mod records;
mod registry;
mod relay;
mod route;
mod sweep;
mod waiters;

pub use config::Config;
pub use coordinator::Coordinator;
pub use error::StartError;
