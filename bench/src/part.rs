//! A coordinator or a worker in a process of its own, so that it can be killed and its memory can be read.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use holdfast_coordinator::{Config, Coordinator};
use holdfast_protocol::WorkerName;
use holdfast_protocol::subject::Root;
use holdfast_store::connect::{ConnectOptions, connect};
use holdfast_store::provision::Provisioning;
use holdfast_store::wire::Nats;
use holdfast_store::{Jetstream, provision, token_secret};
use holdfast_worker::{Worker, WorkerConfig};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Part {
    Coordinator,
    Worker,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    part: Part,
    /// Servers, separated by commas
    url: String,
    /// Name of the part
    name: String,
}

/// Runs the part until this process ends; SIGTERM ends it at once, as a crash would.
pub(crate) async fn run(args: Args) -> Result<()> {
    let root = Root::default();
    let client = connect(&ConnectOptions::to(&args.url)).await?;
    match args.part {
        Part::Coordinator => {
            let store = provision(&client, &root, &Provisioning::default()).await?.store;
            let secret = token_secret(&store).await?;
            let store = Arc::new(Jetstream::new(client.clone(), root).await?);
            let config = Config { name: args.name, ..Config::default() };
            let coordinator = Coordinator::start(Nats::shared(client), store, secret, config).await?;
            std::future::pending::<()>().await;
            coordinator.stop(Duration::ZERO).await;
        }
        Part::Worker => {
            let store = provision(&client, &root, &Provisioning::of_worker()).await?.store;
            let config = WorkerConfig::new(WorkerName::parse(&args.name)?);
            let worker = Worker::start(Nats::shared(client), store, config).await?;
            worker.name_taken().await;
        }
    }
    Ok(())
}
