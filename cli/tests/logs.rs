//! What processes of `holdfast` write to standard error.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_tests::wait::{until, until_ok};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

fn holdfast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for name in ["NATS_URL", "NATS_CONTEXT", "NATS_USER", "NATS_PASSWORD", "RUST_LOG", "HOLDFAST_LOG_FORMAT"] {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

/// A process that is killed when dropped, and what it wrote to standard error.
struct Process(Child, PathBuf);

impl Process {
    fn start(mut command: Command, log: PathBuf) -> Self {
        let file = File::create(&log).unwrap();
        Self(command.stdout(Stdio::null()).stderr(file).spawn().unwrap(), log)
    }

    async fn says(&self, what: &str) -> String {
        until_ok(&format!("{what:?} to be said"), SOON, async || {
            let said = std::fs::read_to_string(&self.1).unwrap();
            if said.contains(what) { Ok(said) } else { Err(said) }
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn lines_are_what_the_options_and_the_environment_say() {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let data = folder.path().join("data");
    let mut up = holdfast(&["up", "--port", &port, "--data"]);
    up.arg(&data).current_dir(folder.path());
    let _up = Process::start(up, folder.path().join("up"));
    let context = data.join("config/nats/context/coordinator.json");
    until("the context", SOON, async || context.exists().then_some(())).await;

    let mut coordinator = holdfast(&["--log-format", "json", "-v", "coordinator", "--context"]);
    coordinator.arg(&context).env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let coordinator = Process::start(coordinator, folder.path().join("coordinator"));
    let said = coordinator.says("the coordinator is up").await;
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["target"].is_string() && line["message"].is_string(), "{line}");
        assert!(line.as_object().unwrap().values().all(|value| !value.is_object()), "{line}");
    }
    let named = lines.iter().find(|line| line["message"] == "the coordinator is up").unwrap();
    assert!(named["server"].as_str().is_some_and(|server| server.contains(&port)), "{named}");
    if !cfg!(feature = "otlp") {
        let warned = lines.iter().filter(|line| line.to_string().contains("OTEL_EXPORTER_OTLP_ENDPOINT")).count();
        assert_eq!(warned, 1, "{said}");
    }

    let url = format!("nats://nobody:wrong@127.0.0.1:{port}");
    let denied = holdfast(&["--nats", &url, "session", "list"]).output().unwrap();
    let said = String::from_utf8(denied.stderr).unwrap();
    assert_eq!((denied.status.code(), said.lines().count()), (Some(2), 1), "one error message and no log line: {said}");
    assert!(said.starts_with("error: ") && !said.contains("wrong@"), "{said}");

    let malformed = holdfast(&["schema"]).env("RUST_LOG", "holdfast[request]=debug").output().unwrap();
    let said = String::from_utf8(malformed.stderr).unwrap();
    assert!(said.contains("WARN") && said.contains("holdfast[request]=debug"), "{said}");
}
