//! Where the nodes of a YAML text stand, so that one can be changed without a touch on the others.
//!
//! Deliberately absent: values. They are the fields, which have the same structure where there is no alias.

use std::collections::HashSet;
use std::ops::Range;

use granit_parser::StructureStyle;
use serde_json::Value;

/// A node, with its places in bytes.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Its content, without anchor and tag. A block begins at the content of its first member, or there about.
    pub(super) range: Range<usize>,
    /// The end of the last scalar, alias or bracket in it: comments and blank lines behind that are not its own.
    pub(super) end: usize,
    /// The number of its anchor; 0 where there is none.
    pub(super) anchor: usize,
    pub(super) tag: Tagged,
    pub(super) kind: Kind,
}

/// What stands before a node says about its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tagged {
    No,
    /// One of the core schema.
    Core,
    /// One that is not in the fields, and makes any scalar a string.
    Custom,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Scalar,
    /// An alias of the anchor with this number.
    Alias(usize),
    Sequence(StructureStyle, Vec<Shape>),
    Mapping(StructureStyle, Vec<Member>),
}

/// A member of a mapping, in the order of the text.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) key: Shape,
    pub(super) value: Shape,
}

impl Shape {
    /// A block mapping without members, as in a text of nothing but comments.
    pub(super) fn nothing() -> Self {
        let kind = Kind::Mapping(StructureStyle::Block, Vec::new());
        Self { range: 0..0, end: 0, anchor: 0, tag: Tagged::No, kind }
    }

    /// It has all that is in it, and its last token ends here.
    pub(super) fn close(&mut self, end: usize) {
        let last = match &self.kind {
            Kind::Sequence(StructureStyle::Block, items) => items.last().map(|item| item.end),
            Kind::Mapping(StructureStyle::Block, members) => members.last().map(|member| member.end()),
            _ => None,
        };
        self.range.end = end;
        self.end = last.unwrap_or(end);
    }

    pub(super) fn members(&self) -> &[Member] {
        if let Kind::Mapping(_, members) = &self.kind { members } else { &[] }
    }

    pub(super) fn items(&self) -> &[Shape] {
        if let Kind::Sequence(_, items) = &self.kind { items } else { &[] }
    }

    pub(super) fn has_properties(&self) -> bool {
        self.anchor != 0 || self.tag != Tagged::No
    }

    /// Whether `value` can stand behind its tag.
    pub(super) fn can_be(&self, value: &Value) -> bool {
        match self.tag {
            Tagged::No => true,
            Tagged::Core => false,
            Tagged::Custom => value.is_string() || value.is_object() || value.is_array(),
        }
    }

    /// Every node of it, itself included. The reader bounds how deep that goes.
    fn each(&self, see: &mut impl FnMut(&Shape)) {
        see(self);
        match &self.kind {
            Kind::Scalar | Kind::Alias(_) => {}
            Kind::Sequence(_, items) => items.iter().for_each(|item| item.each(see)),
            Kind::Mapping(_, members) => {
                for member in members {
                    member.key.each(see);
                    member.value.each(see);
                }
            }
        }
    }

    /// The anchors in it.
    pub(super) fn anchors(&self, into: &mut HashSet<usize>) {
        self.each(&mut |shape| {
            if shape.anchor != 0 {
                into.insert(shape.anchor);
            }
        });
    }

    /// Whether an alias in it leads to one of `anchors`.
    pub(super) fn leads_to(&self, anchors: &HashSet<usize>) -> bool {
        let mut leads = false;
        if !anchors.is_empty() {
            self.each(&mut |shape| leads |= matches!(shape.kind, Kind::Alias(to) if anchors.contains(&to)));
        }
        leads
    }
}

impl Member {
    /// The end of its value, or of its key where the value is nothing.
    pub(super) fn end(&self) -> usize {
        self.value.end.max(self.key.end)
    }
}
