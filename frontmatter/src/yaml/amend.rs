//! Changing YAML text: only the nodes that changed, each in its place, however deep.
//!
//! Deliberately absent: a proof that the result is right. The caller reads it back, and takes another way where it is not.

mod block;
mod flow;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use granit_parser::StructureStyle::{Block, Flow};
use holdfast_protocol::Limits;
use serde_json::{Map, Value};

use super::super::place::Place;
use super::super::{Fenced, Flaw};
use super::shape::{Kind, Shape};
use super::write::{Ordered, entry, json, shifted};
use super::{Read, read, scalar};

/// How often aliases may be written out because what they lead to changed, and so on along them.
const ROUNDS: usize = 8;

/// How far down a change goes before all of a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// To the member or item that changed.
    Leaves,
    /// To the top-level member that it is in.
    Top,
}

/// A change of a text, being made.
struct Amendment<'a, 'v> {
    text: &'a str,
    eol: &'a str,
    reach: Reach,
    /// What to put where, in order but for nested ones that end where others begin.
    edits: Vec<(Range<usize>, String)>,
    /// What nodes with anchors are now, as far as they changed and kept their anchors.
    anchored: HashMap<usize, &'v Value>,
    /// Anchors of nodes that are no longer what they were.
    touched: HashSet<usize>,
    /// Anchors whose aliases are to be written out.
    broken: HashSet<usize>,
}

/// A node that is to have another value.
#[derive(Clone, Copy)]
struct Node<'v> {
    shape: &'v Shape,
    old: &'v Value,
    new: &'v Value,
}

/// The text between the fences with `fields`, everything else as it was.
pub(in super::super) fn amend(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Flaw> {
    reaching(Reach::Leaves, fenced, fields, limits)
}

/// As `amend`, with all of each top-level member that changed written again.
pub(in super::super) fn amend_tops(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Flaw> {
    reaching(Reach::Top, fenced, fields, limits)
}

/// The text between the fences of nothing but `fields`, in the order that they had.
pub(in super::super) fn anew(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Flaw> {
    let old = read(fenced.inner, limits).map_or_else(|_| Shape::nothing(), |old| old.shape);
    let members = Ordered::members(fields, &old).into_iter();
    members.map(|(name, value)| Ok(shifted(&entry(name, value)?, 0, fenced.end_of_line()))).collect()
}

/// As `anew`, each on one line as JSON: plain, and nothing that could be read otherwise.
pub(in super::super) fn as_json(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Flaw> {
    let old = read(fenced.inner, limits).map_or_else(|_| Shape::nothing(), |old| old.shape);
    let members = Ordered::members(fields, &old).into_iter();
    members
        .map(|(name, value)| Ok(format!("{}: {}{}", json(name, name)?, json(name, &value)?, fenced.end_of_line())))
        .collect()
}

fn reaching(reach: Reach, fenced: &Fenced<'_>, fields: &Map<String, Value>, limits: &Limits) -> Result<String, Flaw> {
    let old = read(fenced.inner, limits)?;
    let (text, eol) = (fenced.inner, fenced.end_of_line());
    let mut broken = HashSet::new();
    for _ in 0..ROUNDS {
        let mut amendment = Amendment {
            text,
            eol,
            reach,
            edits: Vec::new(),
            anchored: HashMap::new(),
            touched: HashSet::new(),
            broken: broken.clone(),
        };
        amendment.whole(&old, fields)?;
        // An alias of what changed has the old value still: written out, and all again, since it may have an anchor too.
        amendment.touched.retain(|anchor| !broken.contains(anchor));
        if !old.shape.leads_to(&amendment.touched) {
            return Ok(amendment.finish());
        }
        broken.extend(amendment.touched);
    }
    Err(Flaw::bad(Place::default(), "its aliases lead too far"))
}

impl<'v> Amendment<'_, 'v> {
    fn whole(&mut self, old: &'v Read, fields: &'v Map<String, Value>) -> Result<(), Flaw> {
        let made = match &old.shape.kind {
            Kind::Mapping(Block, members) => self.block_mapping(members, &old.fields, fields, self.text.len())?,
            Kind::Mapping(Flow, members) if self.reach == Reach::Leaves => {
                self.flow_mapping(&old.shape, members, &old.fields, fields)?
            }
            _ => None,
        };
        made.ok_or_else(|| Flaw::bad(Place::default(), "it cannot be changed in its place"))
    }

    /// Whether there is nothing to do for a node.
    fn stays(&self, node: Node<'_>) -> bool {
        if let Kind::Alias(anchor) = node.shape.kind
            && let Some(now) = self.anchored.get(&anchor)
        {
            return *now == node.new;
        }
        node.old == node.new && !node.shape.leads_to(&self.broken)
    }

    /// Changes what is in a node and leaves the node; `None` where that cannot be. `limit` is where its lines end.
    fn within(&mut self, node: Node<'v>, limit: usize) -> Result<Option<()>, Flaw> {
        if self.reach == Reach::Top {
            return Ok(None);
        }
        let (edits, shape) = (self.edits.len(), node.shape);
        let made = match (&shape.kind, node.old, node.new) {
            (Kind::Mapping(Block, members), Value::Object(old), Value::Object(new)) if !new.is_empty() => {
                self.block_mapping(members, old, new, limit)?
            }
            (Kind::Mapping(Flow, members), Value::Object(old), Value::Object(new)) => {
                self.flow_mapping(shape, members, old, new)?
            }
            (Kind::Sequence(Block, items), Value::Array(old), Value::Array(new)) if !new.is_empty() => {
                self.block_sequence(items, old, new, limit)?
            }
            (Kind::Sequence(Flow, items), Value::Array(old), Value::Array(new)) => {
                self.flow_sequence(shape, items, old, new)?
            }
            _ => None,
        };
        if made.is_none() {
            self.edits.truncate(edits);
        } else if node.old != node.new {
            self.keeps_anchor(node);
        }
        Ok(made)
    }

    fn keeps_anchor(&mut self, node: Node<'v>) {
        if node.shape.anchor != 0 {
            self.touched.insert(node.shape.anchor);
            self.anchored.insert(node.shape.anchor, node.new);
        }
    }

    /// What changes from one date to another: a plain one, where it was, since other readers may tell it from a string.
    fn date(&self, node: Node<'_>) -> Option<String> {
        let new = node.new.as_str().filter(|new| scalar::is_date(new))?;
        scalar::is_date(&self.text[node.shape.range.clone()]).then(|| new.to_owned())
    }

    fn put(&mut self, range: Range<usize>, text: String) {
        self.edits.push((range, text));
    }

    fn finish(mut self) -> String {
        // Stable: what is put at the end of a nested block comes before what follows it.
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        let mut text = String::with_capacity(self.text.len() + 64);
        let mut at = 0;
        for (range, new) in &self.edits {
            // One within another that goes anyway.
            if range.start < at {
                continue;
            }
            text.push_str(&self.text[at..range.start]);
            text.push_str(new);
            at = range.end;
        }
        text.push_str(&self.text[at..]);
        text
    }
}
