//! Log lines of the parts under test: shown at the levels of `RUST_LOG`, kept for tests that search them, and all
//! looked at for secrets (`secrets`).

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterFn, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

mod secrets;

pub use secrets::{BODY, never_log, secret_in};

static IS_KEPT: AtomicBool = AtomicBool::new(false);
static KEPT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Starts logging, once per process.
pub fn begin() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| "error".to_owned());
        let wanted: Targets = wanted.parse().expect("RUST_LOG is a level, or target=level with commas between them");
        let shown = fmt::layer().with_test_writer().with_filter(wanted);
        let ours = |target: &str| target.starts_with("holdfast");
        let of_ours = FilterFn::new(move |line| IS_KEPT.load(Ordering::Relaxed) && ours(line.target()));
        let kept = fmt::layer().with_ansi(false).with_writer(|| Keeper).with_filter(of_ours);
        // The programs show none of the lines with which the client library logs whole messages (`cli/src/logs.rs`).
        let is_message =
            |line: &Metadata<'_>| line.target() == "async_nats::connection" && *line.level() == Level::TRACE;
        let scanned =
            secrets::is_on().then(|| secrets::Scanner.with_filter(FilterFn::new(move |line| !is_message(line))));
        tracing_subscriber::registry().with(shown).with(kept).with(scanned).init();
    });
}

/// Keeps all lines of our own crates from now on, at every level and from every test of this process.
pub fn keep() {
    begin();
    IS_KEPT.store(true, Ordering::Relaxed);
    // Call sites that were disabled before must be evaluated again.
    tracing::callsite::rebuild_interest_cache();
}

/// The lines that were kept so far.
pub fn kept() -> String {
    String::from_utf8_lossy(&KEPT.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

struct Keeper;

impl Write for Keeper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
