//! TOML: to JSON values.
//!
//! Dates and times are strings with their text, and so are `nan` and `inf`. TOML has no null.
//!
//! `toml_edit` changes text in its place. On top of it `comments` keeps the comments above what goes, and `items` those
//! behind the commas of a list: without the first 4 tests of `sections` fail, without both 6.

mod amend;
mod comments;
mod items;
mod write;

pub(super) use amend::{amend, amend_plainly, anew};

use serde_json::{Map, Number, Value};
use toml_edit::{Document, DocumentMut, Item, TableLike};

use super::place::Place;
use super::{Error, Limits};

/// Reads the text between the fences.
pub(super) fn read(inner: &str, limits: &Limits) -> Result<Map<String, Value>, Error> {
    object(document(inner, limits)?.as_table(), limits.levels).ok_or_else(|| Error::too_deep(limits, Place::default()))
}

fn document(inner: &str, limits: &Limits) -> Result<DocumentMut, Error> {
    Document::parse(inner).map(Document::into_mut).map_err(|error| {
        let at = error.span().map_or(Place::default(), |span| Place::of(inner, span.start));
        let why = error.message();
        // The parser has a bound of its own, in brackets and in dots, above ours.
        if why.contains("recur") { Error::too_deep(limits, at) } else { Error::bad(at, why.replace('\n', "; ")) }
    })
}

/// The members of a table; `None` when they are nested deeper than `levels`.
fn object(table: &dyn TableLike, levels: usize) -> Option<Map<String, Value>> {
    let levels = levels.checked_sub(1)?;
    table.iter().map(|(name, item)| Some((name.to_owned(), json(item, levels)?))).collect()
}

fn json(item: &Item, levels: usize) -> Option<Value> {
    match item {
        Item::None => Some(Value::Null),
        Item::Value(value) => json_value(value, levels),
        Item::Table(table) => object(table, levels).map(Value::Object),
        Item::ArrayOfTables(tables) => {
            let levels = levels.checked_sub(1)?;
            tables.iter().map(|table| object(table, levels).map(Value::Object)).collect::<Option<_>>().map(Value::Array)
        }
    }
}

fn json_value(value: &toml_edit::Value, levels: usize) -> Option<Value> {
    use toml_edit::Value as Toml;
    Some(match value {
        Toml::String(text) => Value::String(text.value().clone()),
        Toml::Integer(number) => Value::from(*number.value()),
        Toml::Float(number) => match Number::from_f64(*number.value()) {
            Some(number) => Value::Number(number),
            None => Value::String(number.value().to_string().to_lowercase()),
        },
        Toml::Boolean(yes) => Value::Bool(*yes.value()),
        Toml::Datetime(time) => Value::String(time.value().to_string()),
        Toml::Array(items) => {
            let levels = levels.checked_sub(1)?;
            Value::Array(items.iter().map(|item| json_value(item, levels)).collect::<Option<_>>()?)
        }
        Toml::InlineTable(table) => Value::Object(object(table, levels)?),
    })
}
