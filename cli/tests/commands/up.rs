//! A `holdfast up` in a folder of its own, and commands in that folder.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use holdfast_tests::wait::until_ok;

/// How long anything may take that must happen.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A process that is killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, signal: &str) {
        send(signal, self.0.id());
    }

    /// Waits for its end, and returns its exit status.
    pub(crate) async fn status(&mut self) -> Option<i32> {
        until_ok("the process to end", SOON, async || self.0.try_wait().unwrap().ok_or("it runs")).await.code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(crate) fn send(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success(), "kill {signal} {pid}");
}

/// A fleet that is up.
pub(crate) struct Up {
    /// First, so that it ends before its folder is removed.
    _process: Process,
    pub(crate) folder: tempfile::TempDir,
}

impl Up {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port().to_string();
        let mut command = holdfast(folder.path(), &["up", "--port", &port, "--grace", "3s"]);
        let said = std::fs::File::create(folder.path().join("up.out")).unwrap();
        let errors = std::fs::File::create(folder.path().join("up.err")).unwrap();
        let process = Process(command.stdin(Stdio::null()).stdout(said).stderr(errors).spawn().unwrap());
        let up = Self { _process: process, folder };
        until_ok("the fleet to be up", SOON, async || {
            let said = up.read("up.out");
            if said.contains("Holdfast is up.") { Ok(()) } else { Err(said + &up.read("up.err")) }
        })
        .await;
        up
    }

    pub(crate) fn nats_server(&self) -> u32 {
        self.read(".holdfast/nats/nats-server.pid").trim().parse().unwrap()
    }

    /// A command in the folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        holdfast(self.folder.path(), arguments)
    }

    /// Runs a command that must succeed, and returns its output.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Starts a command.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Process {
        let mut command = self.command(arguments);
        let errors =
            std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("err")).unwrap();
        Process(command.stdin(Stdio::null()).stderr(errors).spawn().unwrap())
    }

    /// The content of a file in the folder; empty when there is none.
    pub(crate) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()
    }

    /// Waits until a file in the folder has a text.
    pub(crate) async fn has(&self, file: &str, text: &str) {
        until_ok(&format!("{file} to have {text:?}"), SOON, async || {
            let said = self.read(file);
            if said.contains(text) { Ok(()) } else { Err(format!("{said}{}", self.read("err"))) }
        })
        .await;
    }
}

fn holdfast(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    // What the environment of the test says about NATS is not for these.
    for name in ["NATS_URL", "NATS_CONTEXT", "NATS_USER", "NATS_PASSWORD", "RUST_LOG", "HOLDFAST_TOKEN"] {
        command.env_remove(name);
    }
    command.current_dir(folder).args(arguments);
    command
}
