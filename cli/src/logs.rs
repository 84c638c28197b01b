//! Logs, on standard error: standard output is for replies.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` says what; else warnings, and of the parts of Holdfast that run on also what they do.
pub(crate) fn start(is_daemon: bool) {
    // `holdfast` stands for all our crates: a filter matches the beginning of a target.
    let usual = if is_daemon { "warn,holdfast=info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
