//! The base of the integration tests: real servers, fleets, and waiting for conditions.
//!
//! A test gets its server from [`server`] and waits for conditions with [`wait`]. The tests themselves are in `it/`.

#![allow(clippy::disallowed_methods, reason = "the tasks of tests are owned by AbortOnDropHandle")]

pub mod fleet;
pub mod link;
pub mod logs;
pub mod server;
pub mod stuck;
pub mod wait;

/// blake3 of `bytes` in hex, computed here and not by the code under test.
pub fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
