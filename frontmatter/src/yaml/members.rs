//! Changing YAML by whole top-level members, in time that grows with the text and no faster.
//!
//! Invariant: a member that did not change keeps its lines, and so do comments and blank lines at the margin, which
//! belong to no member. A member that changed is amended as a text of its own or, where it is too large for that,
//! written again without its comments.
//! Deliberately absent: roots that are no block mapping at the margin; and as in `amend`, a proof.

use granit_parser::{Event, Parser, StructureStyle};
use serde_json::{Map, Value};

use super::super::place::Place;
use super::super::{Error, Fenced, Limits};
use super::amend::{Work, fresh, json_lines};
use super::{options, read};

/// How many nodes all changes of members may walk.
const WORK_MAX: usize = 16 * 1024;

/// A top-level member and the lines of its text.
struct Member<'a> {
    name: String,
    text: &'a str,
    /// Whether an anchor or an alias is in it, so that it cannot be read or changed alone.
    is_linked: bool,
}

/// The text between the fences with `fields`: members that did not change are as they were.
pub(in super::super) fn by_members(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Error> {
    let (old, eol) = (read(fenced.inner, limits)?, fenced.end_of_line());
    let (head, members) = members(fenced.inner, limits)
        .ok_or_else(|| Error::bad(Place::default(), "its members do not begin at the margin"))?;
    let is_same = |name: &str| old.get(name) == fields.get(name);
    // Without the anchor that it names an alias cannot stand.
    let links_go = members.iter().any(|member| member.is_linked && !is_same(&member.name));
    let (mut text, mut work) = (head.to_owned(), Work(WORK_MAX));
    for Member { name, text: lines, is_linked } in &members {
        let (own, behind) = lines.split_at(own_end(lines));
        match fields.get(name) {
            Some(_) if is_same(name) && !(*is_linked && links_go) => text += own,
            Some(new) => {
                let new = one(name, new);
                let amended = if *is_linked { None } else { work.amended(own, &new, eol, limits) };
                text += &amended.unwrap_or_else(|| anew(&new, eol, limits));
            }
            None => {}
        }
        text += behind;
    }
    let added = fields.iter().filter(|(name, _)| !old.contains_key(*name));
    text.extend(added.map(|(name, value)| anew(&one(name, value), eol, limits)));
    Ok(text)
}

/// A member in several lines, as a person would write it, or on one where those would be read otherwise.
fn anew(member: &Map<String, Value>, eol: &str, limits: &Limits) -> String {
    let lines = fresh(member, eol);
    if read(&lines, limits).is_ok_and(|read| read == *member) { lines } else { json_lines(member, eol) }
}

fn one(name: &str, value: &Value) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value.clone())])
}

/// Where a member's own lines end, and blank lines and comments at the margin begin.
fn own_end(lines: &str) -> usize {
    let is_own = |line: &&str| !line.starts_with('#') && !line.trim().is_empty();
    let behind: usize = lines.split_inclusive('\n').rev().take_while(|line| !is_own(line)).map(str::len).sum();
    lines.len() - behind
}

/// What stands before the first member, and the members; `None` where they do not begin at the margin.
fn members<'a>(inner: &'a str, limits: &Limits) -> Option<(&'a str, Vec<Member<'a>>)> {
    if inner.replace("\r\n", "").contains('\r') {
        return None;
    }
    // The name, the line on which it begins, from 1, and whether it is linked.
    let mut begun: Vec<(String, usize, bool)> = Vec::new();
    let (mut depth, mut is_key) = (0, true);
    for event in Parser::new_from_str_with_options(inner, options(limits)) {
        let (event, span) = event.ok()?;
        let is_linked = event.anchor_id().is_some() || matches!(event, Event::Alias(_));
        if depth == 1 && is_key {
            match event {
                Event::Scalar(name, ..) if span.start.col() == 0 => {
                    begun.push((name.into_owned(), span.start.line(), is_linked));
                    is_key = false;
                }
                Event::MappingEnd => break,
                _ => return None,
            }
            continue;
        }
        if let Some(last) = begun.last_mut() {
            last.2 |= is_linked;
        }
        match event {
            Event::MappingStart(style, ..) if depth == 0 && style != StructureStyle::Block => return None,
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => depth -= 1,
            Event::Scalar(..) | Event::Alias(_) => {}
            _ => continue,
        }
        is_key = depth == 1;
    }
    let mut starts = Vec::new();
    let mut at = 0;
    for line in inner.split_inclusive('\n') {
        starts.push(at);
        at += line.len();
    }
    let start = |line: usize| starts.get(line.checked_sub(1)?).copied();
    let head = &inner[..start(begun.first()?.1)?];
    let ends = begun.iter().skip(1).map(|(_, line, _)| start(*line)).chain([Some(inner.len())]).collect::<Vec<_>>();
    let members = begun
        .into_iter()
        .zip(ends)
        .map(|((name, line, is_linked), end)| Some(Member { name, text: inner.get(start(line)?..end?)?, is_linked }));
    Some((head, members.collect::<Option<_>>()?))
}
