//! Changing YAML in place by `yaml-edit`, whose syntax tree keeps every byte: only the nodes that changed, however
//! deep.
//!
//! Deliberately absent: a proof that the result is right. The caller reads it back, by another parser, and takes
//! another way where it is not.

use std::str::FromStr;

use serde_json::{Map, Value};
use yaml_edit::{Mapping, MappingEntry, ScalarValue, Sequence, YamlFile, YamlNode, YamlValue};

use super::super::place::Place;
use super::super::same::Same;
use super::super::{Error, Fenced, Limits};
use super::read;

/// How often the text is read and changed again, because aliases of what changed have its new value too.
const ROUNDS: u32 = 8;

/// How many changes are made one by one, times the bytes of the text: each takes the longer the more text there is.
const WORK_MAX: usize = 512 * 1024;

/// A longer list is written again as a whole: the time of one change in it grows with its square.
const ITEMS_MAX: usize = 1000;

/// How far down a change goes before all of a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// To the member or item that changed.
    Leaves,
    /// To the top-level member that it is in.
    Tops,
}

/// A change of a text, being made.
struct Amendment {
    reach: Reach,
    /// How many more changes may be made one by one.
    changes: usize,
    /// How many more aliases may be written out in this round.
    aliases: u32,
}

/// The text between the fences with `fields`, everything else as it was.
pub(in super::super) fn amend(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Error> {
    reaching(Reach::Leaves, fenced, fields, limits)
}

/// As `amend`, with all of each top-level member that changed written again.
pub(in super::super) fn amend_tops(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Error> {
    reaching(Reach::Tops, fenced, fields, limits)
}

/// The text between the fences of nothing but `fields`, each on one line as JSON: plain, and nothing that could be read
/// otherwise.
pub(in super::super) fn as_json(fenced: &Fenced<'_>, fields: &Map<String, Value>, _: &Limits) -> Result<String, Error> {
    let line = |(name, value): (&String, &Value)| {
        format!("{}: {}{}", json(&Value::from(name.as_str())), json(value), fenced.end_of_line())
    };
    Ok(fields.iter().map(line).collect())
}

fn reaching(reach: Reach, fenced: &Fenced<'_>, fields: &Map<String, Value>, limits: &Limits) -> Result<String, Error> {
    let mut text = fenced.inner.to_owned();
    let mut amendment = Amendment { reach, changes: WORK_MAX / text.len().max(1), aliases: 0 };
    for round in 0..ROUNDS {
        let old = read(&text, limits)?;
        if old == *fields {
            break;
        }
        // An alias of what changed may be right again once another one is written out, so a few go at a time.
        amendment.aliases = match round {
            0 => 0,
            round if round == ROUNDS - 1 => u32::MAX,
            round => 1 << (round - 1),
        };
        let changed = amendment.document(&text, &old, fields, fenced.end_of_line());
        text = changed.ok_or_else(|| Error::bad(Place::default(), "it cannot be changed in its place"))?;
    }
    Ok(text)
}

impl Amendment {
    /// `None` where the text is not what this can change.
    fn document(
        &mut self,
        text: &str,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        eol: &str,
    ) -> Option<String> {
        if old.is_empty() {
            // Nothing but comments, or no text at all.
            return Some(text.to_owned() + &fresh(new, eol));
        }
        let file = YamlFile::from_str(text).ok()?;
        let document = file.document()?;
        let mapping = document.as_mapping().or_else(|| document.as_tagged()?.as_mapping())?;
        self.mapping(&mapping, old, new)?;
        let text = file.to_string();
        // A front matter without fields is empty but for its comments.
        Some(if new.is_empty() {
            text.split_inclusive('\n').filter(|line| line.trim() != "{}").collect()
        } else {
            text
        })
    }

    fn mapping(&mut self, mapping: &Mapping, old: &Map<String, Value>, new: &Map<String, Value>) -> Option<()> {
        for entry in mapping.entries().collect::<Vec<_>>() {
            let name = name(&entry)?;
            match (old.get(&name)?, new.get(&name)) {
                (_, None) => {
                    self.count()?;
                    mapping.remove(entry.key_node()?)?;
                }
                (old, Some(new)) => {
                    if let Some(value) = self.node(|| entry.value_node(), old, new)? {
                        entry.set_value(value, false);
                    }
                }
            }
        }
        for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
            self.count()?;
            mapping.set(name.as_str(), yaml(value));
        }
        Some(())
    }

    fn sequence(&mut self, sequence: &Sequence, old: &[Value], new: &[Value]) -> Option<()> {
        let same = Same::of(old, new);
        for place in (0..old.len()).rev() {
            match same.place_of(place, old, new) {
                None => {
                    self.count()?;
                    sequence.remove(place)?;
                }
                Some(at) => {
                    if let Some(value) = self.node(|| sequence.get(place), &old[place], &new[at])? {
                        sequence.set(place, value);
                    }
                }
            }
        }
        for at in same.added(old, new) {
            self.count()?;
            sequence.insert(at, yaml(&new[at]));
        }
        Some(())
    }

    /// Changes what is in a node. Returns what is to take its place where that cannot be; `None` is for too many
    /// changes.
    fn node(&mut self, node: impl Fn() -> Option<YamlNode>, old: &Value, new: &Value) -> Option<Option<YamlValue>> {
        if old == new {
            return Some(None);
        }
        let (mut mapping, mut sequence, mut tag) = (None, None, None);
        match node() {
            Some(YamlNode::Mapping(node)) => mapping = Some(node),
            Some(YamlNode::Sequence(node)) => sequence = Some(node),
            Some(YamlNode::TaggedNode(node)) => {
                (mapping, sequence, tag) = (node.as_mapping(), node.as_sequence(), node.tag());
            }
            Some(YamlNode::Alias(_)) => match self.aliases.checked_sub(1) {
                Some(left) => self.aliases = left,
                None => return Some(None),
            },
            Some(YamlNode::Scalar(_)) | None => {}
        }
        if self.reach == Reach::Leaves {
            match (mapping, sequence, old, new) {
                (Some(node), _, Value::Object(old), Value::Object(new)) if !new.is_empty() => {
                    return self.mapping(&node, old, new).map(|()| None);
                }
                (_, Some(node), Value::Array(old), Value::Array(new)) if !new.is_empty() && old.len() <= ITEMS_MAX => {
                    return self.sequence(&node, old, new).map(|()| None);
                }
                _ => {}
            }
        }
        self.count()?;
        // A tag of somebody else's makes a string of any scalar; those of the core schema say what the old value was.
        let tag = tag.filter(|tag| !tag.starts_with("!!") && (new.is_string() || new.is_object() || new.is_array()));
        Some(Some(tag.into_iter().fold(yaml(new), |value, tag| YamlValue::tagged(tag, value))))
    }

    /// Takes one change off those that may be made.
    fn count(&mut self) -> Option<()> {
        self.changes = self.changes.checked_sub(1)?;
        Some(())
    }
}

/// `fields` where nothing is yet.
fn fresh(fields: &Map<String, Value>, eol: &str) -> String {
    let lines = yaml(&Value::Object(fields.clone())).to_yaml_string(0);
    lines.lines().map(|line| line.to_owned() + eol).collect()
}

/// The name of a member, as the reader has it.
fn name(entry: &MappingEntry) -> Option<String> {
    match entry.key_node()? {
        YamlNode::Scalar(key) if key.value().is_empty() => Some("~".to_owned()),
        YamlNode::Scalar(key) => Some(key.as_string()),
        YamlNode::TaggedNode(key) => key.as_string(),
        _ => None,
    }
}

fn yaml(value: &Value) -> YamlValue {
    match value {
        Value::Null => ScalarValue::null().into(),
        Value::Bool(yes) => (*yes).into(),
        Value::Number(number) => ScalarValue::parse(number.to_string()).into(),
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => YamlValue::Sequence(items.iter().map(yaml).collect()),
        Value::Object(members) => {
            YamlValue::Mapping(members.iter().map(|(name, value)| (name.clone(), yaml(value))).collect())
        }
    }
}

/// JSON is YAML, but for characters that YAML does not print.
fn json(value: &Value) -> String {
    let escaped = |char: char| match char {
        '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
            format!("\\u{:04x}", u32::from(char))
        }
        char => char.to_string(),
    };
    value.to_string().chars().map(escaped).collect()
}
