//! Simulations of whole fleets.

mod failover;
