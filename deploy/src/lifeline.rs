//! Starts a server, of NATS or any other, that cannot outlive this process, even if this process is killed with
//! SIGKILL.
//!
//! ```text
//!  this process ──(write end of a pipe)──▶ sh, waiting for the end of it
//!       │ parent of                          │ child of
//!       └───────────────▶ nats-server ◀──────┘
//! ```
//!
//! Only this process has the write end. When it ends, in whatever way, the kernel closes the pipe,
//! and the shell stops the server. `PR_SET_PDEATHSIG` is not used: it needs unsafe code, exists on Linux
//! only, and goes off when the *thread* ends that started the server.
//!
//! The shell knows the server's process id because it is forked from the process that becomes the server. A process id
//! can be reused once its process was waited for. So [`Lifeline::let_go`] ends the shell right after the wait, before
//! the id can belong to another process.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Given: standard input is the pipe, standard output the log, standard error the file that locks
/// the data folder. The server gets the lock file as its standard input, which it does not read: so the
/// folder stays locked for exactly as long as the server runs. A line from the pipe means that the
/// server is gone already; its end means that our process is.
const SCRIPT: &str = r#"
exec 3<&0
(
  exec >/dev/null 2>&1
  read -r _ <&3 && exit
  kill -TERM $$ && kill -CONT $$
  waited=0
  while kill -0 $$ && [ $waited -lt 20 ]; do
    sleep 0.1
    waited=$((waited + 1))
  done
  kill -KILL $$
) &
exec "$@" 3<&- 0<&2 2>&1
"#;

/// Our end of the pipe. Dropping it ends the server that hangs on it.
#[derive(Debug)]
pub struct Lifeline(ChildStdin);

impl Lifeline {
    /// Ends the shell. Call it as soon as the server was waited for.
    pub fn let_go(mut self) {
        if let Err(error) = self.0.write_all(b"\n") {
            // The shell is gone already.
            tracing::debug!(%error, "the shell that watches the server is gone");
        }
    }
}

/// Starts `command` so that it ends when this process ends. It writes to `log` and holds `lock`.
///
/// It gets its own process group: Ctrl-C in a terminal must only reach Holdfast, which ends its work before it stops
/// the server.
///
/// # Errors
/// When there is no `sh`, or no process can be created. A server that cannot be run appears as one that ends at once,
/// with the reason in its log.
pub fn spawn(command: &Command, log: File, lock: File) -> io::Result<(Child, Lifeline)> {
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT, "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(lock)
        .process_group(0)
        .spawn()?;
    let pipe = child.stdin.take().expect("standard input was asked to be piped");
    Ok((child, Lifeline(pipe)))
}
