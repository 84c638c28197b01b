//! A worker whose sessions of kind `stuck` get stuck, and that shows so at once: `stuck-worker NATS_URL METRICS_PORT`,
//! until Ctrl-C. For `tests/python/metrics.py`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_meters::{Board, Phase, serve};
use holdfast_protocol::WorkerName;
use holdfast_protocol::id::KindName;
use holdfast_store::connect::{ConnectOptions, connect};
use holdfast_store::provision;
use holdfast_store::provision::Provisioning;
use holdfast_store::wire::Nats;
use holdfast_tests::stuck::StuckKind;
use holdfast_worker::{Worker, WorkerConfig, WorkerMeters};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let url = args.next().context("the first argument is the URL of NATS")?;
    let port = args.next().context("the second argument is the port for metrics")?;
    let board = Board::new(env!("CARGO_PKG_VERSION"));
    let serving = serve(&format!("127.0.0.1:{port}"), board.clone()).await?;

    let mut config = WorkerConfig::new(WorkerName::parse("stuck")?);
    config.meters = board.register(WorkerMeters::shown).of(&config.name);
    config.patience = Duration::from_secs(2);
    config.kinds.clear();
    config.kinds.insert(KindName::parse("stuck")?, Arc::new(StuckKind));
    let nats = connect(&ConnectOptions::to(&url)).await?;
    let store = provision(&nats, &config.root, &Provisioning::of_worker()).await?.store;
    let worker = Worker::start(Nats::shared(nats), store, config).await?;
    board.show(worker.part());
    board.enter(Phase::Running);
    tokio::signal::ctrl_c().await?;
    worker.stop(Duration::from_secs(2)).await;
    serving.stop().await;
    Ok(())
}
