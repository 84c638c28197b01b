//! Every transition of a session record, as a pure function of the record, the request, the record's past and the known
//! state of the fleet.
//!
//! Invariant: nothing here does I/O, reads a clock or draws a random number. Each transition names its cause in
//! `event`, which the relay announces. `lock_revision` and fences only rise. Only `session.close` and idleness close a
//! session. Deliberately absent: reading and writing records (crate `records`), the mark that keeps writers behind the
//! relay (`SessionRecord::marked` in `protocol`).

pub mod acquire;
pub mod close;
pub mod conflict;
mod decision;
pub mod expire;
#[cfg(test)]
mod fixture;
pub mod hand_edit;
pub mod open;
pub mod passivate;
pub mod past;
pub mod place;
pub mod release;
pub mod revoke;
pub mod sweep;
pub mod takeover;
#[cfg(test)]
mod tests;
pub mod unlock;
pub mod validate;

pub use decision::{Asked, Author, Decision};
pub use past::Past;
