//! Simulations of whole fleets.

mod failover;
mod sources;
mod storm;
