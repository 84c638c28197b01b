//! One exact change of a document, and its inverse.
//!
//! Law: applying a delta and then its inverse changes nothing.

use holdfast_frontmatter::BYTE_ORDER_MARK;
use holdfast_protocol::document::Splice;
use holdfast_protocol::{Error, json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::splice::{difference, splice_all};

/// Where the byte order mark of a document's file goes: it is the first character of the body or, if there is one, of
/// the front matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    ToFront,
    ToBody,
}

/// Splices of the body, one on the result of the other, and top-level fields to set and to remove.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delta {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) splices: Vec<Splice>,
    #[serde(default, skip_serializing_if = "Map::is_empty", deserialize_with = "json::map")]
    set: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remove: Vec<String>,
    /// Where the byte order mark goes that the splices take out of the body or put back. Deltas of the first version
    /// have none, and leave the front matter as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<Mark>,
}

impl Delta {
    /// What makes the second of two documents of the first.
    pub(super) fn between(before: (&str, &Map<String, Value>), after: (&str, &Map<String, Value>)) -> Self {
        let splices = difference(before.0, after.0).into_iter().collect();
        Self { splices, ..Self::between_fields(before.1, after.1) }
    }

    /// What makes the second of two documents of the first, whose bodies are the same.
    pub(super) fn between_fields(before: &Map<String, Value>, after: &Map<String, Value>) -> Self {
        let set = after.iter().filter(|(name, value)| before.get(*name) != Some(value));
        let remove = before.keys().filter(|name| !after.contains_key(*name));
        Self {
            set: set.map(|(name, value)| (name.clone(), value.clone())).collect(),
            remove: remove.cloned().collect(),
            ..Self::default()
        }
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
    /// Moves the mark and returns the inverse. A front matter that a save or load brought since may have it already.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_as_a_snapshot_has_them() {
        for text in ["", "plain é🎉", "\u{1}\u{1f}\n\r\t\"\\\u{8}\u{c}", "\u{7f}\u{2028}"] {
            assert_eq!(json_len(text) + 2, serde_json::to_string(text).unwrap().len(), "{text:?}");
        }
    }
}
