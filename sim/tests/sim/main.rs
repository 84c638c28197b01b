//! Simulations of whole fleets.

mod failover;
mod scenarios;
mod storm;
