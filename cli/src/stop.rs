//! Handles the signals that end the process.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit status that a shell shows for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Cancels `stop` at the first SIGINT or SIGTERM, and ends the process at the second. Returns when `ended` is
/// cancelled.
pub(crate) async fn on_signals(stop: CancellationToken, ended: CancellationToken) {
    let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            // Without handlers the signals have their default effect, which ends the process too.
            tracing::warn!(%error, "cannot listen for signals");
            return;
        }
    };
    tokio::select! {
        () = either(&mut interrupt, &mut terminate) => stop.cancel(),
        () = ended.cancelled() => return,
    }
    tokio::select! {
        () = either(&mut interrupt, &mut terminate) => std::process::exit(INTERRUPTED),
        () = ended.cancelled() => {}
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
