//! Finds, installs and runs a nats-server for `holdfast up` and for the tests.
//!
//! [`Finder`] finds the executable, and [`Server`] runs it on loopback with our
//! `nats.conf`. A server never outlives the process that started it, however that process ends (see `lifeline.rs`).
//!
//! Deliberately absent: clusters, which only tests start, and everything that is about Holdfast's streams. What is
//! stored in a server is the business of the crate `store`. Existing servers are named by their URL.

mod data;
mod error;
mod find;
mod install;
mod lifeline;
mod port;
mod server;
mod version;

pub use error::StartError;
pub use find::{Binary, FindError, Finder, NATS_SERVER_VARIABLE, Source};
pub use install::InstallError;
pub use port::free_port;
pub use server::{KILL_TIME, Server, ServerOptions};
pub use version::{INSTALLED, MINIMUM, Version, VersionError, version_of};

/// The settings of every nats-server that Holdfast starts: the file `nats.conf` of the repository.
pub const NATS_CONF: &str = include_str!("../../nats.conf");

/// Receives progress messages, one line at a time, without a line end.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);
