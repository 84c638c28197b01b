//! The contract's enumerations on the command line and in tables.
//!
//! Invariant: the contract's own type parses and prints each word, so no option can accept another word.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Words, each with its help.
pub(crate) type Words = &'static [(&'static str, &'static str)];

/// A parser for one of `words`.
pub(crate) fn one_of<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    words: Words,
) -> impl TypedValueParser<Value = T> {
    let known = words.iter().map(|(word, help)| PossibleValue::new(*word).help(*help));
    PossibleValuesParser::new(known).try_map(|word| serde_json::from_value::<T>(Value::String(word)))
}

/// The word for `value`.
pub(crate) fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        other => unreachable!("a word is a string, not {other:?}"),
    }
}
