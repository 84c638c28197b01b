//! Requests about a session as a whole.

pub(crate) mod close;
pub(super) mod get;
pub(super) mod list;
pub(super) mod open;
