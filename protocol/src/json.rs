//! Reads JSON of any content, so that no key or value has a special meaning to serde_json.
//!
//! `serde_json::Value` treats the value of a key `$serde_json::private::RawValue` as text to parse again, and so on
//! within that text, without bound: 127 kB of it overflow the stack. So bytes from outside are never read by `Value`'s
//! own `Deserialize`: each member of that type names one of the functions here.
//!
//! Invariant: every key and every value is an ordinary one, in every format that serde reads, and values that are
//! nested deeper than [`LEVELS_MAX`] are refused.

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep values may be nested. The limit on fields is far below; this one only protects the stack.
pub const LEVELS_MAX: usize = 127;

/// Why a text is refused as an object of fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is not JSON, or it has a key twice.
    #[error("{0}")]
    Json(String),
    /// It has an integer that neither an i64 nor a u64 can hold, and that other readers would round.
    #[error("the integer {0} needs more than 64 bits")]
    Integer(String),
}

/// A member of any JSON type.
///
/// # Errors
/// When it is nested deeper than [`LEVELS_MAX`].
pub fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Any::new(Keys::LastWins).deserialize(deserializer)
}

/// A member of any JSON type, which may be `null` or left out.
///
/// # Errors
/// As [`value`].
pub fn optional_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    value(deserializer).map(|value| if value.is_null() { None } else { Some(value) })
}

/// An object with members of any JSON type. Of a duplicate key the last value counts, as it always has for stored data.
///
/// # Errors
/// When it is not an object, or is nested deeper than [`LEVELS_MAX`].
pub fn map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    deserializer.deserialize_map(Object(Any::new(Keys::LastWins)))
}

/// An object with members of any JSON type and each key once, or `null`, or left out.
///
/// # Errors
/// As [`map`], and for a duplicate key.
pub fn optional_unique_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Map<String, Value>>, D::Error> {
    struct Optional;

    impl<'de> Visitor<'de> for Optional {
        type Value = Option<Map<String, Value>>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_map(Object(Any::new(Keys::Once))).map(Some)
        }
    }

    deserializer.deserialize_option(Optional)
}

/// Parses the fields of a `doc.edit`, given as text.
///
/// # Errors
/// [`Flaw`].
pub fn parse_fields(text: &str) -> Result<Map<String, Value>, Flaw> {
    let flaw = |error: serde_json::Error| Flaw::Json(error.to_string());
    serde_json::from_str::<IgnoredAny>(text).map_err(flaw)?;
    if let Some(integer) = survey(text).wide_integer {
        return Err(Flaw::Integer(integer.to_owned()));
    }
    serde_json::Deserializer::from_str(text).deserialize_map(Object(Any::new(Keys::Once))).map_err(flaw)
}

/// What one pass over JSON text finds, before it is parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey<'a> {
    /// The nesting.
    pub levels: usize,
    /// The least number of bytes that it takes in any notation.
    pub least_bytes: usize,
    /// The first integer that neither an i64 nor a u64 can hold: `serde_json` silently makes it a float, and an error
    /// only if it is very long.
    pub wide_integer: Option<&'a str>,
}

/// Surveys `text`, which is JSON.
pub fn survey(text: &str) -> Survey<'_> {
    let bytes = text.as_bytes();
    let mut found = Survey::default();
    let (mut at, mut level) = (0, 0_usize);
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        at += 1;
        found.least_bytes += usize::from(!byte.is_ascii_whitespace());
        match byte {
            b'[' | b'{' => {
                level += 1;
                found.levels = found.levels.max(level);
            }
            b']' | b'}' => level = level.saturating_sub(1),
            b'"' => {
                let (end, least) = string(bytes, at);
                at = end;
                found.least_bytes += least;
            }
            b'-' | b'0'..=b'9' => {
                while bytes.get(at).is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
                    at += 1;
                }
                let number = &text[start..at];
                if found.wide_integer.is_none() && is_wide(number) {
                    found.wide_integer = Some(&number[..number.len().min(40)]);
                }
            }
            _ => {}
        }
    }
    found
}

fn is_wide(number: &str) -> bool {
    /// Integers of this many digits always fit.
    const SAFE: usize = 18;
    let is_float = || number.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
    number.len() > SAFE && !is_float() && number.parse::<i64>().is_err() && number.parse::<u64>().is_err()
}

/// For the string that continues at `at`: the position after its closing quote, and the least number of bytes that it
/// takes with that quote. An escape stands for one byte or more.
fn string(bytes: &[u8], mut at: usize) -> (usize, usize) {
    let mut least = 0;
    while let Some(byte) = bytes.get(at) {
        least += 1;
        at += match (byte, bytes.get(at + 1)) {
            (b'"', _) => return (at + 1, least),
            (b'\\', Some(b'u')) => 6,
            (b'\\', _) => 2,
            _ => 1,
        };
    }
    (at, least)
}

/// How a duplicate key is treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    LastWins,
    Once,
}

/// Reads a value of any type.
#[derive(Clone, Copy)]
struct Any {
    keys: Keys,
    /// How many more levels are allowed.
    levels: usize,
}

