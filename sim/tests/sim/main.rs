//! Simulations of whole fleets.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod failover;
mod scenarios;
mod sources;
mod storm;
