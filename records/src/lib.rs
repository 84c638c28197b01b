//! The only way to change a session record: read it, decide by a rule, write on condition, and start over if another
//! writer was first.
//!
//! Invariant: no other code calls the store's conditional write of a record. A decision may rest on a cached record
//! only if it is a write, because the write's condition proves it. Every other answer rests on a record that was read
//! or written after the request arrived. Before a change is written for a request that may have other copies, the
//! record's past is searched for the effect of an earlier copy.
//!
//! Deliberately absent: the rules (crate `rules`), and the caches of a coordinator and an agent, which each provides
//! through [`Keeper`].

mod change;
mod known;
mod write;

pub use change::{Change, Done, Keeper, NotDone, Wrote, change};
pub use known::{Found, Known, past_of};
pub use write::delete;