/// Reads an object.
struct Object(Any);

impl Any {
    fn new(keys: Keys) -> Self {
        Self { keys, levels: LEVELS_MAX }
    }

    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        let levels = self.levels.checked_sub(1);
        let levels = levels.ok_or_else(|| E::custom(format_args!("nested more than {LEVELS_MAX} levels deep")))?;
        Ok(Self { levels, ..self })
    }

    fn members<'de, A: MapAccess<'de>>(self, mut access: A) -> Result<Map<String, Value>, A::Error> {
        let inner = self.inner()?;
        let mut members = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            if self.keys == Keys::Once && members.contains_key(&name) {
                let shown: String = name.chars().take(80).collect();
                return Err(A::Error::custom(format_args!("the key {shown:?} is there twice")));
            }
            members.insert(name, access.next_value_seed(inner)?);
        }
        Ok(members)
    }
}

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Value, E> {
        Ok(Value::Bool(yes))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        self.members(access).map(Value::Object)
    }
}

impl<'de> Visitor<'de> for Object {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Self::Value, A::Error> {
        self.0.members(access)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        let text = r#"{"a":[1,-2,1.5,1e3,-0,18446744073709551615,true,null,"é\n"],"b":{"c":{}},"":""}"#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(value(&mut serde_json::Deserializer::from_str(text)).unwrap(), expected);
        assert_eq!(Value::Object(parse_fields(text).unwrap()), expected);
        assert_eq!(value(expected.clone()).unwrap(), expected, "from a value too");
    }

    #[test]
    fn no_key_has_a_meaning() {
        for name in ["$serde_json::private::RawValue", "$serde_json::private::Number", "$__toml_private_datetime"] {
            let text = format!(r#"{{"a":{{"{name}":"[1]"}}}}"#);
            assert_eq!(parse_fields(&text).unwrap()["a"], json!({ name: "[1]" }));
            assert_eq!(map(&mut serde_json::Deserializer::from_str(&text)).unwrap()["a"], json!({ name: "[1]" }));
        }
    }

    #[test]
    fn nesting_and_keys_that_are_there_twice_are_bounded_and_refused() {
        let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert!(parse_fields(&nested(LEVELS_MAX)).is_ok());
        assert!(matches!(parse_fields(&nested(LEVELS_MAX + 1)), Err(Flaw::Json(_))));
        // Where no text is parsed the bound is ours alone.
        let deep = (0..1_000).fold(json!(1), |inner, _| json!([inner]));
        assert!(value(deep).is_err());
        for twice in [r#"{"a":1,"a":1}"#, r#"{"a":[{"b":1,"c":2,"\u0062":3}]}"#] {
            assert!(matches!(parse_fields(twice), Err(Flaw::Json(why)) if why.contains("twice")), "{twice}");
            assert!(map(&mut serde_json::Deserializer::from_str(twice)).is_ok(), "stored data is read as ever");
        }
        assert!(matches!(parse_fields("{} x"), Err(Flaw::Json(_))));
    }

    #[test]
    fn integers_of_more_than_64_bits_are_told_from_floats() {
        for fits in ["9223372036854775807", "-9223372036854775808", "18446744073709551615", "0", "-0"] {
            assert!(parse_fields(&format!("{{\"a\":[{fits}]}}")).is_ok(), "{fits}");
        }
        for float in ["1.5", "18446744073709551616.0", "1e30", "1E5", "123456789012345678901e0"] {
            assert!(parse_fields(&format!("{{\"a\":{float}}}")).unwrap()["a"].is_f64(), "{float}");
        }
        for wide in ["18446744073709551616", "-9223372036854775809", "1".repeat(400).as_str()] {
            for text in [format!("{{\"a\":{wide}}}"), format!("{{\"\\\"1\":\"\\\\\",\"a\":[0,{{\"b\":{wide} }}]}}")] {
                assert!(matches!(parse_fields(&text), Err(Flaw::Integer(_))), "{text}");
            }
        }
        let text = r#"{"a":"18446744073709551616","18446744073709551616":"\\\"-18446744073709551616"}"#;
        assert!(parse_fields(text).is_ok(), "strings are no numbers");
    }

    #[test]
    fn a_survey_finds_what_the_reader_would() {
        for (text, levels, least_bytes) in [
            ("{}", 1, 2),
            (r#" { "a" : [ 1 , [ ] ] } "#, 3, 12),
            (r#"{"[\"[[":"\u0061\\]"}"#, 1, 14),
            ("[true,[[null]],[]]", 3, 18),
            ("[-1.5e3]", 1, 3),
        ] {
            let found = survey(text);
            assert_eq!((found.levels, found.least_bytes, found.wide_integer), (levels, least_bytes, None), "{text}");
            let shortest = serde_json::from_str::<Value>(text).unwrap().to_string();
            assert!(found.least_bytes <= shortest.len(), "{text}");
        }
        for broken in ["", "\"", "\"\\", "\"\\u0", "]]]}", "\u{e9}\"\\\u{e9}"] {
            survey(broken);
        }
    }
}
