//! Integration tests over a real nats-server with our nats.conf. One binary, one file per capability.

mod bad_input;
mod document;
mod file;
mod lock;
mod main_path;
mod record;
mod session;
mod takeover;
