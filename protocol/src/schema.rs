//! JSON Schemas of every request, reply, signal, error, of the record, and of acts of operators.
//!
//! They are in the file `schema.json`. The types make it (`made`, with the feature `schema`), and a test checks that
//! the file is what they make. Programs read the file and not the types, so that whoever builds a program does not
//! wait for the derives of `schemars`.
//!
//! A schema says what one member may be. What members mean together, like `path` and `id` that exclude each other, is
//! said in `PROTOCOL.md`. The bounds are the default limits.

use serde_json::{Map, Value};

use crate::subject::Verb;

#[cfg(feature = "schema")]
mod made;

#[cfg(feature = "schema")]
pub use made::document;

/// The file: one JSON Schema (draft 2020-12) with all others in its `$defs`.
pub const DOCUMENT: &str = include_str!("../schema.json");

/// The groups of signals. Each has a schema `signal.<group>`.
pub const SIGNAL_GROUPS: [&str; 3] = ["session", "lock", "doc"];

/// The groups of acts. Each has a schema `act.<group>`.
pub const ACT_GROUPS: [&str; 2] = ["worker", "secret"];

/// The schemas by name. None refers to another one.
#[derive(Clone, Debug)]
pub struct Schemas(Map<String, Value>);

impl Schemas {
    /// Reads [`DOCUMENT`].
    pub fn read() -> Self {
        let mut document: Value = serde_json::from_str(DOCUMENT).expect("a test reads the file");
        match document["$defs"].take() {
            Value::Object(schemas) => Self(schemas),
            _ => Self(Map::new()),
        }
    }

    /// The schema of the requests of `verb`.
    pub fn request(&self, verb: Verb) -> &Value {
        self.named(&format!("request.{verb}"))
    }

    /// The schema of the replies to `verb` that are not errors.
    pub fn reply(&self, verb: Verb) -> &Value {
        self.named(&format!("reply.{verb}"))
    }

    /// A test checks that the file has one for each verb.
    fn named(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    /// Names and schemas.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_a_schema_for_each_verb_and_each_group_of_signals() {
        let schemas = Schemas::read();
        for verb in Verb::ALL {
            assert_eq!(schemas.request(*verb)["type"], "object", "request.{verb}");
            assert_eq!(schemas.request(*verb)["additionalProperties"], false, "a misspelt member of {verb} is refused");
            assert_eq!(schemas.reply(*verb)["type"], "object", "reply.{verb}");
        }
        let others = ["error", "record", "signal.session", "signal.lock", "signal.doc", "act.worker", "act.secret"];
        for name in others {
            assert_eq!(schemas.0[name]["type"], "object", "{name}");
        }
        assert_eq!(schemas.iter().count(), 2 * Verb::ALL.len() + others.len());
    }

    #[test]
    fn no_schema_refers_to_another() {
        assert!(Schemas::read().iter().all(|(_, schema)| !schema.to_string().contains("$ref")));
    }
}
