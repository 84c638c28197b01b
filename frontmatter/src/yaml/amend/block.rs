//! Members and items that stand one below the other.
//!
//! Rule: blank lines and comments belong to what follows them, and stay when it goes. Comments that are indented deeper
//! than a member belong to the member.

use std::ops::Range;

use serde_json::{Map, Value};

use super::super::super::Flaw;
use super::super::super::same::Same;
use super::super::shape::{Kind, Member, Shape};
use super::super::write::{Ordered, behind_name, entry, item, shifted};
use super::{Amendment, Node};

/// What comes before a key or a dash on its line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// The dash of the list that the block is an item of.
    Dash,
}

/// Where a member or an item begins.
#[derive(Clone, Copy)]
struct Head {
    start: usize,
    indent: usize,
    before: Before,
}

impl<'v> Amendment<'_, 'v> {
    pub(super) fn block_mapping(
        &mut self,
        members: &'v [Member],
        old: &'v Map<String, Value>,
        new: &'v Map<String, Value>,
        limit: usize,
    ) -> Result<Option<()>, Flaw> {
        let heads = members.iter().map(|member| head(self.text, member.key.range.start));
        let Some(heads) = heads.collect::<Option<Vec<_>>>() else { return Ok(None) };
        let indent = heads.first().map_or(0, |head| head.indent);
        for (place, (member, at)) in members.iter().zip(&heads).enumerate() {
            let next = heads.get(place + 1).map_or(limit, |next| next.start);
            let region = at.start..self.own_lines(member.end(), next, indent + 1);
            match (old.get(&member.name), new.get(&member.name)) {
                (Some(old), Some(new)) => {
                    self.member(member, Node { shape: &member.value, old, new }, region, indent)?;
                }
                _ if at.before == Before::Nothing => {
                    self.gone(&member.key, &member.value);
                    self.put(region, String::new());
                }
                // The next one takes its place behind the dash.
                _ => match members.get(place + 1) {
                    Some(next) if region.end == heads[place + 1].start && new.contains_key(&next.name) => {
                        self.gone(&member.key, &member.value);
                        self.put(at.start..region.end + indent, String::new());
                    }
                    _ => return Ok(None),
                },
            }
        }
        let end = members.last().map_or(limit, |last| self.own_lines(last.end(), limit, indent));
        for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
            self.put(end..end, shifted(&entry(name, Ordered::new(value))?, indent, self.eol));
        }
        Ok(Some(()))
    }

    fn member(&mut self, member: &Member, node: Node<'v>, region: Range<usize>, indent: usize) -> Result<(), Flaw> {
        if self.stays(node) || self.within(node, region.end)?.is_some() {
            return Ok(());
        }
        node.shape.anchors(&mut self.touched);
        let value = Ordered { value: node.new, shape: Some(node.shape) };
        let lines = behind_name(&member.name, value)?;
        let is_beside_key = !self.text[member.key.range.end..node.shape.range.start].contains('\n');
        if is_beside_key && let Some(line) = self.line_for(node.shape, node.new, lines.trim_start_matches(':')) {
            self.keeps_anchor(node);
            self.put(node.shape.range.clone(), self.date(node).unwrap_or(line));
            return Ok(());
        }
        let key = &self.text[region.start..member.key.range.end];
        let text = format!("{key}{}", &shifted(&lines, indent, self.eol)[indent..]);
        self.put(region, text);
        Ok(())
    }

    pub(super) fn block_sequence(
        &mut self,
        items: &'v [Shape],
        old: &'v [Value],
        new: &'v [Value],
        limit: usize,
    ) -> Result<Option<()>, Flaw> {
        let heads = items.iter().map(|item| dash(self.text, item.range.start)).collect::<Option<Vec<_>>>();
        let Some(heads) = heads else { return Ok(None) };
        let Some(first) = heads.first().copied() else { return Ok(None) };
        let indent = first.indent;
        let regions: Vec<_> = items
            .iter()
            .zip(&heads)
            .enumerate()
            .map(|(place, (item, head))| {
                let next = heads.get(place + 1).map_or(limit, |next| next.start);
                head.start..self.own_lines(item.end, next, indent + 1)
            })
            .collect();
        let same = Same::of(old, new);
        let goes_first = same.head == 0 && old.len() > new.len() && same.kept(old, new) == 0;
        if first.before == Before::Dash && goes_first {
            return Ok(None);
        }
        for (place, (shape, region)) in items.iter().zip(&regions).enumerate() {
            let Some(at) = same.place_of(place, old, new) else {
                self.gone(shape, shape);
                self.put(region.clone(), String::new());
                continue;
            };
            self.item(Node { shape, old: &old[place], new: &new[at] }, region.clone(), indent)?;
        }
        let added = same.added(old, new);
        if !added.is_empty() {
            let end = match added.start {
                0 if first.before == Before::Nothing => regions[0].start,
                0 => return Ok(None),
                at if at == old.len() => self.own_lines(items[at - 1].end, limit, indent),
                at => regions[at - 1].end,
            };
            for value in &new[added] {
                self.put(end..end, shifted(&item(Ordered::new(value))?, indent, self.eol));
            }
        }
        Ok(Some(()))
    }

    fn item(&mut self, node: Node<'v>, region: Range<usize>, indent: usize) -> Result<(), Flaw> {
        if self.stays(node) || self.within(node, region.end)?.is_some() {
            return Ok(());
        }
        node.shape.anchors(&mut self.touched);
        let lines = item(Ordered { value: node.new, shape: Some(node.shape) })?;
        if let Some(line) = self.line_for(node.shape, node.new, lines.trim_start_matches('-')) {
            self.keeps_anchor(node);
            self.put(node.shape.range.clone(), self.date(node).unwrap_or(line));
            return Ok(());
        }
        let before = &self.text[region.start..];
        let before = &before[..before.len() - before.trim_start_matches(' ').len()];
        let text = format!("{before}{}", &shifted(&lines, indent, self.eol)[indent..]);
        self.put(region, text);
        Ok(())
    }

    /// What to put in the place of a value on one line, so that a comment behind it stays; `None` where it takes more.
    fn line_for(&self, shape: &Shape, value: &Value, lines: &str) -> Option<String> {
        let old = &self.text[shape.range.clone()];
        let is_on_one_line = !old.is_empty() && !old.contains('\n') && lines.lines().count() == 1;
        let is_block = matches!(shape.kind, Kind::Mapping(..) | Kind::Sequence(..)) && !old.starts_with(['{', '[']);
        (is_on_one_line && !is_block && shape.can_be(value)).then(|| lines.trim().to_owned())
    }

    pub(super) fn gone(&mut self, key: &Shape, value: &Shape) {
        key.anchors(&mut self.touched);
        value.anchors(&mut self.touched);
    }

    /// The end of the lines of something that ends at `end`, with the comments behind it that are indented by `least`
    /// or more, and not beyond `limit`.
    fn own_lines(&self, end: usize, limit: usize, least: usize) -> usize {
        let start = line_end(self.text, end).min(limit);
        let mut own = start;
        let mut at = start;
        for line in self.text[start..limit].split_inclusive('\n') {
            at += line.len();
            let content = line.trim_start_matches(' ');
            if content.starts_with('#') {
                if line.len() - content.len() < least {
                    break;
                }
                own = at;
            } else if !content.trim().is_empty() {
                break;
            }
        }
        own
    }
}

