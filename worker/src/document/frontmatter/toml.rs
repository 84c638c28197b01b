//! TOML: to JSON values, and changes in place by `toml_edit`, which keeps order and comments.
//!
//! Dates and times are strings with their text, and so are `nan` and `inf`. TOML has no null.

use holdfast_protocol::Limits;
use serde_json::{Map, Number, Value};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike};

use super::place::Place;
use super::{Fenced, Flaw};

/// Reads the text between the fences.
pub(super) fn read(inner: &str, limits: &Limits) -> Result<Map<String, Value>, Flaw> {
    object(document(inner, limits)?.as_table(), limits.fields_levels).ok_or_else(|| too_deep(limits, Place::default()))
}

fn document(inner: &str, limits: &Limits) -> Result<DocumentMut, Flaw> {
    inner.parse().map_err(|error: toml_edit::TomlError| {
        let at = error.span().map_or(Place::default(), |span| Place::of(inner, span.start));
        let why = error.message();
        // The parser has a bound of its own, in brackets and in dots, above ours.
        if why.contains("recur") { too_deep(limits, at) } else { Flaw::bad(at, why.replace('\n', "; ")) }
    })
}

fn too_deep(limits: &Limits, at: Place) -> Flaw {
    Flaw::Large { at, why: format!("fields may be nested at most {} levels deep", limits.fields_levels) }
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

/// The text between the fences with `fields`, everything else as it was.
pub(super) fn amend(fenced: &Fenced<'_>, fields: &Map<String, Value>, limits: &Limits) -> Result<String, Flaw> {
    amend_plainly(fenced, fields, limits).map(|text| with_ends(text, fenced.end_of_line()))
}

/// As `amend`, with new lines that end as `toml_edit` ends them: for strings that have such ends in them.
pub(super) fn amend_plainly(fenced: &Fenced<'_>, fields: &Map<String, Value>, limits: &Limits) -> Result<String, Flaw> {
    let mut document = document(fenced.inner, limits)?;
    set(document.as_table_mut(), fields, limits.fields_levels)?;
    Ok(document.to_string())
}

/// The text between the fences of nothing but `fields`.
pub(super) fn anew(_: &Fenced<'_>, fields: &Map<String, Value>, limits: &Limits) -> Result<String, Flaw> {
    let mut document = DocumentMut::new();
    set(document.as_table_mut(), fields, limits.fields_levels)?;
    Ok(document.to_string())
}

/// Gives `table` exactly `fields`, and leaves alone what has its value already.
fn set(table: &mut dyn TableLike, fields: &Map<String, Value>, levels: usize) -> Result<(), Flaw> {
    let gone: Vec<String> =
        table.iter().map(|(name, _)| name.to_owned()).filter(|name| !fields.contains_key(name)).collect();
    for name in gone {
        table.remove(&name);
    }
    for (name, value) in fields {
        let Some(item) = table.get_mut(name) else {
            table.insert(name, fresh_item(name, value)?);
            continue;
        };
        if json(item, levels).as_ref() == Some(value) {
            continue;
        }
        match (item.as_table_like_mut(), value) {
            (Some(inner), Value::Object(fields)) => set(inner, fields, levels.saturating_sub(1))?,
            _ => replace(item, fresh_item(name, value)?),
        }
    }
    Ok(())
}

/// A value keeps the space and the comment around the one before it.
fn replace(item: &mut Item, mut fresh: Item) {
    if let (Item::Value(old), Item::Value(new)) = (&*item, &mut fresh) {
        *new.decor_mut() = old.decor().clone();
    }
    *item = fresh;
}

/// A table at the top is a section; whatever is in it stands on one line.
fn fresh_item(name: &str, value: &Value) -> Result<Item, Flaw> {
    let Value::Object(members) = value else { return Ok(Item::Value(fresh(name, value)?)) };
    let mut table = Table::new();
    for (inner, value) in members {
        table.insert(inner, Item::Value(fresh(name, value)?));
    }
    Ok(Item::Table(table))
}

fn fresh(name: &str, value: &Value) -> Result<toml_edit::Value, Flaw> {
    let cannot = |what: &str| Flaw::bad(Place::default(), format!("{name:?}: TOML cannot say {what}"));
    Ok(match value {
        Value::Null => return Err(cannot("null")),
        Value::Bool(yes) => (*yes).into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) if number.is_f64() => float.into(),
            _ => return Err(cannot(&number.to_string())),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(|item| fresh(name, item)).collect::<Result<Array, Flaw>>()?.into(),
        Value::Object(members) => {
            let members = members.iter().map(|(inner, value)| Ok((inner.as_str(), fresh(name, value)?)));
            members.collect::<Result<InlineTable, Flaw>>()?.into()
        }
    })
}

/// New lines end as the old ones do.
fn with_ends(text: String, eol: &str) -> String {
    if eol == "\n" { text } else { text.replace("\r\n", "\n").replace('\n', eol) }
}
