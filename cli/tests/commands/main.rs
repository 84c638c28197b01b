//! Commands against a real `holdfast up`, with the credentials that it wrote.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod document;
mod lock_run;
mod up;