/// The end of the line that something is on that ends at `at`.
fn line_end(text: &str, at: usize) -> usize {
    if text[..at].ends_with('\n') {
        return at;
    }
    text[at..].find('\n').map_or(text.len(), |end| at + end + 1)
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |at| at + 1)
}

/// Where a member begins whose key is at `at`; `None` for a key behind a question mark.
fn head(text: &str, at: usize) -> Option<Head> {
    let line = line_start(text, at);
    let before = &text[line..at];
    let indent = before.len() - before.trim_start_matches(' ').len();
    match before[indent..].chars().next() {
        // Anchor and tag of the key, or a byte order mark.
        None | Some('&' | '!' | '\u{feff}') => Some(Head { start: line, indent, before: Before::Nothing }),
        Some('-') if before.trim_start_matches(['-', ' ']).is_empty() => {
            Some(Head { start: at, indent: before.len(), before: Before::Dash })
        }
        Some(_) => None,
    }
}

/// Where an item begins whose content is at `at`; `None` unless its dash is before it, with anchor and tag at most between.
fn dash(text: &str, at: usize) -> Option<Head> {
    let blank = [' ', '\n', '\r'];
    let mut before = text[..at].trim_end_matches(blank);
    while let Some((rest, property)) = before.rsplit_once(blank)
        && property.starts_with(['&', '!'])
    {
        before = rest.trim_end_matches(blank);
    }
    let before = before.strip_suffix('-')?;
    let line = line_start(text, before.len());
    let (start, before) = (before.len(), &before[line..]);
    match before.trim_start_matches(' ') {
        "" => Some(Head { start: line, indent: before.len(), before: Before::Nothing }),
        outer if outer.trim_start_matches(['-', ' ']).is_empty() => {
            Some(Head { start, indent: before.len(), before: Before::Dash })
        }
        _ => None,
    }
}
