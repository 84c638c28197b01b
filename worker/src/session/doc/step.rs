//! One exact change of a document, and its inverse.
//!
//! Law: applying a step and then its inverse changes nothing.

use holdfast_frontmatter::BYTE_ORDER_MARK;
use holdfast_protocol::document::{Splice, body_too_large, check_fields, merge_patch};
use holdfast_protocol::error::Reason;
use holdfast_protocol::request::Edit;
use holdfast_protocol::{Error, Limits, json};
use ropey::Rope;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How many splices of one edit are made on the text itself.
const FEW: usize = 16;

/// Where the byte order mark of a document's file goes. It is either the body's first character or, where there is a
/// front matter, that one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    ToFront,
    ToBody,
}

/// Splices of the body, one on the result of the other, and top-level fields to set and to remove.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    splices: Vec<Splice>,
    #[serde(default, skip_serializing_if = "Map::is_empty", deserialize_with = "json::map")]
    set: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remove: Vec<String>,
    /// The splices have the mark leave the body, or come back to it; this says so to the front matter. Steps of the
    /// first version have none, and leave the front matter as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<Mark>,
}

impl Step {
    /// What `edit` does to a document.
    ///
    /// # Errors
    /// `bad_value` for a splice out of bounds; `too_large` when the result would be over a limit.
    pub(super) fn of(edit: &Edit, body: &str, fields: &Map<String, Value>, limits: &Limits) -> Result<Self, Error> {
        let mut step = Self::default();
        if let Some(new) = &edit.body {
            step.splices.extend(difference(body, new));
        } else if let Some(splices) = &edit.splices {
            let mut result = body.to_owned();
            splice_all(&mut result, splices, |bytes| match bytes > limits.body_bytes {
                true => Err(body_too_large(limits)),
                false => Ok(()),
            })?;
            if result != body {
                step.splices.clone_from(splices);
            }
        }
        if let Some(patch) = &edit.fields {
            let mut result = fields.clone();
            merge_patch(&mut result, patch);
            check_fields(&result, limits)?;
            for name in patch.keys() {
                match result.get(name) {
                    Some(value) if fields.get(name) != Some(value) => {
                        step.set.insert(name.clone(), value.clone());
                    }
                    None if fields.contains_key(name) => step.remove.push(name.clone()),
                    _ => {}
                }
            }
        }
        Ok(step)
    }

    /// What makes the second of two documents of the first.
    pub(super) fn between(before: (&str, &Map<String, Value>), after: (&str, &Map<String, Value>)) -> Self {
        let (old, new) = (before.1, after.1);
        let set = new.iter().filter(|(name, value)| old.get(*name) != Some(value));
        let remove = old.keys().filter(|name| !new.contains_key(*name));
        Self {
            splices: difference(before.0, after.0).into_iter().collect(),
            set: set.map(|(name, value)| (name.clone(), value.clone())).collect(),
            remove: remove.cloned().collect(),
            mark: None,
        }
    }

    /// The step for a document with a file: where that has a front matter after the step, the byte order mark that the
    /// body would begin with is not the body's. It comes first in the file, so that whoever reads the file finds it
    /// there.
    ///
    /// # Errors
    /// `bad_value` for a splice out of bounds.
    pub(super) fn with_mark_in_front(
        mut self,
        body: &str,
        fields: &Map<String, Value>,
        front: &str,
    ) -> Result<Self, Error> {
        // Nearly all documents have none. What changes nothing moves nothing.
        if self.changed().is_empty()
            || !body.contains(BYTE_ORDER_MARK) && !self.splices.iter().any(|made| made.insert.contains(BYTE_ORDER_MARK))
        {
            return Ok(self);
        }
        let (mut after, mut fields) = (body.to_owned(), fields.clone());
        self.apply(&mut after, &mut fields, &mut String::new())?;
        let rest = after.trim_start_matches(BYTE_ORDER_MARK);
        if rest.len() == after.len() || (fields.is_empty() && front.is_empty()) {
            return Ok(self);
        }
        if rest == body {
            self.splices.clear();
        } else {
            let delete = after.chars().take_while(|char| *char == BYTE_ORDER_MARK).count() as u64;
            self.splices.push(Splice { at: 0, delete, insert: String::new() });
        }
        // A mark alone is no change: nobody who reads the document could see it done or undone.
        if self.changed().is_empty() {
            return Ok(self);
        }
        self.mark = (!front.starts_with(BYTE_ORDER_MARK)).then_some(Mark::ToFront);
        Ok(self)
    }

