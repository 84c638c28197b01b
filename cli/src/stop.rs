//! Hears that the process shall end.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell shows for a program that ended by SIGINT.
const INTERRUPTED: i32 = 130;

/// Cancels `stop` at the first SIGINT or SIGTERM, and ends the process at the second. Returns when `ended` is cancelled.
pub(crate) async fn on_signals(stop: CancellationToken, ended: CancellationToken) {
    let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            // Signals then have their usual effect, which ends the process as well.
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
