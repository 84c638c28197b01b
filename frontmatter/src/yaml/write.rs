//! Values as YAML text.
//!
//! Invariant: a mapping that was in the text before keeps the order of its members; new ones follow, in order of name.

use granit_parser::StructureStyle;
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::{Map, Value};

use super::super::Flaw;
use super::super::place::Place;
use super::shape::{Kind, Shape};

/// How many times the bytes of JSON a value may take before it is written on one line as JSON.
const BLOCK_FACTOR: usize = 3;

/// A value in the order that it had.
#[derive(Clone, Copy)]
pub(super) struct Ordered<'a> {
    pub(super) value: &'a Value,
    /// What stands there now, if anything.
    pub(super) shape: Option<&'a Shape>,
}

impl<'a> Ordered<'a> {
    pub(super) fn new(value: &'a Value) -> Self {
        Self { value, shape: None }
    }

    /// The members of `fields`, those of `shape` first.
    pub(super) fn members(fields: &'a Map<String, Value>, shape: &'a Shape) -> Vec<(&'a String, Self)> {
        let old = shape.members();
        let names: std::collections::HashSet<&str> = old.iter().map(|member| member.name.as_str()).collect();
        let known = old.iter().filter_map(|member| {
            let (name, value) = fields.get_key_value(&member.name)?;
            Some((name, Self { value, shape: Some(&member.value) }))
        });
        let new = fields.iter().filter(|(name, _)| !names.contains(name.as_str()));
        known.chain(new.map(|(name, value)| (name, Self::new(value)))).collect()
    }

    /// Whether it is to stand on one line, as it did. So is what was an alias: a comment may be behind it.
    fn is_flow(&self) -> bool {
        self.shape.is_some_and(|shape| match shape.kind {
            Kind::Sequence(style, _) | Kind::Mapping(style, _) => style == StructureStyle::Flow,
            Kind::Alias(_) => self.value.is_object() || self.value.is_array(),
            Kind::Scalar => false,
        })
    }
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.value, self.shape) {
            (Value::Object(fields), Some(shape)) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in Self::members(fields, shape) {
                    map.serialize_entry(name, &value)?;
                }
                map.end()
            }
            (Value::Array(items), Some(shape)) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for (at, value) in items.iter().enumerate() {
                    seq.serialize_element(&Ordered { value, shape: shape.items().get(at) })?;
                }
                seq.end()
            }
            (value, _) => value.serialize(serializer),
        }
    }
}

fn cannot(name: &str, why: &str) -> Flaw {
    Flaw::bad(Place::default(), format!("{name:?} cannot be written as YAML: {why}"))
}

/// A member of its own, as lines.
pub(super) fn entry(name: &str, value: Ordered<'_>) -> Result<String, Flaw> {
    Ok(key(name)? + &behind_name(name, value)?)
}

fn key(name: &str) -> Result<String, Flaw> {
    match serde_saphyr::to_string(&Map::from_iter([(name.to_owned(), Value::Null)])) {
        Ok(lines) if lines.lines().count() == 1 && lines.ends_with(": null\n") => {
            Ok(lines[..lines.len() - ": null\n".len()].to_owned())
        }
        _ => json(name, &name),
    }
}

/// A value as it stands behind its name, from the colon on.
pub(super) fn behind_name(name: &str, value: Ordered<'_>) -> Result<String, Flaw> {
    let json = json(name, &value)?;
    let member = std::collections::BTreeMap::from([("k", value)]);
    let block = serde_saphyr::to_string(&member).map_err(|error| cannot(name, &error.to_string()))?;
    match block.strip_prefix('k') {
        _ if value.is_flow() => Ok(format!(": {}\n", in_flow(value)?)),
        Some(block) if block.len() <= BLOCK_FACTOR * (json.len() + 16) => Ok(block.to_owned()),
        _ => Ok(format!(": {json}\n")),
    }
}

/// An item of a list, as lines, from the dash on.
pub(super) fn item(value: Ordered<'_>) -> Result<String, Flaw> {
    let json = json("", &value)?;
    let block = serde_saphyr::to_string(&[value]).map_err(|error| cannot("", &error.to_string()))?;
    match block {
        _ if value.is_flow() => Ok(format!("- {}\n", in_flow(value)?)),
        block if block.starts_with("- ") && block.len() <= BLOCK_FACTOR * (json.len() + 16) => Ok(block),
        _ => Ok(format!("- {json}\n")),
    }
}

/// A value between brackets.
pub(super) fn in_flow(value: Ordered<'_>) -> Result<String, Flaw> {
    match value.value {
        Value::Object(fields) => {
            let nothing = Shape::nothing();
            let members = Ordered::members(fields, value.shape.unwrap_or(&nothing)).into_iter();
            let members = members.map(|(name, value)| in_flow_mapping(name, value)).collect::<Result<Vec<_>, _>>()?;
            Ok(format!("{{{}}}", members.join(", ")))
        }
        Value::Array(items) => {
            let shape = |at| value.shape.and_then(|shape: &Shape| shape.items().get(at));
            let items = items.iter().enumerate().map(|(at, value)| in_flow(Ordered { value, shape: shape(at) }));
            Ok(format!("[{}]", items.collect::<Result<Vec<_>, _>>()?.join(", ")))
        }
        Value::String(text) if is_plain_anywhere(text) => {
            let is_itself = serde_saphyr::to_string(text).is_ok_and(|plain| plain.strip_suffix('\n') == Some(text));
            if is_itself { Ok(text.clone()) } else { json("", text) }
        }
        scalar => json("", scalar),
    }
}

/// A member between brackets.
pub(super) fn in_flow_mapping(name: &str, value: Ordered<'_>) -> Result<String, Flaw> {
    let name = Value::String(name.to_owned());
    Ok(format!("{}: {}", in_flow(Ordered::new(&name))?, in_flow(value)?))
}

/// Letters, digits, and little else: what no bracket, comma or colon can be mistaken in.
fn is_plain_anywhere(text: &str) -> bool {
    text.starts_with(char::is_alphanumeric)
        && text.ends_with(char::is_alphanumeric)
        && text.chars().all(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_' | '.' | '/'))
}

/// JSON is YAML, but for characters that YAML does not print.
pub(super) fn json<T: Serialize + ?Sized>(name: &str, value: &T) -> Result<String, Flaw> {
    let json = serde_json::to_string(value).map_err(|error| cannot(name, &error.to_string()))?;
    let mut text = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            char => text.push(char),
        }
    }
    Ok(text)
}

/// `lines` with `indent` and these ends.
pub(super) fn shifted(lines: &str, indent: usize, eol: &str) -> String {
    let pad = " ".repeat(indent);
    let mut text = String::with_capacity(lines.len() + 16);
    for line in lines.lines() {
        if !line.is_empty() {
            text.push_str(&pad);
        }
        text.push_str(line);
        text.push_str(eol);
    }
    text
}
