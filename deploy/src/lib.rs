//! Finds, installs and runs a nats-server for `holdfast up` and for the tests.
//!
//! [`Finder`] finds the executable, and [`Server`] runs it on loopback with the settings of [`Conf`]. A server never
//! outlives the process that started it, however that process ends (see `lifeline.rs`).
//!
//! Deliberately absent: clusters, which only tests start, and everything that is about Holdfast's streams. What is
//! stored in a server is the business of the crate `store`. Existing servers are named by their URL.

mod conf;
mod credentials;
mod data;
mod error;
mod find;
mod install;
mod lifeline;
mod port;
mod server;
mod version;

pub use conf::{Conf, SERVER_CONF};
pub use credentials::{Credentials, Existing, ROUTE_VARIABLE, Role, write_private};
pub use error::StartError;
pub use find::{Binary, FindError, Finder, NATS_SERVER_VARIABLE, Source};
pub use install::InstallError;
pub use lifeline::{Lifeline, spawn as spawn_tied};
pub use port::free_port;
pub use server::{KILL_TIME, Server, ServerOptions};
pub use version::{INSTALLED, MINIMUM, Version, VersionError, version_of};

/// Receives progress messages, one line at a time, without a line end.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);
