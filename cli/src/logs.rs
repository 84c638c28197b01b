//! Logs, on standard error: standard output is for replies.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts logging at the levels of `RUST_LOG`. By default warnings, and for a daemon also Holdfast's information.
pub(crate) fn start(is_daemon: bool) {
    // A filter matches the beginning of a target, so `holdfast` selects all of our crates.
    let usual = if is_daemon { "warn,holdfast=info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
