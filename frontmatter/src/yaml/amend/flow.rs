//! Members and items between brackets.

use std::ops::Range;

use serde_json::{Map, Value};

use super::super::super::Flaw;
use super::super::super::same::Same;
use super::super::shape::{Member, Shape};
use super::super::write::{Ordered, in_flow, in_flow_mapping};
use super::{Amendment, Node};

/// Something between commas.
struct Part<'a> {
    /// Where it begins; `None` where an anchor or a tag is before it.
    start: Option<usize>,
    /// Where it ends; `None` where the text does not say.
    end: Option<usize>,
    key: &'a Shape,
    value: &'a Shape,
}

impl<'a> Part<'a> {
    fn of(key: &'a Shape, value: &'a Shape) -> Self {
        let is_nothing = value.range.is_empty() && value.items().is_empty() && value.members().is_empty();
        Self {
            start: (!key.has_properties()).then_some(key.range.start),
            end: (!is_nothing).then_some(value.range.end),
            key,
            value,
        }
    }
}

impl<'v> Amendment<'_, 'v> {
    pub(super) fn flow_mapping(
        &mut self,
        shape: &Shape,
        members: &'v [Member],
        old: &'v Map<String, Value>,
        new: &'v Map<String, Value>,
    ) -> Result<Option<()>, Flaw> {
        for member in members {
            let (Some(old), Some(new)) = (old.get(&member.name), new.get(&member.name)) else { continue };
            if self.in_brackets(Node { shape: &member.value, old, new })?.is_none() {
                return Ok(None);
            }
        }
        let added = new.iter().filter(|(name, _)| !old.contains_key(*name));
        let added = added.map(|(name, value)| in_flow_mapping(name, Ordered::new(value)));
        let added = added.collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<_> = members.iter().map(|member| Part::of(&member.key, &member.value)).collect();
        let stays: Vec<_> = members.iter().map(|member| new.contains_key(&member.name)).collect();
        Ok(self.parts(shape, &parts, &stays, parts.len(), &added))
    }

    pub(super) fn flow_sequence(
        &mut self,
        shape: &Shape,
        items: &'v [Shape],
        old: &'v [Value],
        new: &'v [Value],
    ) -> Result<Option<()>, Flaw> {
        let same = Same::of(old, new);
        let places: Vec<_> = (0..items.len()).map(|place| same.place_of(place, old, new)).collect();
        for (place, item) in items.iter().enumerate() {
            let Some(at) = places[place] else { continue };
            if self.in_brackets(Node { shape: item, old: &old[place], new: &new[at] })?.is_none() {
                return Ok(None);
            }
        }
        let added = same.added(old, new);
        let at = added.start;
        let added = new[added].iter().map(|value| in_flow(Ordered::new(value))).collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<_> = items.iter().map(|item| Part::of(item, item)).collect();
        let stays: Vec<_> = places.iter().map(Option::is_some).collect();
        Ok(self.parts(shape, &parts, &stays, at.min(parts.len()), &added))
    }

    fn in_brackets(&mut self, node: Node<'v>) -> Result<Option<()>, Flaw> {
        if self.stays(node) || self.within(node, node.shape.range.end)?.is_some() {
            return Ok(Some(()));
        }
        if node.shape.range.is_empty() || !node.shape.can_be(node.new) {
            return Ok(None);
        }
        node.shape.anchors(&mut self.touched);
        self.keeps_anchor(node);
        let text = match self.date(node) {
            Some(date) => date,
            None => in_flow(Ordered { value: node.new, shape: Some(node.shape) })?,
        };
        self.put(node.shape.range.clone(), text);
        Ok(Some(()))
    }

    /// Takes out the parts that do not stay, and puts `added` before the part at `place`.
    fn parts(
        &mut self,
        shape: &Shape,
        parts: &[Part<'_>],
        stays: &[bool],
        place: usize,
        added: &[String],
    ) -> Option<()> {
        if added.is_empty() && !stays.contains(&false) {
            return Some(());
        }
        // A single pair in a list has no brackets of its own.
        let inside = self.inside(shape)?;
        if parts.is_empty() {
            self.text[inside.clone()].trim().is_empty().then_some(())?;
            self.put(inside, added.join(", "));
            return Some(());
        }
        let mut last = None;
        for (at, part) in parts.iter().enumerate() {
            if stays[at] {
                match last {
                    None if at > 0 => self.put(inside.start..part.start?, String::new()),
                    _ => {}
                }
                last = Some(part);
                continue;
            }
            self.gone(part.key, part.value);
            if let Some(before) = at.checked_sub(1).filter(|_| last.is_some()) {
                self.put(parts[before].end?..part.end?, String::new());
            }
        }
        last?;
        match (place.checked_sub(1), added) {
            (_, []) => {}
            (None, _) => {
                let start = parts[0].start?;
                self.put(start..start, added.iter().map(|text| format!("{text}, ")).collect());
            }
            (Some(before), _) => {
                let end = parts[before].end?;
                self.put(end..end, added.iter().map(|text| format!(", {text}")).collect());
            }
        }
        Some(())
    }

    fn inside(&self, shape: &Shape) -> Option<Range<usize>> {
        let text = &self.text[shape.range.clone()];
        let is_in_brackets = text.len() >= 2 && text.starts_with(['{', '[']) && text.ends_with(['}', ']']);
        is_in_brackets.then(|| shape.range.start + 1..shape.range.end - 1)
    }
}
