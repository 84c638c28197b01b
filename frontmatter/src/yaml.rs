//! YAML: from events to JSON values, with the places of all nodes.
//!
//! Invariant: nothing recurses, and what aliases multiply is counted before it is copied, so that no text makes more than
//! the limits allow. Plain scalars are read as the core schema of YAML 1.2 says: `yes`, `no` and dates are strings.

mod amend;
mod scalar;
mod shape;
mod write;

pub(super) use amend::{amend, amend_tops, anew, as_json};

use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, Span, Tag};
use holdfast_protocol::Limits;
use serde_json::{Map, Value};

use super::Flaw;
use super::place::Place;
use shape::{Kind, Member, Shape, Tagged};

/// A front matter that was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) fields: Map<String, Value>,
    /// Where they stand.
    shape: Shape,
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
    place: Place,
    bytes: usize,
    levels: usize,
    items: Items,
    /// Without what is in it so far.
    shape: Shape,
}

enum Items {
    Sequence(Vec<Value>),
    Mapping { members: Map<String, Value>, key: Option<(String, Shape)> },
}

struct Reader<'a> {
    text: &'a str,
    limits: &'a Limits,
    stack: Vec<Open>,
    anchors: HashMap<usize, Node>,
    /// Bytes so far, copies by aliases included.
    bytes: usize,
    root: Option<(Node, Shape)>,
}

/// Reads the text between the fences.
pub(super) fn read(inner: &str, limits: &Limits) -> Result<Read, Flaw> {
    let mut parser = Parser::new_from_str_with_options(inner, options(limits));
    let mut reader = Reader { text: inner, limits, stack: Vec::new(), anchors: HashMap::new(), bytes: 0, root: None };
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
    match reader.root.map(|(root, shape)| (root.value, shape)) {
        Some((Value::Object(fields), shape)) => Ok(Read { fields, shape }),
        // Nothing but comments.
        None | Some((Value::Null, _)) => Ok(Read { fields: Map::new(), shape: Shape::nothing() }),
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

fn tagged(tag: Option<&Tag>) -> Tagged {
    tag.map_or(Tagged::No, |tag| if tag.is_custom() { Tagged::Custom } else { Tagged::Core })
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Flaw> {
        let at = place(&span);
        let range = span.byte_range().unwrap_or_default();
        let shape = |kind, anchor, tag| Shape { end: range.end, range: range.clone(), anchor, tag, kind };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let mut shape = shape(Kind::Scalar, anchor, tagged(tag.as_deref()));
                shape.end -= scalar::blank_lines_behind(&text, style, &self.text[range.clone()]);
                let value = scalar::resolve(&text, style, tag.as_deref());
                let size = value.as_str().map_or(1, |text| text.len() + 2);
                let node = Node { value, bytes: size, levels: 0, key: Some(text.into_owned()) };
                self.finish(node, shape, at)
            }
            Event::SequenceStart(style, anchor, tag) => {
                let shape = shape(Kind::Sequence(style, Vec::new()), anchor, tagged(tag.as_deref()));
                self.open(Items::Sequence(Vec::new()), shape, at)
            }
            Event::MappingStart(style, anchor, tag) => {
                let shape = shape(Kind::Mapping(style, Vec::new()), anchor, tagged(tag.as_deref()));
                self.open(Items::Mapping { members: Map::new(), key: None }, shape, at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(range.end),
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => self.finish(node.clone(), shape(Kind::Alias(id), 0, Tagged::No), at),
                None => Err(Flaw::bad(at, "an alias within what it is an alias of")),
            },
            Event::DocumentStart(..) if self.root.is_some() => Err(Flaw::bad(at, "a second document")),
            _ => Ok(()),
        }
    }

    fn open(&mut self, items: Items, shape: Shape, place: Place) -> Result<(), Flaw> {
        if self.stack.len() >= self.limits.fields_levels {
            return Err(too_deep(self.limits, place));
        }
        self.stack.push(Open { place, bytes: 2, levels: 0, items, shape });
        Ok(())
    }

    fn close(&mut self, end: usize) -> Result<(), Flaw> {
        let Some(mut open) = self.stack.pop() else { return Ok(()) };
        let value = match open.items {
            Items::Sequence(items) => Value::Array(items),
            Items::Mapping { members, .. } => Value::Object(members),
        };
        open.shape.close(end);
        // What is in it was counted already.
        self.bytes = self.bytes.saturating_sub(open.bytes - 2);
        let node = Node { value, bytes: open.bytes, levels: open.levels + 1, key: None };
        self.finish(node, open.shape, open.place)
    }

    fn finish(&mut self, node: Node, shape: Shape, at: Place) -> Result<(), Flaw> {
        self.bytes = self.bytes.saturating_add(node.bytes);
        if self.bytes > self.limits.fields_bytes {
            let why = format!("fields may have at most {} bytes as JSON", self.limits.fields_bytes);
            return Err(Flaw::Large { at, why });
        }
        if self.stack.len() + node.levels > self.limits.fields_levels {
            return Err(too_deep(self.limits, at));
        }
        if shape.anchor != 0 {
            self.anchors.insert(shape.anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some((node, shape));
            return Ok(());
        };
        open.bytes += node.bytes;
        match (&mut open.items, &mut open.shape.kind) {
            (Items::Sequence(items), Kind::Sequence(_, shapes)) => {
                open.levels = open.levels.max(node.levels);
                items.push(node.value);
                shapes.push(shape);
            }
            (Items::Mapping { members, key }, Kind::Mapping(_, shapes)) => match key.take() {
                None => {
                    let name = node.key.ok_or_else(|| Flaw::bad(at, "a list or a mapping cannot be a name"))?;
                    if members.contains_key(&name) {
                        return Err(Flaw::bad(at, format!("{name:?} is there twice")));
                    }
                    *key = Some((name, shape));
                }
                Some((name, key)) => {
                    open.levels = open.levels.max(node.levels);
                    members.insert(name.clone(), node.value);
                    shapes.push(Member { name, key, value: shape });
                }
            },
            _ => {}
        }
        Ok(())
    }
}
