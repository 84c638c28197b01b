//! What the integration tests stand on: real servers, and waiting without sleeping.
//!
//! A test gets its server from [`server`] and waits for things with [`wait`]. Nothing here knows what is
//! tested; the tests are in `it/`.

pub mod server;
pub mod wait;
