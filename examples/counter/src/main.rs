//! A worker that hosts counters beside documents: `counter [NAME [NATS_URL]]`, until Ctrl-C.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use holdfast_example_counter::{CounterKind, NAME};
use holdfast_protocol::WorkerName;
use holdfast_protocol::id::KindName;
use holdfast_store::connect::{ConnectOptions, connect};
use holdfast_store::provision;
use holdfast_store::provision::Provisioning;
use holdfast_store::wire::Nats;
use holdfast_worker::{Worker, WorkerConfig};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "counters".to_owned());
    let url = args.next().unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());

    let mut config = WorkerConfig::new(WorkerName::parse(&name)?);
    config.kinds.insert(KindName::parse(NAME)?, Arc::new(CounterKind));

    let nats = connect(&ConnectOptions::to(&url)).await?;
    let store = provision(&nats, &config.root, &Provisioning::of_worker()).await?.store;
    let worker = Worker::start(Nats::shared(nats), store, config).await?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended?,
        () = worker.name_taken() => anyhow::bail!("another process has taken the name {name}"),
    }
    worker.stop(Duration::from_secs(10)).await;
    Ok(())
}