    /// Makes the change and returns its inverse.
    ///
    /// # Errors
    /// `bad_value` for a splice out of bounds.
    pub(super) fn apply(
        &self,
        body: &mut String,
        fields: &mut Map<String, Value>,
        front: &mut String,
    ) -> Result<Self, Error> {
        let mut inverse = Self { splices: splice_all(body, &self.splices, |_| Ok(()))?, ..Self::default() };
        inverse.splices.reverse();
        inverse.mark = self.mark.map(|mark| mark.apply(front));
        for name in &self.remove {
            if let Some(before) = fields.remove(name) {
                inverse.set.insert(name.clone(), before);
            }
        }
        for (name, value) in &self.set {
            match fields.insert(name.clone(), value.clone()) {
                Some(before) => {
                    inverse.set.insert(name.clone(), before);
                }
                None => inverse.remove.push(name.clone()),
            }
        }
        Ok(inverse)
    }

    /// Which parts it changes, as signals say it.
    pub(super) fn changed(&self) -> Vec<String> {
        let body = self.splices.iter().any(|splice| splice.delete > 0 || !splice.insert.is_empty());
        let fields = !self.set.is_empty() || !self.remove.is_empty();
        [("body", body), ("fields", fields)]
            .into_iter()
            .filter(|(_, yes)| *yes)
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.weight(str::len)
    }

    /// About how many bytes it takes in a snapshot.
    pub(super) fn encoded_bytes(&self) -> usize {
        self.weight(json_len)
    }

    fn weight(&self, of_text: impl Fn(&str) -> usize) -> usize {
        let text: usize = self.splices.iter().map(|splice| of_text(&splice.insert) + 48).sum();
        let removed: usize = self.remove.iter().map(|name| name.len() + 24).sum();
        let set = if self.set.is_empty() { 0 } else { serde_json::to_vec(&self.set).map_or(0, |json| 2 * json.len()) };
        64 + text + removed + set
    }
}

impl Mark {
    /// Takes the mark to where it belongs and returns the inverse. A front matter that a save or load brought meanwhile
    /// may have it already.
    fn apply(self, front: &mut String) -> Self {
        match self {
            Self::ToFront => {
                if !front.starts_with(BYTE_ORDER_MARK) {
                    front.insert(0, BYTE_ORDER_MARK);
                }
                Self::ToBody
            }
            Self::ToBody => {
                if front.starts_with(BYTE_ORDER_MARK) {
                    front.remove(0);
                }
                Self::ToFront
            }
        }
    }
}

/// Bytes of a text in JSON, without its quotes.
fn json_len(text: &str) -> usize {
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0x00..0x20 => 6,
        _ => 1,
    });
    escaped.sum()
}

fn outside(splice: &Splice) -> Error {
    let message = format!("splice at {} deleting {} is outside of the text", splice.at, splice.delete);
    Error::invalid(Reason::BadValue, message).detail("field", "splices")
}

/// Makes splices, each on the result of the one before, and returns their inverses in the same order. `check` is told
/// how many bytes the text has after each.
fn splice_all(
    text: &mut String,
    splices: &[Splice],
    check: impl Fn(usize) -> Result<(), Error>,
) -> Result<Vec<Splice>, Error> {
    let few = splices.iter().map(|splice| {
        let inverse = splice_text(text, splice)?;
        check(text.len()).map(|()| inverse)
    });
    if splices.len() <= FEW {
        return few.collect();
    }
    // Where each of very many would walk the text and move its end, a rope does neither.
    let mut rope = Rope::from_str(text);
    let many = splices.iter().map(|splice| {
        let inverse = splice_rope(&mut rope, splice)?;
        check(rope.len_bytes()).map(|()| inverse)
    });
    let inverses = many.collect::<Result<Vec<Splice>, Error>>()?;
    *text = rope.into();
    Ok(inverses)
}

fn splice_rope(rope: &mut Rope, splice: &Splice) -> Result<Splice, Error> {
    let start = usize::try_from(splice.at).map_err(|_| outside(splice))?;
    let end = usize::try_from(splice.delete).ok().and_then(|length| start.checked_add(length));
    let end = end.filter(|end| *end <= rope.len_chars()).ok_or_else(|| outside(splice))?;
    let deleted = rope.slice(start..end).to_string();
    rope.remove(start..end);
    rope.insert(start, &splice.insert);
    Ok(Splice { at: splice.at, delete: splice.insert.chars().count() as u64, insert: deleted })
}

