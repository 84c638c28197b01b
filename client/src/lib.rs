//! The Rust client of Holdfast: typed requests over the public subjects of the contract, and nothing else.
//!
//! Invariant: one logical request has one `request_id`, which every retry sends too, so a retry never takes a second
//! effect. A refusal is returned at once; a temporary failure is retried until a deadline. Deliberately absent: private
//! subjects, JetStream, and any decision. A program in another language can do all this with plain NATS request-reply.
//!
//! ```no_run
//! use std::time::Duration;
//! use holdfast_client::{Acquire, Client, Edit, Open};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("nats://127.0.0.1:4222", async_nats::ConnectOptions::new()).await?.acting_as("ann");
//! let opened = client.open(Open::file("notes/plan.md")).await?;
//! let session = client.session(opened.session.id);
//!
//! let lock = session.lock(Acquire::by("ann").ttl(Duration::from_secs(30)).wait(Duration::from_secs(5))).await?;
//! session.edit(Edit::body("# Plan\n").token(lock.token())).await?;
//! lock.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Every method that makes a request returns a [`Call`]. It is sent when it is awaited; before that it can be given its
//! own `request_id`, actor or deadline.

mod admin;
mod call;
mod client;
mod denials;
mod document;
mod error;
mod lock;
mod retry;
mod session;
pub mod signals;

pub use call::Call;
pub use client::{Client, SessionClient};
pub use denials::Denials;
pub use error::Error;
pub use lock::HeldLock;
pub use signals::{Event, Follower};

/// The types of the contract: ids, requests, replies, errors and signals.
pub use holdfast_protocol as protocol;
pub use holdfast_protocol::Token;
pub use holdfast_protocol::request::{Acquire, DocGet, Edit, Open};
