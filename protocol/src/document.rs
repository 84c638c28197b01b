//! Content of documents on the wire: splices, initial content, and the limits of both.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Reason};
use crate::limits::Limits;

/// One change of a text. Positions count Unicode scalar values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Splice {
    /// The position.
    pub at: u64,
    /// How many characters to remove.
    pub delete: u64,
    /// The text to insert.
    pub insert: String,
}

/// The initial content of a new session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The structured part.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::json::optional_unique_map")]
    pub fields: Option<Map<String, Value>>,
}

impl Content {
    /// Checks the sizes.
    ///
    /// # Errors
    /// `body_too_large` or `fields_too_large`.
    pub fn check(&self, limits: &Limits) -> Result<(), Error> {
        if self.body.as_ref().is_some_and(|body| body.len() > limits.body_bytes) {
            return Err(body_too_large(limits));
        }
        self.fields.as_ref().map_or(Ok(()), |fields| check_fields(fields, limits))
    }
}

/// The refusal of a body that is larger than the limit.
pub fn body_too_large(limits: &Limits) -> Error {
    let message = format!("a body may have at most {} bytes", limits.body_bytes);
    Error::new(Reason::BodyTooLarge, message).detail("limit", limits.body_bytes)
}

/// Checks size and nesting of fields.
///
/// # Errors
/// `fields_too_large`.
pub fn check_fields(fields: &Map<String, Value>, limits: &Limits) -> Result<(), Error> {
    let levels = 1 + fields.values().map(levels).max().unwrap_or(0);
    if levels > limits.fields_levels {
        let message = format!("fields may be nested at most {} levels deep, not {levels}", limits.fields_levels);
        return Err(Error::new(Reason::FieldsTooLarge, message).detail("limit_levels", limits.fields_levels));
    }
    let bytes = serde_json::to_vec(fields).expect("JSON values serialize").len();
    if bytes > limits.fields_bytes {
        let message = format!("fields may have at most {} bytes as JSON, not {bytes}", limits.fields_bytes);
        return Err(Error::new(Reason::FieldsTooLarge, message).detail("limit", limits.fields_bytes));
    }
    Ok(())
}

/// The nesting of a value; the reader bounds it, see [`crate::json`].
fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

/// Applies a JSON merge patch (RFC 7396) to `fields`.
pub fn merge_patch(fields: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, change) in patch {
        match change {
            Value::Null => {
                fields.remove(name);
            }
            Value::Object(inner) => {
                let member = fields.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
                if !member.is_object() {
                    *member = Value::Object(Map::new());
                }
                let Value::Object(target) = member else { unreachable!("made an object above") };
                merge_patch(target, inner);
            }
            other => {
                fields.insert(name.clone(), other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patch_does_what_rfc_7396_shows() {
        let cases = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ];
        for (target, patch, expected) in cases {
            let (Value::Object(mut fields), Value::Object(patch)) = (target, patch) else { unreachable!() };
            merge_patch(&mut fields, &patch);
            assert_eq!(Value::Object(fields), expected, "{patch:?}");
        }
    }
}
