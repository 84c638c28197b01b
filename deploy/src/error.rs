//! Why a nats-server did not start.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why a nats-server did not start. None is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Choose another port, or stop the process that listens there.
    #[error("port {port} is taken")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// No port between 20000 and 30000 is free.
    #[error("no port is free")]
    NoFreePort,
    /// Stop the other server, or choose another folder.
    #[error("the data folder {} is in use by a running nats-server{}", data.display(), with_pid(*pid))]
    DataInUse {
        /// The folder.
        data: PathBuf,
        /// The process id of the server, if it has written it down.
        pid: Option<u32>,
    },
    /// The server ended while it was starting; its log says why.
    #[error("nats-server ended at once ({status}); the end of {} is:\n{last_lines}", log.display())]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The log file.
        log: PathBuf,
        /// The last lines of the log.
        last_lines: String,
    },
    /// The server runs but does not take connections, and was stopped again.
    #[error("nats-server was not ready in time; the end of {} is:\n{last_lines}", log.display())]
    NotReady {
        /// The log file.
        log: PathBuf,
        /// The last lines of the log.
        last_lines: String,
    },
    /// A step before the start failed.
    #[error("cannot {doing}")]
    Io {
        /// The step, as in "create .holdfast".
        doing: String,
        /// What the operating system says.
        source: io::Error,
    },
}

impl StartError {
    pub(crate) fn io(verb: &str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing: format!("{verb} {}", path.display()), source }
    }
}

fn with_pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}
