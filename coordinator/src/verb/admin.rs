//! Requests of operators.

pub(super) mod r#move;
pub(super) mod preview;
pub(super) mod reclaim;
pub(super) mod rotate_secret;
pub(super) mod takeover;
pub(super) mod unlock;
