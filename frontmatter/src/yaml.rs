//! YAML: from events to JSON values.
//!
//! Invariant: nothing recurses, and what aliases multiply is counted before it is copied, so that no text makes more
//! than the limits allow. Plain scalars are read as the core schema of YAML 1.2 says: `yes`, `no` and dates are
//! strings.

mod amend;
mod members;
mod scalar;

pub(super) use amend::{amend, as_json};
pub(super) use members::by_members;

use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, Span};
use serde_json::{Map, Value};

use super::place::Place;
use super::{Error, Limits};

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
    anchor: usize,
    bytes: usize,
    levels: usize,
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
    root: Option<Value>,
}

/// Reads the text between the fences.
pub(super) fn read(inner: &str, limits: &Limits) -> Result<Map<String, Value>, Error> {
    let mut parser = Parser::new_from_str_with_options(inner, options(limits));
    let mut reader = Reader { limits, stack: Vec::new(), anchors: HashMap::new(), bytes: 0, root: None };
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            let marker = error.marker();
            let at = Place { line: marker.line().max(1), column: marker.col() + 1 };
            if error.to_string().contains("recursion limit") {
                Error::too_deep(limits, at)
            } else {
                Error::bad(at, error.info())
            }
        })?;
        reader.take(event, span)?;
    }
    match reader.root {
        Some(Value::Object(fields)) => Ok(fields),
        // Nothing but comments.
        None | Some(Value::Null) => Ok(Map::new()),
        Some(_) => Err(Error::bad(Place::default(), "it must be a mapping of names to values")),
    }
}

fn options(limits: &Limits) -> Options {
    let mut options = Options::default();
    options.set_emit_comments(false);
    // One level more than allowed, so that the refusal is ours.
    options.flow_nesting_limit = limits.levels.saturating_add(1);
    options.block_nesting_limit = options.flow_nesting_limit;
    options
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Error> {
        let at = Place { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar::resolve(&text, style, tag.as_deref());
                let bytes = value.as_str().map_or(1, |text| text.len() + 2);
                self.finish(Node { value, bytes, levels: 0, key: Some(text.into_owned()) }, anchor, at)
            }
            Event::SequenceStart(_, anchor, _) => self.open(Items::Sequence(Vec::new()), anchor, at),
            Event::MappingStart(_, anchor, _) => {
                self.open(Items::Mapping { members: Map::new(), key: None }, anchor, at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => self.finish(node.clone(), 0, at),
                None => Err(Error::bad(at, "an alias within what it is an alias of")),
            },
            Event::DocumentStart(..) if self.root.is_some() => Err(Error::bad(at, "a second document")),
            _ => Ok(()),
        }
    }

    fn open(&mut self, items: Items, anchor: usize, place: Place) -> Result<(), Error> {
        if self.stack.len() >= self.limits.levels {
            return Err(Error::too_deep(self.limits, place));
        }
        self.stack.push(Open { place, anchor, bytes: 2, levels: 0, items });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(Open { place, anchor, bytes, levels, items }) = self.stack.pop() else { return Ok(()) };
        let value = match items {
            Items::Sequence(items) => Value::Array(items),
            Items::Mapping { members, .. } => Value::Object(members),
        };
        // What is in it was counted already.
        self.bytes = self.bytes.saturating_sub(bytes - 2);
        self.finish(Node { value, bytes, levels: levels + 1, key: None }, anchor, place)
    }

    /// Puts a finished value in the container that is open. `anchor` is 0 where it has none.
    fn finish(&mut self, node: Node, anchor: usize, at: Place) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(node.bytes);
        if self.bytes > self.limits.bytes {
            let why = format!("fields may have at most {} bytes as JSON", self.limits.bytes);
            return Err(Error::TooLarge { at, why });
        }
        if self.stack.len() + node.levels > self.limits.levels {
            return Err(Error::too_deep(self.limits, at));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node.value);
            return Ok(());
        };
        open.bytes += node.bytes;
        open.levels = open.levels.max(node.levels);
        match &mut open.items {
            Items::Sequence(items) => items.push(node.value),
            Items::Mapping { members, key } => match key.take() {
                None => {
                    let name = node.key.ok_or_else(|| Error::bad(at, "a list or a mapping cannot be a name"))?;
                    if members.contains_key(&name) {
                        return Err(Error::bad(at, format!("{name:?} is there twice")));
                    }
                    *key = Some(name);
                }
                Some(name) => {
                    members.insert(name, node.value);
                }
            },
        }
        Ok(())
    }
}
