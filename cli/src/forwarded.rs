//! Signals that this process passes to a program that it runs, in place of ending itself.

use anyhow::Context;
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

use crate::exit::Failure;

/// Listens to signals for this process. They do not end it.
pub(crate) struct Forwarded {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
    quit: unix::Signal,
}

/// A signal that arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived(pub(crate) Signal);

impl Arrived {
    /// The exit status of a program that it ends.
    pub(crate) fn status(self) -> u8 {
        u8::try_from(128 + self.0.as_raw()).unwrap_or(u8::MAX)
    }
}

impl Forwarded {
    /// Starts to listen.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// The next signal. Nothing is lost when this is cancelled.
    pub(crate) async fn next(&mut self) -> Arrived {
        tokio::select! {
            _ = self.interrupt.recv() => Arrived(Signal::INT),
            _ = self.terminate.recv() => Arrived(Signal::TERM),
            _ = self.hangup.recv() => Arrived(Signal::HUP),
            _ = self.quit.recv() => Arrived(Signal::QUIT),
        }
    }
}
