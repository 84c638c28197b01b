//! Changing YAML text: only the members that changed, each in its place.
//!
//! Deliberately absent: a proof that the result is right. The caller reads it back, and takes `anew` where it is not.

use std::ops::Range;

use holdfast_protocol::Limits;
use serde_json::{Map, Value};

use super::super::place::Place;
use super::super::{Fenced, Flaw};
use super::{Member, read};

/// How many times the bytes of JSON a value may take before it is written on one line as JSON.
const BLOCK_FACTOR: usize = 3;

/// The text between the fences with `fields`, everything else as it was.
pub(in super::super) fn amend(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Flaw> {
    let old = read(fenced.inner, limits)?;
    let Some(members) = old.members else { return Err(Flaw::bad(Place::default(), "it is not a block")) };
    let (inner, eol) = (fenced.inner, fenced.end_of_line());
    let mut text = inner.to_owned();
    let indent = members.first().map_or(0, |member| column(inner, member.key.start));
    for (place, member) in members.iter().enumerate().rev() {
        let region = region(inner, member, members.get(place + 1));
        match fields.get(&member.name) {
            Some(value) if old.fields.get(&member.name) == Some(value) => {}
            Some(value) => {
                let (range, new) = replacement(inner, member, region, value, indent, eol)?;
                text.replace_range(range, &new);
            }
            None => text.replace_range(region, ""),
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push_str(eol);
    }
    for (name, value) in fields.iter().filter(|(name, _)| !old.fields.contains_key(*name)) {
        text.push_str(&shifted(&entry(name, value)?, indent, eol));
    }
    Ok(text)
}

/// The text between the fences of nothing but `fields`, in the order that they had.
pub(in super::super) fn anew(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Flaw> {
    let lines = in_order(fenced, fields, limits).into_iter();
    lines.map(|(name, value)| Ok(shifted(&entry(name, value)?, 0, fenced.end_of_line()))).collect()
}

/// As `anew`, each on one line as JSON: plain, and nothing that could be read otherwise.
pub(in super::super) fn as_json(
    fenced: &Fenced<'_>,
    fields: &Map<String, Value>,
    limits: &Limits,
) -> Result<String, Flaw> {
    let lines = in_order(fenced, fields, limits).into_iter();
    lines
        .map(|(name, value)| Ok(format!("{}: {}{}", json(name, name)?, json(name, value)?, fenced.end_of_line())))
        .collect()
}

fn in_order<'a>(fenced: &Fenced<'_>, fields: &'a Map<String, Value>, limits: &Limits) -> Vec<(&'a String, &'a Value)> {
    let members = read(fenced.inner, limits).ok().and_then(|read| read.members).unwrap_or_default();
    let known = members.iter().filter_map(|member| fields.get_key_value(&member.name));
    let new = fields.iter().filter(|(name, _)| !members.iter().any(|member| member.name == **name));
    known.chain(new).collect()
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |at| at + 1)
}

fn column(text: &str, at: usize) -> usize {
    at - line_start(text, at)
}

/// The lines of a member, without blank lines and comments of the next one.
fn region(text: &str, member: &Member, next: Option<&Member>) -> Range<usize> {
    let start = line_start(text, member.key.start);
    let limit = next.map_or(text.len(), |next| line_start(text, next.key.start));
    let mut end = limit;
    for line in text[start..limit].split_inclusive('\n').rev() {
        // Behind the line of the key itself there is nothing to give back.
        if end - line.len() < member.key.end || !(line.trim().is_empty() || line.starts_with('#')) {
            break;
        }
        end -= line.len();
    }
    start..end
}

/// What to put where for a member with a new value. A value on the key's own line is replaced alone, so that a comment
/// behind it stays.
fn replacement(
    text: &str,
    member: &Member,
    region: Range<usize>,
    value: &Value,
    indent: usize,
    eol: &str,
) -> Result<(Range<usize>, String), Flaw> {
    let new = behind_name(&member.name, value)?;
    let old = &text[member.value.clone()];
    let is_on_one_line = !old.is_empty() && !old.contains('\n') && new.lines().count() == 1;
    if is_on_one_line && !text[member.key.end..member.value.start].contains('\n') {
        return Ok((member.value.clone(), new.trim_start_matches(':').trim().to_owned()));
    }
    let key = &text[region.start..member.key.end];
    Ok((region, format!("{key}{}", &shifted(&new, indent, eol)[indent..])))
}

fn cannot(name: &str, why: &str) -> Flaw {
    Flaw::bad(Place::default(), format!("{name:?} cannot be written as YAML: {why}"))
}

/// A member of its own, as lines.
fn entry(name: &str, value: &Value) -> Result<String, Flaw> {
    let key = match serde_saphyr::to_string(&Map::from_iter([(name.to_owned(), Value::Null)])) {
        Ok(lines) if lines.lines().count() == 1 && lines.ends_with(": null\n") => {
            lines[..lines.len() - ": null\n".len()].to_owned()
        }
        _ => json(name, &name)?,
    };
    Ok(key + &behind_name(name, value)?)
}

/// A value as it stands behind its name, from the colon on.
fn behind_name(name: &str, value: &Value) -> Result<String, Flaw> {
    let json = json(name, value)?;
    let member = Map::from_iter([("k".to_owned(), value.clone())]);
    let block = serde_saphyr::to_string(&member).map_err(|error| cannot(name, &error.to_string()))?;
    match block.strip_prefix('k') {
        Some(block) if block.len() <= BLOCK_FACTOR * (json.len() + 16) => Ok(block.to_owned()),
        _ => Ok(format!(": {json}\n")),
    }
}

/// JSON is YAML, but for characters that YAML does not print.
fn json<T: serde::Serialize + ?Sized>(name: &str, value: &T) -> Result<String, Flaw> {
    let json = serde_json::to_string(value).map_err(|error| cannot(name, &error.to_string()))?;
    let mut text = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            char => text.push(char),
        }
    }
    Ok(text)
}

/// `lines` with `indent` and these ends.
fn shifted(lines: &str, indent: usize, eol: &str) -> String {
    let pad = " ".repeat(indent);
    let mut text = String::with_capacity(lines.len() + 16);
    for line in lines.lines() {
        if !line.is_empty() {
            text.push_str(&pad);
        }
        text.push_str(line);
        text.push_str(eol);
    }
    text
}
