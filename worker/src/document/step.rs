//! One exact change of a document, and its inverse.
//!
//! Law: applying a step and then its inverse changes nothing.

use holdfast_protocol::document::{Splice, body_too_large, check_fields, merge_patch};
use holdfast_protocol::error::Reason;
use holdfast_protocol::request::Edit;
use holdfast_protocol::{Error, Limits};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Splices of the body, one on the result of the other, and top-level fields to set and to remove.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    splices: Vec<Splice>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    set: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remove: Vec<String>,
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
            for splice in splices {
                splice_text(&mut result, splice)?;
                if result.len() > limits.body_bytes {
                    return Err(body_too_large(limits));
                }
            }
            step.splices.clone_from(splices);
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

    /// Makes the change and returns its inverse.
    ///
    /// # Errors
    /// `bad_value` for a splice out of bounds.
    pub(super) fn apply(&self, body: &mut String, fields: &mut Map<String, Value>) -> Result<Self, Error> {
        let mut inverse = Self::default();
        for splice in &self.splices {
            inverse.splices.push(splice_text(body, splice)?);
        }
        inverse.splices.reverse();
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
        let text: usize = self.splices.iter().map(|splice| splice.insert.len() + 48).sum();
        let removed: usize = self.remove.iter().map(|name| name.len() + 24).sum();
        let set = if self.set.is_empty() { 0 } else { serde_json::to_vec(&self.set).map_or(0, |json| 2 * json.len()) };
        64 + text + removed + set
    }
}

/// Makes one splice and returns its inverse.
fn splice_text(text: &mut String, splice: &Splice) -> Result<Splice, Error> {
    let outside = || {
        let message = format!("splice at {} deleting {} is outside of the text", splice.at, splice.delete);
        Error::invalid(Reason::BadValue, message).detail("field", "splices")
    };
    let start = byte_offset(text, splice.at).ok_or_else(outside)?;
    let length = byte_offset(&text[start..], splice.delete).ok_or_else(outside)?;
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
