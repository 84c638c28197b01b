//! Simulations of whole fleets.

mod failover;
mod storm;
