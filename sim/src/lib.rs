//! Whole fleets on one seed: real coordinators with their relay, real workers, and clients, over storage and NATS in
//! memory and under tokio's paused clock.
//!
//! Invariant: a run follows from its seed. [`simulate`] gives each run a runtime of one thread, a clock that stands
//! still while anybody has work, and a source of chance of its own.
//!
//! [`run`](run::run) makes a random run of a seed: clients, operators and a saboteur (`actor`) act as the `plan` of the
//! seed says, and write down what they see (`history`). [`model::check`] holds the run against the rules, and
//! [`tell`](tell::tell) is its history for people.
//!
//! Deliberately absent: what only a server can show (`tests`), and files of workspaces, which are read and written on
//! other threads.

use std::future::Future;

use anyhow::{Context, Result};
use holdfast_store::chance;

pub mod actor;
pub mod client;
pub mod fleet;
pub mod history;
pub mod model;
pub mod plan;
pub mod run;
pub mod scenario;
pub mod tell;
pub mod world;

pub use client::Client;
pub use fleet::Fleet;

/// Runs `work` by itself, so that everything in it follows from `seed`.
///
/// # Errors
/// What `work` ends with.
pub fn simulate<T>(seed: u64, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().context("no runtime")?;
    runtime.block_on(async {
        let _planted = chance::plant(seed);
        work.await
    })
}
