//! How the processes of `holdfast` end: when they are told to, when what they need is away, and when a name is taken.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use holdfast_tests::wait::{until, until_ok};

const SOON: Duration = Duration::from_secs(30);
/// What the parts of these tests are given, and what a busy machine may take on top.
const GRACE: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(1);

fn holdfast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    // What the environment of the test says about NATS is not for these.
    command.env_remove("NATS_URL").env_remove("NATS_CONTEXT").env_remove("RUST_LOG").args(arguments);
    command
}

/// A process with its output in files. Killed when dropped.
struct Process {
    child: Child,
    folder: tempfile::TempDir,
}

impl Process {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name| std::fs::File::create(folder.path().join(name)).unwrap();
        let child = holdfast(arguments).stdout(file("out")).stderr(file("err")).stdin(Stdio::null()).spawn().unwrap();
        Self { child, folder }
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    async fn says(&self, name: &str, what: &str) {
        until_ok(&format!("{what:?} to be said"), SOON, async || {
            let said = self.said(name);
            if said.contains(what) { Ok(()) } else { Err(said) }
        })
        .await;
    }

    fn signal(&self, signal: &str) {
        send(signal, self.child.id());
    }

    /// Waits for its end: how long that took, and its status.
    async fn end(&mut self) -> (Duration, Option<i32>) {
        let begun = Instant::now();
        let status = until("the process to end", SOON, async || self.child.try_wait().unwrap()).await;
        (begun.elapsed(), status.code())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn send(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success(), "kill {signal} {pid}");
}

/// A `holdfast up` with data of its own.
struct Up {
    process: Process,
    data: tempfile::TempDir,
    url: String,
}

impl Up {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let folder = data.path().to_str().unwrap();
        let process = Process::start(&["up", "--port", &port.to_string(), "--data", folder, "--grace", "3s"]);
        process.says("out", "Holdfast is up.").await;
        Self { process, data, url: format!("nats://127.0.0.1:{port}") }
    }

    fn nats_server(&self) -> u32 {
        let pid = std::fs::read_to_string(self.data.path().join("nats/nats-server.pid")).unwrap();
        pid.trim().parse().unwrap()
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        holdfast(&[&["--nats", &self.url], arguments].concat()).output().unwrap()
    }

    /// A part that connects to it.
    fn part(&self, arguments: &[&str]) -> Process {
        Process::start(&[&["--nats", &self.url], arguments].concat())
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn up_ends_within_its_grace_period_while_its_nats_server_stands_still() {
    let mut up = Up::start().await;
    assert!(up.ask(&["session", "open", "s1", "--body", "x"]).status.success());
    send("-STOP", up.nats_server());
    up.process.signal("-TERM");
    let (took, status) = up.process.end().await;
    assert!(took < GRACE + SLACK, "{took:?}");
    assert_eq!(status, Some(0));
    assert!(!Path::new(&format!("/proc/{}", up.nats_server())).exists(), "its nats-server is left");
}

#[tokio::test]
async fn up_says_at_once_how_its_nats_server_ended_and_fails() {
    let mut up = Up::start().await;
    send("-KILL", up.nats_server());
    let (took, status) = up.process.end().await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(status, Some(1));
    let said = up.process.said("err");
    assert!(said.contains("nats-server ended (signal: 9 (SIGKILL))"), "{said}");
    assert!(said.contains("nats-server.log") && said.contains("Server is ready"), "{said}");
}

#[tokio::test]
async fn a_second_signal_ends_up_at_once() {
    let mut up = Up::start().await;
    let server = up.nats_server();
    send("-STOP", server);
    up.process.signal("-INT");
    up.process.says("err", "a second Ctrl-C ends at once").await;
    up.process.signal("-INT");
    let (took, status) = up.process.end().await;
    // It stands still, and nobody is left to end it.
    send("-KILL", server);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(status, Some(130));
}

#[tokio::test]
async fn a_worker_and_a_coordinator_end_within_their_grace_period_when_nats_is_gone() {
    let mut up = Up::start().await;
    let mut worker = up.part(&["worker", "--name", "w9", "--grace", "3s"]);
    let mut coordinator = up.part(&["coordinator", "--grace", "3s"]);
    worker.says("err", "the worker is up").await;
    coordinator.says("err", "the coordinator is up").await;
    send("-KILL", up.nats_server());
    assert_eq!(up.process.end().await.1, Some(1));
    worker.signal("-TERM");
    coordinator.signal("-INT");
    for process in [&mut worker, &mut coordinator] {
        let (took, status) = process.end().await;
        assert!(took < GRACE + SLACK && status == Some(0), "{took:?} {status:?}: {}", process.said("err"));
    }
}

#[tokio::test]
async fn a_worker_of_a_taken_name_does_not_start_unless_it_is_to_replace_the_other_one() {
    let up = Up::start().await;
    let mut first = up.part(&["worker", "--name", "w9", "--grace", "3s"]);
    first.says("err", "the worker is up").await;
    let mut second = up.part(&["worker", "--name", "w9"]);
    assert_eq!(second.end().await.1, Some(1));
    let said = second.said("err");
    assert!(said.contains("worker w9 runs already, as boot ") && said.contains("--replace"), "{said}");
    assert!(first.child.try_wait().unwrap().is_none(), "the first one goes on");

    let third = up.part(&["worker", "--name", "w9", "--replace"]);
    third.says("err", "the worker is up").await;
    let (took, status) = first.end().await;
    assert!(took < GRACE + SLACK + Duration::from_secs(2), "a renewal, and its grace period: {took:?}");
    assert_eq!(status, Some(1));
    assert!(first.said("err").contains("has taken the name w9"), "{}", first.said("err"));
}

#[tokio::test]
async fn a_second_up_on_the_same_data_says_who_has_it() {
    let up = Up::start().await;
    let output = holdfast(&["up", "--port", "14999", "--data", up.data.path().to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("in use by a running nats-server") && said.contains("--data"), "{said}");
}

#[tokio::test]
async fn no_command_takes_longer_than_its_timeout() {
    let up = Up::start().await;
    assert!(up.ask(&["session", "open", "s1"]).status.success());
    let begun = Instant::now();
    let output = up.ask(&["admin", "move", "s1", "--reason", "r"]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(begun.elapsed() < Duration::from_secs(2), "a final answer comes at once: {:?}", begun.elapsed());
    send("-STOP", up.nats_server());
    for command in [
        &["session", "get", "s1"][..],
        &["admin", "move", "s1", "--reason", "r"],
        &["admin", "reclaim", "--max-idle-ms", "0"],
        &["worker", "drain", "w1", "--reason", "r"],
    ] {
        let begun = Instant::now();
        let output = up.ask(&[&["--timeout", "1s"], command].concat());
        assert_eq!(output.status.code(), Some(5), "{command:?}: {}", text(&output));
        assert!(begun.elapsed() < Duration::from_secs(1) + SLACK, "{command:?}: {:?}", begun.elapsed());
    }
}
