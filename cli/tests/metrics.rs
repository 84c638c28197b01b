//! What daemons show with `--metrics`, and what `holdfast health` says of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use holdfast_meters::{Board, Check, Part, Phase, Probe, ask, serve};
use holdfast_tests::wait::until_ok;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A process in a folder of its own. Killed when dropped.
struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
    metrics: String,
}

fn holdfast(folder: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for name in ["NATS_URL", "NATS_CONTEXT", "RUST_LOG", "HOLDFAST_METRICS"] {
        command.env_remove(name);
    }
    command.current_dir(folder).args(arguments);
    command
}

impl Daemon {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metrics = format!("127.0.0.1:{}", free_port());
        let file = |name| std::fs::File::create(folder.path().join(name)).unwrap();
        let child = holdfast(folder.path(), &[arguments, &["--metrics", &metrics]].concat())
            .stdout(file("out"))
            .stderr(file("err"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, folder, metrics }
    }

    async fn up(arguments: &[&str]) -> Self {
        let port = free_port().to_string();
        let up = Self::start(&[&["up", "--port", &port], arguments].concat());
        up.becomes("/readyz", 200).await;
        up
    }

    /// Waits until it answers `path` with this status of HTTP. Returns the body.
    async fn becomes(&self, path: &str, status: u16) -> String {
        until_ok(&format!("{path} to answer {status}"), SOON, async || match ask(&self.metrics, path, SOON).await {
            Ok((found, body)) if found == status => Ok(body),
            Ok((found, body)) => Err(format!("{found}: {body}")),
            Err(error) => Err(format!("{error}: {}", std::fs::read_to_string(self.folder.path().join("err")).unwrap())),
        })
        .await
    }

    async fn text(&self) -> String {
        self.becomes("/metrics", 200).await
    }

