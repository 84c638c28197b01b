//! Integration tests over a real nats-server with our nats.conf. One binary, one file per capability.

mod document;
mod file;
mod lock;
mod main_path;
mod session;
mod takeover;
