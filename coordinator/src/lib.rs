//! The coordinator: stateless, many, interchangeable. It answers `session`, `lock`, `admin` and `worker` requests,
//! passes `doc` requests to the session's agent, places and moves sessions, and turns what was committed into signals.
//!
//! Data flows `endpoint` → `verb` → the record loop of the crate `records`, for which `writer` speaks, with a rule of
//! the crate `rules` → `link` (to the session's agent) and back once; beside it run `fleet` (which workers seem alive),
//! `relay` (signals) and `sweep` (sessions of lost workers).
//!
//! Invariant: nothing here is truth. A coordinator may be killed at any moment and another asked the same question;
//! what decides is the compare-and-set on the session's record.

mod acts;
mod admission;
mod asker;
mod audit;
mod cache;
mod config;
mod context;
mod control;
mod coordinator;
mod copies;
mod countdown;
mod endpoint;
mod error;
mod explain;
#[cfg(test)]
mod fixture;
mod fleet;
mod grants;
mod health;
mod keep;
mod leave;
mod lines;
mod link;
mod meters;
mod micro;
mod operation;
mod pasts;
mod place;
mod records;
mod relay;
mod response;
mod revoke;
mod route;
mod secrets;
mod sweep;
mod verb;
mod waiters;
mod writer;

pub use config::Config;
pub use coordinator::Coordinator;
pub use error::StartError;
pub use meters::Meters;