/// Makes one splice and returns its inverse.
fn splice_text(text: &mut String, splice: &Splice) -> Result<Splice, Error> {
    let start = byte_offset(text, splice.at).ok_or_else(|| outside(splice))?;
    let length = byte_offset(&text[start..], splice.delete).ok_or_else(|| outside(splice))?;
    let deleted = text[start..start + length].to_owned();
    text.replace_range(start..start + length, &splice.insert);
    Ok(Splice { at: splice.at, delete: splice.insert.chars().count() as u64, insert: deleted })
}

/// The byte at which the `chars`-th Unicode scalar value begins; the text's end counts.
fn byte_offset(text: &str, chars: u64) -> Option<usize> {
    let chars = usize::try_from(chars).ok()?;
    if chars == 0 {
        return Some(0);
    }
    if text.is_ascii() {
        return (chars <= text.len()).then_some(chars);
    }
    text.char_indices().map(|(offset, _)| offset).chain([text.len()]).nth(chars)
}

/// The one splice that makes `new` of `old`: what is between their common beginning and their common end.
fn difference(old: &str, new: &str) -> Option<Splice> {
    if old == new {
        return None;
    }
    let same = old.chars().zip(new.chars()).take_while(|(left, right)| left == right);
    let (at, start) = same.fold((0, 0), |(chars, bytes), (char, _)| (chars + 1, bytes + char.len_utf8()));
    let (old, new) = (&old[start..], &new[start..]);
    let same = old.chars().rev().zip(new.chars().rev()).take_while(|(left, right)| left == right);
    let end: usize = same.map(|(char, _)| char.len_utf8()).sum();
    let delete = old[..old.len() - end].chars().count() as u64;
    Some(Splice { at, delete, insert: new[..new.len() - end].to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_two_texts_makes_one_of_the_other() {
        for (old, new) in
            [("", "a"), ("a", ""), ("abc", "axc"), ("aaa", "aa"), ("héllo", "hèllo"), ("ab", "ba"), ("x", "x")]
        {
            let mut text = old.to_owned();
            if let Some(splice) = difference(old, new) {
                splice_text(&mut text, &splice).unwrap();
            }
            assert_eq!(text, new, "from {old:?}");
        }
    }

    #[test]
    fn many_splices_do_what_few_do_and_take_no_longer_than_they_should() {
        let text = "añb🎉c\r\n".repeat(100);
        let splices: Vec<Splice> = (0..3 * FEW as u64)
            .map(|n| Splice {
                at: (n * 97) % 600,
                delete: n % 3,
                insert: "é\n"[..if n % 2 == 0 { 3 } else { 2 }].to_owned(),
            })
            .collect();
        let (mut one_by_one, mut at_once) = (text.clone(), text.clone());
        let few: Vec<Splice> = splices.iter().map(|splice| splice_text(&mut one_by_one, splice).unwrap()).collect();
        let mut many = splice_all(&mut at_once, &splices, |_| Ok(())).unwrap();
        assert_eq!((&at_once, &many), (&one_by_one, &few));
        many.reverse();
        splice_all(&mut at_once, &many, |_| Ok(())).unwrap();
        assert_eq!(at_once, text, "the inverses lead back");
        let outside = Splice { at: u64::MAX, delete: 1, insert: String::new() };
        assert!(splice_all(&mut at_once, &vec![outside; FEW + 1], |_| Ok(())).is_err());
        let mut large = "é".repeat(256 * 1024);
        let middle = Splice { at: 200_000, delete: 0, insert: String::new() };
        let start = std::time::Instant::now();
        splice_all(&mut large, &vec![middle; 27_000], |_| Ok(())).unwrap();
        assert!(start.elapsed().as_secs() < 5, "what a full request may ask for took {:?}", start.elapsed());
    }

    #[test]
    fn bytes_are_counted_as_a_snapshot_has_them() {
        for text in ["", "plain é🎉", "\u{1}\u{1f}\n\r\t\"\\\u{8}\u{c}", "\u{7f}\u{2028}"] {
            assert_eq!(json_len(text) + 2, serde_json::to_string(text).unwrap().len(), "{text:?}");
        }
    }

    #[test]
    fn splices_count_unicode_scalar_values_and_stay_inside() {
        let mut text = "añb🎉c".to_owned();
        splice_text(&mut text, &Splice { at: 3, delete: 1, insert: "x".to_owned() }).unwrap();
        assert_eq!(text, "añbxc");
        for (at, delete) in [(6, 0), (5, 1), (0, 6), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(splice_text(&mut text, &Splice { at, delete, insert: String::new() }).is_err());
        }
        splice_text(&mut text, &Splice { at: 5, delete: 0, insert: "!".to_owned() }).unwrap();
        assert_eq!(text, "añbxc!");
    }
}
