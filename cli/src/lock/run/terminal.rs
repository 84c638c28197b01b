//! Gives the terminal to the command's process group, and takes it back.
//!
//! Only the foreground group of a terminal may read from it and gets its Ctrl-C. The command has a group of its own, so
//! it must become the foreground group, if this process is in it.

use std::io::{self, IsTerminal};

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, getpgrp};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The terminal, given away. Dropping it takes it back.
pub(super) struct Terminal(());

impl Terminal {
    /// Gives the terminal of standard input to `group`; `None` when there is none, or when it is not ours to give.
    pub(super) fn give(group: Pid) -> Option<Self> {
        let input = io::stdin();
        if !input.is_terminal() || tcgetpgrp(&input) != Ok(getpgrp()) {
            return None;
        }
        match tcsetpgrp(&input, group) {
            Ok(()) => Some(Self(())),
            Err(error) => {
                tracing::debug!(%error, "the command does not get the terminal");
                None
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A background group that sets the foreground group gets SIGTTOU, which would stop this process.
        let taking = std::thread::spawn(|| {
            let mut stop = SigSet::empty();
            stop.add(Signal::SIGTTOU);
            stop.thread_block().map_err(io::Error::from)?;
            tcsetpgrp(io::stdin(), getpgrp()).map_err(io::Error::from)
        });
        if let Ok(Err(error)) = taking.join() {
            tracing::debug!(%error, "the terminal cannot be taken back");
        }
    }
}
