//! Logs, on standard error: standard output is for replies.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// The filter without `RUST_LOG`. A filter matches the beginning of a target, so `holdfast` selects all of our crates,
/// and the audit log too. `up` runs a coordinator, so it shows the audit log as well.
fn usual(is_daemon: bool) -> &'static str {
    if is_daemon { "warn,holdfast=info" } else { "warn,holdfast_audit=info" }
}

/// Starts logging at the levels of `RUST_LOG`. By default warnings and the audit log, and for a daemon also Holdfast's
/// information.
pub(crate) fn start(is_daemon: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual(is_daemon)));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// The lines that the usual filter lets through.
    fn shown(is_daemon: bool) -> String {
        let lines: Arc<Mutex<Vec<u8>>> = Arc::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || Kept(writer.clone()));
        let filtered = tracing_subscriber::registry().with(EnvFilter::new(usual(is_daemon))).with(layer);
        tracing::subscriber::with_default(filtered, || {
            tracing::info!(target: "holdfast_audit", "audited");
            tracing::info!(target: "holdfast_coordinator::sweep", "of a coordinator");
        });
        let kept = lines.lock().unwrap().clone();
        String::from_utf8(kept).unwrap()
    }

    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn audit_lines_are_shown_by_every_command_and_other_information_by_daemons() {
        let (of_daemon, of_up) = (shown(true), shown(false));
        assert!(of_daemon.contains("audited") && of_daemon.contains("of a coordinator"), "{of_daemon}");
        assert!(of_up.contains("audited") && !of_up.contains("of a coordinator"), "{of_up}");
    }
}
