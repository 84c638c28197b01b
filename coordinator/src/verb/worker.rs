//! Requests about workers.

pub(super) mod drain;
pub(super) mod list;
