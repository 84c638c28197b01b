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

/// A top-level member.
struct Member {
    name: String,
    /// The byte at which its first line begins. Its text ends where the next member's begins.
    start: usize,
    /// Whether an anchor or an alias is in it, so that it cannot be read or changed alone.
    is_linked: bool,
}

/// The text between the fences with `fields`: members that did not change are as they were.
pub(in super::super) fn by_members(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Error> {
    let (inner, eol) = (fenced.inner, fenced.end_of_line());
    let old = read(inner, limits)?;
    let members =
        members(inner, limits).ok_or_else(|| Error::bad(Place::default(), "its members do not begin at the margin"))?;
    let is_same = |name: &str| old.get(name) == fields.get(name);
    // Without the anchor that it names an alias cannot stand.
    let links_go = members.iter().any(|member| member.is_linked && !is_same(&member.name));
    let head = members.first().map_or(inner.len(), |first| first.start);
    let (mut text, mut work) = (inner[..head].to_owned(), Work(WORK_MAX));
    let ends = members.iter().skip(1).map(|next| next.start).chain([inner.len()]);
    for (Member { name, start, is_linked }, end) in members.iter().zip(ends) {
        let lines = &inner[*start..end];
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

/// The members, none in a text of nothing but comments; `None` where they do not begin at the margin.
fn members(inner: &str, limits: &Limits) -> Option<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    let (mut depth, mut is_name) = (0, false);
    for event in Parser::new_from_str_with_options(inner, options(limits)) {
        let (event, span) = event.ok()?;
        let is_linked = event.anchor_id().is_some() || matches!(event, Event::Alias(_));
        match event {
            Event::MappingEnd if is_name => break,
            Event::Scalar(name, ..) if is_name => {
                // Before a name on its line there may be `? `, a tag or an anchor.
                let start = inner[..span.start.byte_offset()?].rfind('\n').map_or(0, |end| end + 1);
                if inner[start..].starts_with([' ', '\t']) || members.last().is_some_and(|last| last.start == start) {
                    return None;
                }
                members.push(Member { name: name.into_owned(), start, is_linked });
                is_name = false;
                continue;
            }
            _ if is_name => return None,
            Event::MappingStart(style, ..) if depth == 0 && style != StructureStyle::Block => return None,
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => depth -= 1,
            Event::Scalar(..) | Event::Alias(_) => {}
            _ => continue,
        }
        if let Some(member) = members.last_mut() {
            member.is_linked |= is_linked;
        }
        is_name = depth == 1;
    }
    Some(members)
}
