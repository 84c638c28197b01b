//! The operators' commands, against real servers with real parts: `status`, `doctor`, `list` and `--dry-run`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod doctor;
mod installation;
mod list;
mod preview;
mod status;
