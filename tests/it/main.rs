//! Integration tests over a real nats-server with our settings. One binary, one file per capability.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(clippy::print_stdout, reason = "what a test measured is shown with --nocapture")]
#![allow(clippy::disallowed_methods, reason = "the tasks of tests are owned by AbortOnDropHandle")]

mod acts;
mod agent;
mod alone;
mod audit;
mod bad_input;
mod document;
mod failover;
mod file;
mod kept;
mod late;
mod leave;
mod list;
mod lock;
mod main_path;
mod metrics;
mod outage;
mod record;
mod remains;
mod roles;
mod secret;
mod secured;
mod session;
mod signals;
mod start;
mod takeover;
mod trace;
mod upgrade;
mod waiters;
