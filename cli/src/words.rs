//! The contract's words on a command line and in a table.
//!
//! Invariant: a word is read and written by the contract's own type, so no option can name another one.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Words, and the help for each.
pub(crate) type Words = &'static [(&'static str, &'static str)];

/// Reads one of `words`.
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
