//! Changing TOML in place by `toml_edit`, which keeps order and comments: only the values that changed, however deep.
//!
//! Deliberately absent: a proof that the result is right. The caller reads it back, and takes another way where it is
//! not.

use std::collections::HashSet;

use serde_json::{Map, Value};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike};

use super::super::same::Same;
use super::super::{Error, Fenced, Limits};
use super::comments::{Loose, lift, lift_table, settle};
use super::items::{put_in, take_out};
use super::write::{fresh, fresh_item, section};
use super::{document, json, json_value};

/// A change of a document, being made.
struct Amendment<'a> {
    eol: &'a str,
    /// Nothing that is there is nested deeper.
    levels: usize,
    /// Comments of what was removed, with nothing behind them in their table.
    loose: Vec<Loose>,
}

/// The text between the fences with `fields`, everything else as it was.
pub(in super::super) fn amend(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Error> {
    amend_plainly(fenced, fields, limits).map(|text| with_ends(text, fenced.end_of_line()))
}

/// As `amend`, with new lines that end as `toml_edit` ends them: for strings that have such ends in them.
pub(in super::super) fn amend_plainly(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Error> {
    let mut document = document(fenced.inner, limits)?;
    let mut amendment = Amendment { eol: fenced.end_of_line(), levels: limits.levels, loose: Vec::new() };
    amendment.section(document.as_table_mut(), fields, Some(-1))?;
    settle(&mut document, amendment.loose);
    Ok(document.to_string())
}

/// The text between the fences of nothing but `fields`, in the order that they had.
pub(in super::super) fn anew(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Error> {
    let old = document(fenced.inner, limits).unwrap_or_default();
    let known = old.iter().filter_map(|(name, _)| fields.get_key_value(name));
    let new = fields.iter().filter(|(name, _)| !old.contains_key(name));
    let mut document = DocumentMut::new();
    for (name, value) in known.chain(new) {
        document.insert(name, fresh_item(name, value, fenced.end_of_line())?);
    }
    Ok(with_ends(document.to_string(), fenced.end_of_line()))
}

impl Amendment<'_> {
    /// Gives a section exactly `fields`, and leaves alone what has its value already. `header` is where it stands among
    /// the others, if it has one.
    fn section(&mut self, table: &mut Table, fields: &Map<String, Value>, header: Option<isize>) -> Result<(), Error> {
        let mut stay = Vec::new();
        let mut gone = HashSet::new();
        let names: Vec<String> = table.iter().map(|(name, _)| name.to_owned()).collect();
        // From the last to the first, so that comments come together in their order.
        for name in names.iter().rev() {
            let is_alike = |item| fields.get(name).is_some_and(|value| is_alike(item, value));
            if table.get(name).is_some_and(is_alike) {
                stay.push(name.as_str());
            } else {
                self.loose.extend(lift(table, name, stay.iter().rev().copied(), header));
                gone.insert(name.as_str());
            }
        }
        table.retain(|name, _| !gone.contains(name));
        self.members(table, fields)
    }

    /// As `section`, for a table on one line, where any value can take the place of any other.
    fn line(&mut self, table: &mut InlineTable, fields: &Map<String, Value>) -> Result<(), Error> {
        table.retain(|name, _| fields.contains_key(name));
        self.members(table, fields)
    }

    fn members(&mut self, table: &mut dyn TableLike, fields: &Map<String, Value>) -> Result<(), Error> {
        for (name, value) in fields {
            match table.get_mut(name) {
                None => {
                    table.insert(name, fresh_item(name, value, self.eol)?);
                }
                Some(item) if json(item, self.levels).as_ref() == Some(value) => {}
                Some(item) => self.item(name, item, value)?,
            }
        }
        Ok(())
    }

    fn item(&mut self, name: &str, item: &mut Item, value: &Value) -> Result<(), Error> {
        match (&mut *item, value) {
            (Item::Table(table), Value::Object(fields)) => {
                let header = table.position();
                self.section(table, fields, header)
            }
            (Item::ArrayOfTables(tables), Value::Array(items)) => self.tables(name, tables, items),
            (Item::Value(old), value) => self.value(name, old, value),
            (item, value) => {
                *item = fresh_item(name, value, self.eol)?;
                Ok(())
            }
        }
    }

    /// A value keeps the space and the comment around the one before it.
    fn value(&mut self, name: &str, old: &mut toml_edit::Value, value: &Value) -> Result<(), Error> {
        match (&mut *old, value) {
            (toml_edit::Value::InlineTable(table), Value::Object(fields)) => self.line(table, fields),
            (toml_edit::Value::Array(array), Value::Array(items)) if !array.is_empty() && !items.is_empty() => {
                self.array(name, array, items)
            }
            (old, value) => {
                let mut new = fresh(name, value, self.eol)?;
                if let (toml_edit::Value::Datetime(_), Value::String(text)) = (&*old, value)
                    && let Ok(time) = text.parse::<toml_edit::Datetime>()
                {
                    new = time.into();
                }
                *new.decor_mut() = old.decor().clone();
                *old = new;
                Ok(())
            }
        }
    }

    fn tables(&mut self, name: &str, tables: &mut ArrayOfTables, new: &[Value]) -> Result<(), Error> {
        let old: Vec<_> = tables.iter().map(|table| super::object(table, self.levels)).collect();
        let old: Vec<Value> = old.into_iter().map(|fields| Value::Object(fields.unwrap_or_default())).collect();
        let same = Same::of(&old, new);
        for (place, table) in tables.iter_mut().enumerate() {
            match same.place_of(place, &old, new).map(|at| &new[at]) {
                Some(Value::Object(fields)) => {
                    let header = table.position();
                    self.section(table, fields, header)?;
                }
                _ => self.loose.extend(lift_table(table)),
            }
        }
        let mut place = 0;
        tables.retain(|_| (same.place_of(place, &old, new).is_some(), place += 1).0);
        for (at, fields) in same.added(&old, new).filter_map(|at| Some((at, new[at].as_object()?))) {
            let mut table = section(name, fields, self.eol)?;
            table.set_position(at.checked_sub(1).and_then(|before| tables.get(before)?.position()));
            tables.insert(at, table);
        }
        Ok(())
    }

    fn array(&mut self, name: &str, array: &mut Array, new: &[Value]) -> Result<(), Error> {
        let old = array.iter().map(|item| json_value(item, self.levels));
        let old: Vec<Value> = old.map(Option::unwrap_or_default).collect();
        let same = Same::of(&old, new);
        for (place, item) in array.iter_mut().enumerate() {
            match same.place_of(place, &old, new) {
                Some(at) if old[place] != new[at] => self.value(name, item, &new[at])?,
                _ => {}
            }
        }
        for place in (0..old.len()).rev().filter(|place| same.place_of(*place, &old, new).is_none()) {
            take_out(array, place);
        }
        for at in same.added(&old, new) {
            put_in(array, at, fresh(name, &new[at], self.eol)?);
        }
        Ok(())
    }
}

/// Whether a value can stand where an item stands: a section is no line, and a line no section.
fn is_alike(item: &Item, value: &Value) -> bool {
    match (item, value) {
        (Item::Table(_) | Item::Value(toml_edit::Value::InlineTable(_)), Value::Object(_)) => true,
        (Item::ArrayOfTables(_), Value::Array(items)) => !items.is_empty() && items.iter().all(Value::is_object),
        (Item::Value(_), value) => !value.is_object(),
        _ => false,
    }
}

/// New lines end as the old ones do.
fn with_ends(text: String, eol: &str) -> String {
    if eol == "\n" { text } else { text.replace("\r\n", "\n").replace('\n', eol) }
}