    /// The value of each series now.
    async fn series(&self) -> BTreeMap<String, f64> {
        let text = self.text().await;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap())).unwrap())
            .collect()
    }

    /// Waits until a series has at least this value.
    async fn shows_at_least(&self, series: &str, value: f64) {
        until_ok(&format!("{series} to be {value} or more"), SOON, async || match self.series().await.get(series) {
            Some(found) if *found >= value => Ok(()),
            found => Err(format!("it is {found:?}")),
        })
        .await;
    }

    /// Waits until a series has this value.
    async fn shows(&self, series: &str, value: f64) {
        until_ok(&format!("{series} to be {value}"), SOON, async || match self.series().await.get(series) {
            Some(found) if *found == value => Ok(()),
            found => Err(format!("it is {found:?}")),
        })
        .await;
    }

    /// Runs a command as an operator in its folder.
    fn run(&self, arguments: &[&str]) -> Output {
        holdfast(self.folder.path(), arguments).output().unwrap()
    }

    fn health(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(&[&["health", "--address", &self.metrics], arguments].concat());
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    fn signal(pid: u32, signal: &str) {
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    }

    fn nats_server(&self) -> u32 {
        let pid = std::fs::read_to_string(self.folder.path().join(".holdfast/nats/nats-server.pid")).unwrap();
        pid.trim().parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // In order, so that its nats-server ends too.
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().ok();
        for _ in 0..100 {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn requests_conflicts_and_frames_are_counted() {
    let up = Daemon::up(&["--workers", "2"]).await;
    for id in ["s1", "s2", "s3"] {
        assert!(up.run(&["session", "open", id]).status.success());
    }
    assert!(up.run(&["lock", "acquire", "s1", "--owner", "ann"]).status.success());
    assert_eq!(up.run(&["lock", "acquire", "s1", "--owner", "bob"]).status.code(), Some(3));
    assert_eq!(up.run(&["lock", "acquire", "s1", "--owner", "cid"]).status.code(), Some(3));
    let series = up.series().await;
    let value = |name: &str| *series.get(name).unwrap_or_else(|| panic!("{name} is not among {series:#?}"));
    assert_eq!(value(r#"holdfast_requests_total{verb="session.open",outcome="done"}"#), 3.0);
    assert_eq!(value(r#"holdfast_requests_total{verb="lock.acquire",outcome="done"}"#), 1.0);
    assert_eq!(value(r#"holdfast_requests_total{verb="lock.acquire",outcome="lock_held"}"#), 2.0);
    assert_eq!(value(r#"holdfast_requests_total{verb="doc.edit",outcome="done"}"#), 0.0);
    assert_eq!(value(r#"holdfast_request_duration_seconds_count{verb="lock.acquire"}"#), 3.0);
    assert_eq!(value(r#"holdfast_conflicts_total{reason="lock_held"}"#), 2.0);
    assert_eq!(value(r#"holdfast_placements_total{cause="opened"}"#), 3.0);
    assert_eq!(value(r#"holdfast_placements_total{cause="failover"}"#), 0.0);
    assert_eq!(value(r#"holdfast_nats_connected{part="coordinator"}"#), 1.0);
    assert_eq!(value(r#"holdfast_nats_reconnects_total{part="workers"}"#), 0.0);
    let of_both = |name: &str, labels: &str| -> f64 {
        ["w1", "w2"].iter().map(|worker| value(&format!("{name}{{worker=\"{worker}\"{labels}}}"))).sum()
    };
    assert_eq!(of_both("holdfast_worker_sessions", r#",stage="serving""#), 3.0);
    assert_eq!(of_both("holdfast_worker_activations_total", r#",cause="opened""#), 3.0);
    assert!(of_both("holdfast_worker_lease_age_seconds", "") < 20.0);
    up.shows(r#"holdfast_workers{state="ready"}"#, 2.0).await;
    up.shows("holdfast_relay_lag_messages", 0.0).await;
    up.shows("holdfast_relay_active", 1.0).await;
    // At least one signal for each session and one for the lock; conflicts are no commits.
    up.shows_at_least("holdfast_relay_signals_total", 4.0).await;
    up.shows(r#"holdfast_worker_workspace_usable{worker="w1",workspace="main"}"#, 1.0).await;

    let (before, edits) = (up.series().await, 5);
    let of = |series: &BTreeMap<String, f64>, name: &str, labels: &str| -> f64 {
        ["w1", "w2"].iter().map(|worker| series[&format!("{name}{{worker=\"{worker}\"{labels}}}")]).sum()
    };
    for n in 0..edits {
        let text = format!("text {n}");
        assert!(up.run(&["doc", "edit", "s2", "--body", &text]).status.success());
    }
    let after = up.series().await;
    let grown = |name: &str, labels: &str| of(&after, name, labels) - of(&before, name, labels);
    assert_eq!(grown("holdfast_worker_frames_total", r#",outcome="accepted""#), f64::from(edits));
    assert_eq!(grown("holdfast_worker_frame_changes_sum", ""), f64::from(edits));
    assert_eq!(grown("holdfast_worker_commit_duration_seconds_count", ""), f64::from(edits));
    assert_eq!(after[r#"holdfast_requests_total{verb="doc.edit",outcome="done"}"#], f64::from(edits));
}

#[tokio::test]
async fn a_daemon_without_nats_is_alive_and_not_ready_and_says_why() {
    let nowhere = format!("nats://127.0.0.1:{}", free_port());
    let coordinator = Daemon::start(&["coordinator", "--nats", &nowhere]);
    let body = coordinator.becomes("/readyz", 503).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["ok"], &body["checks"][0]["check"]), (&Value::Bool(false), &"phase".into()), "{body}");
    assert_eq!(coordinator.health(&[]), (Some(0), "healthy\n".to_owned()));
    let (status, said) = coordinator.health(&["--ready"]);
    assert!(status == Some(1) && said.contains("phase of process: it has not started yet"), "{status:?} {said}");

    let nobody =
        holdfast(coordinator.folder.path(), &["health", "--address", &free_port().to_string()]).output().unwrap();
    let said = String::from_utf8(nobody.stderr).unwrap();
    assert!(nobody.status.code() == Some(1) && said.contains("nothing answers there"), "{said}");
    let unsaid = coordinator.run(&["health"]);
    assert_eq!(unsaid.status.code(), Some(2), "{unsaid:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_ends_the_daemon_at_once() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    for daemon in ["up", "coordinator", "worker"] {
        let output = holdfast(folder.path(), &[daemon, "--metrics", &address]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(1) && said.contains(&format!("cannot serve metrics on {address}")),
            "{said}"
        );
    }
}

/// Readiness and metrics while nats-server stands still, and after it is back.
#[tokio::test]
async fn a_daemon_whose_nats_stands_still_loses_its_lease_and_answers_all_the_same() {
    let up = Daemon::up(&[]).await;
    Daemon::signal(up.nats_server(), "-STOP");
    let reason = until_ok("the lease to be lost", SOON, async || {
        let (status, said) = up.health(&["--ready"]);
        if status == Some(1) && said.contains("lease of worker w1") { Ok(said) } else { Err(said) }
    })
    .await;
    assert!(reason.contains("coordinators may give its sessions away"), "{reason}");
    assert_eq!(up.health(&[]).0, Some(0), "a restart would not help");
    let series = up.series().await;
    assert!(series[r#"holdfast_worker_lease_age_seconds{worker="w1"}"#] >= 10.0, "{series:?}");
    assert_eq!(series[r#"holdfast_check{check="lease",part="worker w1",probe="readiness"}"#], 0.0);
    Daemon::signal(up.nats_server(), "-CONT");
    up.becomes("/readyz", 200).await;
    assert!(up.series().await[r#"holdfast_worker_lease_age_seconds{worker="w1"}"#] < 10.0);
}

#[tokio::test]
async fn a_workspace_that_is_gone_makes_its_worker_unready() {
    let up = Daemon::up(&[]).await;
    let workspace = up.folder.path().join(".holdfast/workspace");
    std::fs::rename(&workspace, up.folder.path().join("elsewhere")).unwrap();
    let body = up.becomes("/readyz", 503).await;
    assert!(body.contains("workspaces") && body.contains("is not at"), "{body}");
    up.shows(r#"holdfast_worker_workspace_usable{worker="w1",workspace="main"}"#, 0.0).await;
    std::fs::rename(up.folder.path().join("elsewhere"), &workspace).unwrap();
    up.becomes("/readyz", 200).await;
}

/// A worker with a session that hangs.
struct Stuck;

impl Part for Stuck {
    fn checks(&self) -> Vec<Check> {
        vec![Check::new("sessions", "worker w1", Probe::Liveness, Some("s1 hangs".to_owned()))]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_with_a_session_that_hangs_is_neither_healthy_nor_ready() {
    let board = Board::new("1");
    let serving = serve("127.0.0.1:0", board.clone()).await.unwrap();
    let (address, folder) = (serving.address().to_string(), tempfile::tempdir().unwrap());
    let asked = [("/healthz", vec!["health"]), ("/readyz", vec!["health", "--ready"])];
    let answers = async |path: &str, arguments: &[&str]| {
        let output = holdfast(folder.path(), &[arguments, &["--address", &address]].concat()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (ask(&address, path, SOON).await.unwrap().0, output.status.code(), said)
    };
    board.enter(Phase::Running);
    for (path, arguments) in &asked {
        assert_eq!(answers(path, arguments).await, (200, Some(0), String::new()), "{path}");
    }
    board.show(Arc::new(Stuck));
    for (path, arguments) in &asked {
        let (status, code, said) = answers(path, arguments).await;
        assert_eq!((status, code), (503, Some(1)), "{path}: {said}");
        assert!(said.contains("sessions of worker w1: s1 hangs"), "{said}");
    }
    serving.stop().await;
}

/// The rows of the table of metrics in `docs/metrics.md`: name, type, labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
    let words = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let rows = page.lines().filter(|line| line.starts_with("| `holdfast_"));
    let row = |row: &str| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, ..] = cells[..] else { panic!("{row}") };
        (words(name)[0].clone(), (kind.to_owned(), words(labels).into_iter().collect()))
    };
    rows.map(row).collect()
}

/// What is served: the metrics by name, with their types and the labels of their samples.
fn served(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut found: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            let tail = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            family = format!("{name}{tail}");
            found.insert(family.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let (labels, _) = labels.rsplit_once('}').unwrap();
            let names = labels.split("\",").map(|label| label.split('=').next().unwrap().to_owned());
            found.get_mut(&family).unwrap().1.extend(names.filter(|name| name != "le"));
        }
    }
    found
}

#[tokio::test]
async fn the_documentation_lists_exactly_what_is_served() {
    let up = Daemon::up(&[]).await;
    up.shows(r#"holdfast_worker_workspace_usable{worker="w1",workspace="main"}"#, 1.0).await;
    assert!(up.run(&["session", "open", "s1"]).status.success());
    let (served, documented) = (served(&up.text().await), documented());
    for (name, row) in &served {
        assert_eq!(documented.get(name), Some(row), "{name} in docs/metrics.md");
    }
    assert_eq!(documented.keys().collect::<Vec<_>>(), served.keys().collect::<Vec<_>>());
}
