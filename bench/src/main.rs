//! What Holdfast costs, measured three ways.
//!
//! ```text
//! cargo run --release -p holdfast-bench [-- ROUNDS [ONLY]]                     # against raw NATS on one server
//! cargo run --release -p holdfast-bench -- guard [--write]                     # has it become slower?
//! cargo run --release -p holdfast-bench --features peers -- peers [OPTIONS]    # against other systems
//! ```
//!
//! Every measurement runs its sides in turn, round by round, and takes the median of the rounds: a disk's speed drifts,
//! and all sides should see the same.

mod cluster;
mod guard;
mod measure;
mod part;
#[cfg(feature = "peers")]
mod peers;
mod raw;
mod setup;
mod short;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::io::Write;

#[derive(Parser, Debug)]
#[command(about = "Measures Holdfast", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Rounds of the comparison with raw NATS
    #[arg(default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Run only measurements that have this word in their name
    #[arg(default_value = "")]
    only: String,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Compare Holdfast's cost with the one on record, and fail if it has risen by more than a quarter
    Guard(guard::Args),
    /// Compare Holdfast with raw JetStream, etcd, Redis and ZooKeeper
    #[cfg(feature = "peers")]
    Peers(peers::Args),
    /// Needs the feature `peers`
    #[cfg(not(feature = "peers"))]
    Peers {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        _all: Vec<String>,
    },
    /// A coordinator or a worker in a process of its own, for `peers`
    #[command(hide = true)]
    Part(part::Args),
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let work = async {
        match args.command {
            None => short::run(args.rounds, args.only).await,
            Some(Command::Guard(args)) => guard::run(args).await,
            #[cfg(feature = "peers")]
            Some(Command::Peers(args)) => peers::run(args).await,
            #[cfg(not(feature = "peers"))]
            Some(Command::Peers { .. }) => bail!(
                "this build has only Holdfast in it; run `cargo run --release -p holdfast-bench --features peers -- peers` \
                 (building the client of etcd needs protoc: apt-get install protobuf-compiler libprotobuf-dev)"
            ),
            Some(Command::Part(args)) => part::run(args).await,
        }
    };
    tokio::select! {
        done = work => done,
        // Returning drops what was started, so that servers end and temporary folders go.
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            bail!("interrupted")
        }
    }
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("standard output is closed")
}
