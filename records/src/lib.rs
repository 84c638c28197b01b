//! The one way to change a session record: read, decide by a rule, write on condition, and again where another writer was
//! first.
//!
//! Invariant: nobody else calls the store's conditional write of a record. A decision may rest on a record that was seen
//! earlier only if it is a write, because the write's condition proves it; every other answer rests on a record that was
//! read or written after the request arrived. Before a change is written for a request that may have other copies, the
//! record's past is asked whether one of them took effect.
//! Deliberately absent: the rules (crate `rules`), and what a coordinator or an agent remembers of records, which each
//! gives as its [`Keeper`].

mod change;
mod known;
mod write;

pub use change::{Change, Done, Keeper, NotDone, Wrote, change};
pub use known::{Found, Known, past_of};
pub use write::delete;
