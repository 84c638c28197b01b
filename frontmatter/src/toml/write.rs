//! Values as TOML.
//!
//! Rule: a string of several lines stands on several lines, unless one of them would be taken for the closing fence or
//! the ends of lines would not come back as they were; it then stands on one, with escapes.

use serde_json::{Map, Value};
use toml_edit::{Array, InlineTable, Item, Table};

use super::super::place::Place;
use super::super::{Error, bare};

/// The fence that ends a front matter in TOML.
const FENCE: &str = "+++";

/// A table at the top is a section; whatever is in it stands on one line.
pub(super) fn fresh_item(name: &str, value: &Value, eol: &str) -> Result<Item, Error> {
    match value {
        Value::Object(members) => Ok(Item::Table(section(name, members, eol)?)),
        value => Ok(Item::Value(fresh(name, value, eol)?)),
    }
}

pub(super) fn section(name: &str, members: &Map<String, Value>, eol: &str) -> Result<Table, Error> {
    let mut table = Table::new();
    for (inner, value) in members {
        table.insert(inner, Item::Value(fresh(name, value, eol)?));
    }
    Ok(table)
}

pub(super) fn fresh(name: &str, value: &Value, eol: &str) -> Result<toml_edit::Value, Error> {
    let cannot = |what: &str| Error::bad(Place::default(), format!("{name:?}: TOML cannot say {what}"));
    Ok(match value {
        Value::Null => return Err(cannot("null")),
        Value::Bool(yes) => (*yes).into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) if number.is_f64() => float.into(),
            _ => return Err(cannot(&number.to_string())),
        },
        Value::String(text) => string(text, eol),
        Value::Array(items) => {
            items.iter().map(|item| fresh(name, item, eol)).collect::<Result<Array, Error>>()?.into()
        }
        Value::Object(members) => {
            let members = members.iter().map(|(inner, value)| Ok((inner.as_str(), fresh(name, value, eol)?)));
            members.collect::<Result<InlineTable, Error>>()?.into()
        }
    })
}

fn string(text: &str, eol: &str) -> toml_edit::Value {
    let is_risky = eol != "\n" || text.contains('\r') || text.split('\n').any(|line| bare(line) == FENCE);
    if text.contains('\n') && is_risky {
        // JSON escapes as TOML does, but for one character.
        let line = Value::from(text).to_string().replace('\u{7f}', "\\u007f");
        if let Ok(value) = line.parse() {
            return value;
        }
    }
    text.into()
}
