//! Changing YAML in place by `yaml-edit`, whose syntax tree keeps every byte: only the nodes that changed, however
//! deep.
//!
//! Invariant: how long it may take is bounded by how many nodes all changes may walk, since `yaml-edit` walks the whole
//! text for each, and for a few kinds of text as often as it has lines.
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

/// How many nodes all changes of a text may walk: each walks all of it, at about 1 µs a node.
const WORK_MAX: usize = 96 * 1024;

/// How many nodes a text may have. Some changes take time that grows with their square.
const NODES_MAX: usize = 1500;

/// How many blank lines or lines of comments may follow each other, for the same reason.
const BLANK_MAX: usize = 50;

/// How much work is left. What is not amended, because there is none left, is written again.
pub(super) struct Work(pub(super) usize);

/// A change of a text, being made.
struct Amendment<'a> {
    work: &'a mut Work,
    /// About how many nodes the text has.
    nodes: usize,
    /// How many walks it takes to remove a node: with aliases, `yaml-edit` looks for those of what goes.
    removal_walks: usize,
    /// How many more aliases may be written out in this round.
    aliases: u32,
}

/// The text between the fences with `fields`, everything else as it was.
pub(in super::super) fn amend(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Error> {
    let amended = Work(WORK_MAX).amended(fenced.inner, fields, fenced.end_of_line(), limits);
    amended.ok_or_else(|| Error::bad(Place::default(), "it cannot be changed in its place"))
}

/// The text between the fences of nothing but `fields`, each on one line as JSON: plain, and nothing that could be read
/// otherwise.
pub(in super::super) fn as_json(fenced: &Fenced<'_>, fields: &Map<String, Value>, _: &Limits) -> Result<String, Error> {
    Ok(json_lines(fields, fenced.end_of_line()))
}

pub(super) fn json_lines(fields: &Map<String, Value>, eol: &str) -> String {
    fields.iter().map(|(name, value)| format!("{}: {}{eol}", json(&Value::from(name.as_str())), json(value))).collect()
}

impl Work {
    /// `text` with `fields`, everything else as it was; `None` where that would take too long or cannot be.
    pub(super) fn amended(
        &mut self,
        text: &str,
        fields: &Map<String, Value>,
        eol: &str,
        limits: &Limits,
    ) -> Option<String> {
        let nodes = nodes(text)?;
        let mut text = text.to_owned();
        let removal_walks = if text.contains('*') { 5 } else { 2 };
        let mut amendment = Amendment { work: self, nodes, removal_walks, aliases: 0 };
        for round in 0..=ROUNDS {
            let old = read(&text, limits).ok()?;
            if old == *fields {
                return Some(text);
            }
            // An alias of what changed may be right again once another one is written out, so a few go at a time.
            amendment.aliases = match round {
                0 => 0,
                round if round + 1 >= ROUNDS => u32::MAX,
                round => 1 << (round - 1),
            };
            text = amendment.document(&text, &old, fields, eol)?;
        }
        None
    }
}

/// About how many nodes the syntax tree of `text` has; `None` for too many.
fn nodes(text: &str) -> Option<usize> {
    let weigh = |byte| match byte {
        b'\n' | b':' => 1,
        b',' | b'[' | b'{' => 4,
        _ => 0,
    };
    let nodes = text.bytes().map(weigh).sum();
    let is_blank = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let lines: Vec<&str> = text.lines().collect();
    let blank = lines.chunk_by(|a, b| is_blank(a) == is_blank(b)).filter(|run| is_blank(&run[0])).map(<[_]>::len).max();
    (nodes <= NODES_MAX && blank.unwrap_or(0) <= BLANK_MAX).then_some(nodes)
}

/// About how many nodes `value` takes.
fn nodes_of(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(nodes_of).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(|value| 1 + nodes_of(value)).sum::<usize>(),
        Value::String(text) => 1 + text.len() / 64,
        _ => 1,
    }
}

impl Amendment<'_> {
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
                    self.removal()?;
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
            self.write(value)?;
            mapping.set(name.as_str(), yaml(value));
        }
        Some(())
    }

    fn sequence(&mut self, sequence: &Sequence, old: &[Value], new: &[Value]) -> Option<()> {
        let same = Same::of(old, new);
        for place in (0..old.len()).rev() {
            match same.place_of(place, old, new) {
                None => {
                    self.removal()?;
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
            self.write(&new[at])?;
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
        match (mapping, sequence, old, new) {
            (Some(node), _, Value::Object(old), Value::Object(new)) if !new.is_empty() => {
                return self.mapping(&node, old, new).map(|()| None);
            }
            (_, Some(node), Value::Array(old), Value::Array(new)) if !new.is_empty() => {
                return self.sequence(&node, old, new).map(|()| None);
            }
            _ => {}
        }
        self.write(new)?;
        // A tag of somebody else's makes a string of any scalar; those of the core schema say what the old value was.
        let tag = tag.filter(|tag| !tag.starts_with("!!") && (new.is_string() || new.is_object() || new.is_array()));
        Some(Some(tag.into_iter().fold(yaml(new), |value, tag| YamlValue::tagged(tag, value))))
    }

    /// Takes a removal off the work that is left.
    fn removal(&mut self) -> Option<()> {
        self.walks(self.removal_walks)
    }

    /// Takes a change that writes `value` off the work that is left.
    fn write(&mut self, value: &Value) -> Option<()> {
        self.nodes += nodes_of(value);
        self.walks(1)
    }

    fn walks(&mut self, count: usize) -> Option<()> {
        self.work.0 = self.work.0.checked_sub(count * self.nodes)?;
        Some(())
    }
}

/// `fields` where nothing is yet.
pub(super) fn fresh(fields: &Map<String, Value>, eol: &str) -> String {
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
