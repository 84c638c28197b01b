//! Hosts session agents: one task and one bounded mailbox per session, a log with group commit, snapshots, passivation.
//!
//! Invariant: an agent answers a change only after the storage accepted its frame under the record's revision that the
//! agent knows; a save, after its intent was accepted so and its file is in its place. Losing ownership is an event,
//! and ends one agent without touching another.
//! Deliberately absent: deciding who owns a session. Coordinators do; an agent only gives its own session up.

mod answered;
mod claim;
pub mod config;
mod drain;
mod health;
mod inbox;
mod lease;
mod letter;
mod log;
pub mod machine;
mod mailbox;
mod meters;
mod micro;
mod pulse;
mod session;
mod status;
mod supervisor;
mod worker;

pub use config::{NameRule, WorkerConfig};
pub use holdfast_files::Workspace;
pub use meters::{Meters, WorkerMeters};
pub use session::doc as document;
pub use worker::{StartError, Worker};
