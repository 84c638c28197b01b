//! The wire contract and the stored formats: ids, subjects, requests, replies, errors, the session record, log frames,
//! signals, and acts of operators.
//!
//! Invariant: nothing here does I/O, reads a clock or draws a random number, so that every rule can be tested as a
//! table. Deliberately absent: NATS (crate `store`), what becomes of a record (`rules`), placement and routing
//! (`coordinator`), session agents (`worker`).

pub mod act;
pub mod document;
pub mod error;
pub mod frame;
pub mod id;
pub mod internal;
pub mod json;
pub mod limits;
pub mod path;
pub mod record;
pub mod reply;
pub mod request;
pub mod requester;
pub mod schema;
pub mod signal;
mod stored;
pub mod subject;
pub mod token;
pub mod trace;
mod words;

pub use error::{Code, Error, Reason};
pub use id::{Activation, Boot, Namespace, Process, RequestId, Revision, SessionId, SessionKey, WorkerName};
pub use limits::Limits;
pub use record::SessionRecord;
pub use token::Token;
