//! YAML: from events to JSON values, with the places of the top-level members.
//!
//! Invariant: nothing recurses, and what aliases multiply is counted before it is copied, so that no text makes more than
//! the limits allow. Plain scalars are read as the core schema of YAML 1.2 says: `yes`, `no` and dates are strings.

mod amend;
mod scalar;

pub(super) use amend::{amend, anew, as_json};

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Options, Parser, Span, StructureStyle};
use holdfast_protocol::Limits;
use serde_json::{Map, Value};

use super::Flaw;
use super::place::Place;

/// A front matter that was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) fields: Map<String, Value>,
    /// Top-level members in the order of the text; `None` unless they stand as a block, one below the other.
    members: Option<Vec<Member>>,
}

/// Where a top-level member stands, in bytes.
#[derive(Debug)]
struct Member {
    name: String,
    key: Range<usize>,
    value: Range<usize>,
}

/// A finished value.
#[derive(Clone, Debug)]
struct Node {
    value: Value,
    /// At least so many bytes of JSON.
    bytes: usize,
    /// Containers within containers.
    levels: usize,
    /// Whether it can be a key, and which.
    key: Option<String>,
}

/// A container that is not finished.
struct Open {
    anchor: usize,
    place: Place,
    bytes: usize,
    levels: usize,
    start: usize,
    items: Items,
}

enum Items {
    Sequence(Vec<Value>),
    Mapping { members: Map<String, Value>, key: Option<String> },
}

struct Reader<'a> {
    limits: &'a Limits,
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    /// Bytes so far, copies by aliases included.
    bytes: usize,
    root: Option<Node>,
    read: Read,
    keys: Vec<Range<usize>>,
}

/// Reads the text between the fences.
pub(super) fn read(inner: &str, limits: &Limits) -> Result<Read, Flaw> {
    let mut parser = Parser::new_from_str_with_options(inner, options(limits));
    let mut reader = Reader {
        limits,
        stack: Vec::new(),
        anchors: HashMap::new(),
        bytes: 0,
        root: None,
        read: Read::default(),
        keys: Vec::new(),
    };
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            let marker = error.marker();
            let at = Place { line: marker.line().max(1), column: marker.col() + 1 };
            if error.to_string().contains("recursion limit") {
                too_deep(limits, at)
            } else {
                Flaw::bad(at, error.info())
            }
        })?;
        reader.take(event, span)?;
    }
    match reader.root.map(|root| root.value) {
        Some(Value::Object(fields)) => Ok(Read { fields, ..reader.read }),
        // Nothing but comments.
        None | Some(Value::Null) => Ok(Read { members: Some(Vec::new()), ..Read::default() }),
        Some(_) => Err(Flaw::bad(Place::default(), "it must be a mapping of names to values")),
    }
}

fn options(limits: &Limits) -> Options {
    let mut options = Options::default();
    options.set_emit_comments(false);
    // One level more than allowed, so that the refusal is ours.
    options.flow_nesting_limit = limits.fields_levels.saturating_add(1);
    options.block_nesting_limit = options.flow_nesting_limit;
    options
}

fn too_deep(limits: &Limits, at: Place) -> Flaw {
    Flaw::Large { at, why: format!("fields may be nested at most {} levels deep", limits.fields_levels) }
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Flaw> {
        let at = place(&span);
        let bytes = span.byte_range().unwrap_or_default();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar::resolve(&text, style, tag.as_deref());
                let size = value.as_str().map_or(1, |text| text.len() + 2);
                let node = Node { value, bytes: size, levels: 0, key: Some(text.into_owned()) };
                self.finish(node, anchor, at, bytes)
            }
            Event::SequenceStart(_, anchor, _) => self.open(Items::Sequence(Vec::new()), anchor, at, bytes.start),
            Event::MappingStart(style, anchor, _) => {
                if self.stack.is_empty() && style == StructureStyle::Block {
                    self.read.members = Some(Vec::new());
                }
                self.open(Items::Mapping { members: Map::new(), key: None }, anchor, at, bytes.start)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(bytes.end),
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => self.finish(node.clone(), 0, at, bytes),
                None => Err(Flaw::bad(at, "an alias within what it is an alias of")),
            },
            Event::DocumentStart(..) if self.root.is_some() => Err(Flaw::bad(at, "a second document")),
            _ => Ok(()),
        }
    }

    fn open(&mut self, items: Items, anchor: usize, place: Place, start: usize) -> Result<(), Flaw> {
        if self.stack.len() >= self.limits.fields_levels {
            return Err(too_deep(self.limits, place));
        }
        self.stack.push(Open { anchor, place, bytes: 2, levels: 0, start, items });
        Ok(())
    }

    fn close(&mut self, end: usize) -> Result<(), Flaw> {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        let value = match open.items {
            Items::Sequence(items) => Value::Array(items),
            Items::Mapping { members, .. } => Value::Object(members),
        };
        // What is in it was counted already.
        self.bytes = self.bytes.saturating_sub(open.bytes - 2);
        let node = Node { value, bytes: open.bytes, levels: open.levels + 1, key: None };
        self.finish(node, open.anchor, open.place, open.start..end)
    }

    fn finish(&mut self, node: Node, anchor: usize, at: Place, bytes: Range<usize>) -> Result<(), Flaw> {
        self.bytes = self.bytes.saturating_add(node.bytes);
        if self.bytes > self.limits.fields_bytes {
            let why = format!("fields may have at most {} bytes as JSON", self.limits.fields_bytes);
            return Err(Flaw::Large { at, why });
        }
        if self.stack.len() + node.levels > self.limits.fields_levels {
            return Err(too_deep(self.limits, at));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let is_top = self.stack.len() == 1;
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.bytes += node.bytes;
        match &mut open.items {
            Items::Sequence(items) => {
                open.levels = open.levels.max(node.levels);
                items.push(node.value);
            }
            Items::Mapping { members, key } => match key.take() {
                None => {
                    let name = node.key.ok_or_else(|| Flaw::bad(at, "a list or a mapping cannot be a name"))?;
                    if members.contains_key(&name) {
                        return Err(Flaw::bad(at, format!("{name:?} is there twice")));
                    }
                    if is_top {
                        self.keys.push(bytes);
                    }
                    *key = Some(name);
                }
                Some(name) => {
                    open.levels = open.levels.max(node.levels);
                    if is_top && let (Some(all), Some(key)) = (&mut self.read.members, self.keys.pop()) {
                        all.push(Member { name: name.clone(), key, value: bytes });
                    }
                    members.insert(name, node.value);
                }
            },
        }
        Ok(())
    }
}
