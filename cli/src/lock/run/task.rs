//! The command that `lock run` runs: its process group, and the end of it.
//!
//! ```text
//!  this process ──(write end of a pipe)──▶ sh, the leader of the group, waits for the end of the pipe
//!       │ parent of                          │ same group
//!       └───────────────▶ command ◀──────────┘
//! ```
//!
//! Invariant: the group ends with this process, even if that is killed by SIGKILL: then the kernel closes the pipe, and
//! the shell ends the group. The shell is there before the command, so there is no moment without it. The group's id is
//! the shell's process id. It belongs to no other process while the shell is not waited for, so signals to the group
//! reach nobody else.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use holdfast_client::protocol::Namespace;
use holdfast_client::protocol::reply::Grant;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, wait, waitpgid};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::terminal::Terminal;
use crate::exit::Failure;
use crate::forwarded::Arrived;
use crate::output;

/// Given: how many tenths of a second the group may take to end. A line from the pipe means that the command has ended
/// already; the end of the pipe means that our process has.
const WATCH: &str = r#"
trap '' HUP INT QUIT TERM TSTP TTIN TTOU USR1 USR2 ALRM
read -r _ && exit
kill -s TERM -- -$$
kill -s CONT -- -$$
waited=0
while [ $waited -lt "$1" ]; do
  sleep 0.1
  waited=$((waited + 1))
done
kill -s KILL -- -$$
"#;
/// How often is checked whether the group is empty.
const POLL: Duration = Duration::from_millis(10);
/// How long the kernel may take to end a killed process.
const KILLED: Duration = Duration::from_secs(1);
/// Exit status of a shell whose command cannot be run, and whose command does not exist.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// What the command learns of its lock.
pub(super) struct Environment([(&'static str, String); 5]);

impl Environment {
    pub(super) fn of(grant: &Grant, namespace: &Namespace) -> Self {
        Self([
            ("HOLDFAST_FENCE", grant.fence.to_string()),
            ("HOLDFAST_TOKEN", grant.lock_token.to_string()),
            ("HOLDFAST_SESSION", grant.session_id.to_string()),
            ("HOLDFAST_NAMESPACE", namespace.to_string()),
            ("HOLDFAST_LOCK_REVISION", grant.lock_revision.to_string()),
        ])
    }
}

/// The running command.
pub(super) struct Task {
    group: Pid,
    watcher: Child,
    pipe: ChildStdin,
    ended: watch::Receiver<Option<ExitStatus>>,
    terminal: Option<Terminal>,
}

impl Task {
    /// Starts `command`. `grace` is how long it may take to end if this process is killed.
    ///
    /// # Errors
    /// Status 127 when there is no such command, 126 when it cannot be run.
    pub(super) fn start(command: &[OsString], environment: Environment, grace: Duration) -> Result<Self, Failure> {
        let (program, arguments) = command.split_first().expect("the command line requires a command");
        adopt_orphans();
        let mut watcher = watch(grace).context("cannot start sh")?;
        let pipe = watcher.stdin.take().expect("standard input was asked to be piped");
        let group = pid(&watcher);
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.0)
            .process_group(group.as_raw_pid())
            .spawn()
            .map_err(|error| {
                kill_group(group, Signal::KILL);
                watcher.wait().ok();
                output::note(&format!("holdfast: cannot run {}: {error}", program.display()));
                Failure::Status(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN })
            })?;
        let terminal = Terminal::give(group);
        if terminal.is_some() {
            // It may have tried to read before the terminal was its own.
            kill_group(group, Signal::CONT);
        }
        Ok(Self { group, watcher, pipe, ended: wait_for(pid(&child), group), terminal })
    }

    /// Returns when the command itself has ended. May be cancelled.
    pub(super) async fn has_ended(&mut self) {
        // The thread that waits sends the status before it ends.
        self.ended.wait_for(Option::is_some).await.ok();
    }

    /// Passes a signal to the group.
    pub(super) fn signal(&self, signal: Arrived) {
        kill_group(self.group, signal.0);
    }

    /// Ends the group: SIGTERM, and after `grace` SIGKILL. Returns the exit status of the command, as a shell shows it.
    pub(super) async fn end(mut self, grace: Duration) -> u8 {
        let deadline = Instant::now() + grace;
        kill_group(self.group, Signal::TERM);
        kill_group(self.group, Signal::CONT);
        if timeout_at(deadline, self.has_ended()).await.is_err() {
            kill_group(self.group, Signal::KILL);
            if timeout_at(Instant::now() + KILLED, self.has_ended()).await.is_err() {
                output::note("holdfast: the command does not end after SIGKILL");
            }
        }
        let status = (*self.ended.borrow()).map_or(CANNOT_RUN, shell_status);
        self.end_rest(deadline).await;
        status
    }

    /// Ends what the command left in its group. From the first wait on, the group's id is reserved by its members only;
    /// the ids of processes are not used again within a few milliseconds.
    async fn end_rest(mut self, deadline: Instant) {
        if let Err(error) = self.pipe.write_all(b"\n") {
            // It was killed with its group.
            tracing::debug!(%error, "the shell that watches the command is gone");
        }
        self.watcher.wait().ok();
        drop(self.terminal.take());
        while has_members(self.group) {
            if Instant::now() >= deadline {
                kill_group(self.group, Signal::KILL);
            }
            if Instant::now() >= deadline + KILLED {
                output::note("holdfast: a process of the command does not end after SIGKILL");
                return;
            }
            sleep(POLL).await;
        }
    }
}

/// Starts the shell that ends the group if this process is gone.
fn watch(grace: Duration) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", WATCH, "holdfast-watch"])
        .arg((grace.as_millis() / 100).to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// Waits for the command in a thread of its own, so that it is noticed when the terminal stops it. Waits for all others
/// too, since this process is the parent of all whose parent has ended.
fn wait_for(child: Pid, group: Pid) -> watch::Receiver<Option<ExitStatus>> {
    let (sender, receiver) = watch::channel(None);
    std::thread::spawn(move || {
        loop {
            match wait(WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) if pid == child => {
                    if status.exited() || status.signaled() {
                        sender.send(Some(ExitStatus::from_raw(status.as_raw()))).ok();
                        return;
                    }
                    // Nobody else could continue it: for the shell in front of the terminal, the job is this process.
                    if status.stopping_signal() == Some(Signal::TSTP.as_raw()) {
                        output::note("holdfast: a command under a lock cannot be suspended");
                        kill_group(group, Signal::CONT);
                    }
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for the command");
                    return;
                }
            }
        }
    });
    receiver
}

/// Makes this process the parent of what the command leaves. Whoever ended stays in its group until its parent has
/// waited for it, and in many containers process 1 waits for nobody.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        tracing::debug!(%error, "what the command leaves stays with process 1");
    }
}

/// Whether anybody is in the group who has not ended. Waits for all who have.
fn has_members(group: Pid) -> bool {
    while let Ok(Some(_)) = waitpgid(group, WaitOptions::NOHANG) {}
    test_kill_process_group(group).is_ok()
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn kill_group(group: Pid, signal: Signal) {
    if let Err(error) = kill_process_group(group, signal) {
        tracing::debug!(%error, ?signal, "the process group is gone");
    }
}

/// The status that a shell shows: the command's own, or 128 and the signal that ended it.
fn shell_status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(CANNOT_RUN)
}
