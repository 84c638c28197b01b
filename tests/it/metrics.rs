//! What coordinators and workers show of themselves.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use holdfast_meters::{Board, Check, Part, Phase, Probe};
use holdfast_protocol::id::KindName;
use holdfast_store::connect::ConnectOptions;
use holdfast_tests::fleet::{Fleet, SOON};
use holdfast_tests::server;
use holdfast_tests::stuck::StuckKind;
use holdfast_tests::wait::until_ok;
use holdfast_worker::WorkerMeters;
use serde_json::json;

const LOOK: Duration = Duration::from_millis(50);

fn failure(part: &Arc<dyn Part>, check: &str) -> Option<String> {
    part.checks().into_iter().find(|found| found.check == check).and_then(|found: Check| found.reason)
}

/// The value of a series.
fn value(board: &Board, series: &str) -> Option<f64> {
    board.text().lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

async fn fails(part: &Arc<dyn Part>, check: &str, with: &str) {
    until_ok(&format!("{check} to fail with {with:?}"), SOON, async || match failure(part, check) {
        Some(reason) if reason.contains(with) => Ok(()),
        found => Err(format!("{found:?}")),
    })
    .await;
}

async fn passes(part: &Arc<dyn Part>, check: &str) {
    until_ok(&format!("{check} to pass"), SOON, async || failure(part, check).map_or(Ok(()), Err)).await;
}

#[tokio::test]
async fn a_session_that_is_stuck_is_told_from_those_that_work() -> Result<()> {
    let server = server::shared().await?;
    let mut fleet = Fleet::empty(server.url()).await?;
    let board = Board::new("test");
    let meters = board.register(WorkerMeters::shown);
    fleet
        .add_worker_as(&ConnectOptions::to(server.url()), "w1", |config| {
            config.kinds.insert(KindName::parse("stuck").unwrap(), Arc::new(StuckKind));
            config.meters = meters.of(&config.name);
            config.patience = Duration::from_millis(300);
        })
        .await?;
    fleet.add_coordinator().await?;
    let worker = fleet.take_worker("w1");
    let part = worker.part();
    board.show(part.clone());
    board.enter(Phase::Running);
    fleet.ask("session.open", "", json!({"id": "works"})).await.ok();
    fleet.ask("session.open", "", json!({"id": "hangs", "kind": "stuck"})).await.ok();
    fleet.ask("doc.edit", "works", json!({"body": "a"})).await.ok();
    assert!(board.health(Probe::Liveness).ok);

    let edit = fleet.subject("doc.edit", "hangs");
    let asking = fleet.nats.request(edit, json!({}).to_string().into());
    let noticed = fails(&part, "sessions", "1 sessions have not come on with their work for 300ms: hangs");
    tokio::select! {
        answer = asking => panic!("a stuck session answered: {answer:?}"),
        () = noticed => {}
    }
    assert!(!board.health(Probe::Liveness).ok);
    assert_eq!(value(&board, r#"holdfast_worker_stuck_sessions{worker="w1"}"#), Some(1.0));
    fleet.ask("doc.edit", "works", json!({"body": "b"})).await.ok();
    Ok(())
}

#[tokio::test]
async fn a_relay_that_cannot_store_signals_is_seen_to_stand_still() -> Result<()> {
    let server = server::shared().await?;
    let mut fleet = Fleet::empty(server.url()).await?;
    fleet.add_worker("w1", &[]).await?;
    let board = Board::new("test");
    let coordinator = fleet
        .begin_coordinator_as(|config| {
            config.meters = board.register(holdfast_coordinator::Meters::shown);
            config.self_check = Some(LOOK);
            config.patience = Duration::from_secs(1);
        })
        .await?;
    let part = coordinator.part();
    board.show(part.clone());
    fleet.ask("session.open", "", json!({"id": "s1"})).await.ok();
    let shown =
        || ["signals_total", "lag_messages", "active"].map(|name| value(&board, &format!("holdfast_relay_{name}")));
    until_ok("a signal, and an active relay without lag", SOON, async || match shown() {
        // Signals are published at least once.
        [Some(signals), Some(0.0), Some(1.0)] if signals >= 1.0 => Ok(()),
        found => Err(format!("{found:?}")),
    })
    .await;
    assert_eq!((failure(&part, "relay"), failure(&part, "storage")), (None, None));

    let context = async_nats::jetstream::new(fleet.nats.clone());
    context.delete_stream(fleet.root.signals_stream()).await?;
    fleet.ask("session.open", "", json!({"id": "s2"})).await.ok();
    fails(&part, "relay", "wait to be announced").await;
    assert!(value(&board, "holdfast_relay_lag_messages") >= Some(1.0));
    assert!(value(&board, "holdfast_relay_lag_seconds") >= Some(1.0));
    assert_eq!(failure(&part, "storage"), None, "the stream of sessions answers");
    coordinator.stop(Duration::from_secs(2)).await;
    Ok(())
}

/// Mode bits would not keep root out, so the folder is taken away, and brought back.
#[tokio::test]
async fn a_workspace_that_cannot_be_used_is_told_with_its_name() -> Result<()> {
    let server = server::shared().await?;
    let mut fleet = Fleet::empty(server.url()).await?;
    let folder = tempfile::tempdir()?;
    let (notes, away) = (folder.path().join("notes"), folder.path().join("away"));
    std::fs::create_dir(&notes)?;
    let workspace = |dir: &Path, writable| holdfast_worker::Workspace { dir: dir.to_path_buf(), writable };
    fleet
        .add_worker_as(&ConnectOptions::to(server.url()), "w1", |config| {
            let name = |text| holdfast_protocol::id::WorkspaceName::parse(text).unwrap();
            config.workspaces.insert(name("notes"), workspace(&notes, true));
            // Declared read-only, so that it may be.
            config.workspaces.insert(name("proc"), workspace(Path::new("/proc"), false));
            config.self_check = Some(LOOK);
        })
        .await?;
    let worker = fleet.take_worker("w1");
    let part = worker.part();
    std::fs::rename(&notes, &away)?;
    fails(&part, "workspaces", "notes: the folder of the workspace is not at").await;
    std::fs::rename(&away, &notes)?;
    passes(&part, "workspaces").await;
    worker.stop(Duration::from_secs(2)).await;
    Ok(())
}

/// `/proc` takes no files, from root either.
#[tokio::test]
async fn a_workspace_that_is_declared_writable_and_is_not_is_told() -> Result<()> {
    let server = server::shared().await?;
    let mut fleet = Fleet::empty(server.url()).await?;
    fleet
        .add_worker_as(&ConnectOptions::to(server.url()), "w1", |config| {
            let name = holdfast_protocol::id::WorkspaceName::parse("proc").unwrap();
            let dir = Path::new("/proc/sys/kernel").to_path_buf();
            config.workspaces.insert(name, holdfast_worker::Workspace { dir, writable: true });
            config.self_check = Some(LOOK);
        })
        .await?;
    let worker = fleet.take_worker("w1");
    fails(&worker.part(), "workspaces", "proc: /proc/sys/kernel cannot be written").await;
    worker.stop(Duration::from_secs(2)).await;
    Ok(())
}

#[tokio::test]
async fn a_killed_worker_is_counted_as_a_failover_and_is_no_longer_ready() -> Result<()> {
    let server = server::shared().await?;
    let mut fleet = Fleet::empty(server.url()).await?;
    fleet.add_mortal_worker("w1").await?;
    let board = Board::new("test");
    let coordinator = fleet
        .begin_coordinator_as(|config| config.meters = board.register(holdfast_coordinator::Meters::shown))
        .await?;
    board.show(coordinator.part());
    for id in ["s1", "s2"] {
        fleet.ask("session.open", "", json!({"id": id})).await.ok();
    }
    fleet.add_worker("w2", &[]).await?;
    fleet.kill_worker("w1");
    for id in ["s1", "s2"] {
        fleet.ask("doc.edit", id, json!({"body": "after the failover"})).await.ok();
    }
    assert_eq!(value(&board, r#"holdfast_placements_total{cause="failover"}"#), Some(2.0));
    assert_eq!(value(&board, r#"holdfast_placements_total{cause="opened"}"#), Some(2.0));
    assert_eq!(value(&board, r#"holdfast_requests_total{verb="doc.edit",outcome="done"}"#), Some(2.0));
    until_ok("only w2 to be ready", SOON, async || match value(&board, r#"holdfast_workers{state="ready"}"#) {
        Some(1.0) => Ok(()),
        found => Err(format!("{found:?}")),
    })
    .await;
    coordinator.stop(Duration::from_secs(2)).await;
    Ok(())
}
