//! Who acts in a run. Each actor decides by dice of its own, and writes down what it asks and sees.

mod by_hand;
mod caller;
mod client;
mod document;
mod lock;
mod operator;
mod saboteur;

pub use caller::Caller;
pub use client::work;
pub use operator::operate;
pub use saboteur::Saboteur;
