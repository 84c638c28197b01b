//! Reads a body member by member, so that an error names the member.
//!
//! One pass without recursion splits a body into the texts of its members, and each member is parsed from its own text.
//! The types use serde as usual; this deserializer decides which JSON is accepted for them.
//!
//! Invariants: an array is not accepted for an object, nor an object for a word, although serde accepts both. A member
//! that is `null` counts as left out. An unknown or duplicate member ends the reading at once. An error repeats only a
//! bounded part of what the caller sent.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::de::StrRead;
use serde_json::value::RawValue;

use super::fault::Fault;
use crate::error::Reason;
use crate::json;
use crate::limits::Limits;

/// How much larger than the limit of fields a merge patch may be: it names removed, changed and added fields.
const PATCH_FACTOR: usize = 4;

/// Reads an object, which must be all of `text`.
pub(super) fn read<'de, T: Deserialize<'de>>(text: &'de str, limits: &'de Limits) -> Result<T, Fault> {
    T::deserialize(Part { text, limits })
}

/// The text of one JSON value.
#[derive(Clone, Copy)]
struct Part<'de> {
    text: &'de str,
    limits: &'de Limits,
}

impl<'de> Part<'de> {
    fn first(self) -> u8 {
        self.text.trim_ascii_start().bytes().next().unwrap_or_default()
    }

    /// Refuses a value of another JSON type, without repeating any of it.
    fn expect(self, kinds: &[u8], expected: &dyn Expected) -> Result<(), Fault> {
        let first = self.first();
        let what = match first {
            _ if kinds.contains(&first) => return Ok(()),
            b'{' => "an object",
            b'[' => "an array",
            b'"' => "a string",
            b't' | b'f' => "a boolean",
            b'n' => "null",
            _ => "a number",
        };
        Err(de::Error::invalid_type(Unexpected::Other(what), expected))
    }

    fn json<T>(
        self,
        read: impl FnOnce(&mut serde_json::Deserializer<StrRead<'de>>) -> serde_json::Result<T>,
    ) -> Result<T, Fault> {
        let mut json = serde_json::Deserializer::from_str(self.text);
        let value = read(&mut json).map_err(|error| Fault::of(&error))?;
        json.end().map_err(|error| Fault::of(&error))?;
        Ok(value)
    }
}

const NUMBER: &[u8] = b"-0123456789";

macro_rules! plain {
    ($($method:ident $kinds:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.expect($kinds, &visitor)?;
            self.json(|json| json.$method(visitor))
        })*
    };
}

impl<'de> Deserializer<'de> for Part<'de> {
    type Error = Fault;

    plain! {
        deserialize_bool b"tf";
        deserialize_u32 NUMBER;
        deserialize_u64 NUMBER;
        deserialize_i64 NUMBER;
        deserialize_str b"\"";
        deserialize_string b"\"";
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.first() == b'n' { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.expect(b"\"", &"a word")?;
        let word: String = self.json(|json| String::deserialize(json))?;
        visitor.visit_enum(IntoDeserializer::<Fault>::into_deserializer(word))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.expect(b"{", &"an object")?;
        let mut members = Members { known, members: Vec::new(), fault: None };
        let read = self.json(|json| json.deserialize_map(&mut members));
        if let Some(fault) = members.fault {
            return Err(fault);
        }
        read?;
        visitor.visit_map(Access { members: members.members.into_iter(), next: None, limits: self.limits })
    }

    /// An object with any members.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.expect(b"{", &visitor)?;
        // Checked before parsing: a million small members would take too long.
        let survey = json::survey(self.text);
        let most = self.limits.fields_bytes.saturating_mul(PATCH_FACTOR);
        if survey.levels > json::LEVELS_MAX {
            let message = format_args!("nested more than {} levels deep", json::LEVELS_MAX);
            return Err(Fault::new(Reason::BadJson, message));
        }
        if survey.least_bytes > most {
            let message = format_args!("fields may have at most {} bytes as JSON", self.limits.fields_bytes);
            return Err(Fault::new(Reason::FieldsTooLarge, message));
        }
        if let Some(integer) = survey.wide_integer {
            return Err(Fault::new(Reason::BadValue, json::Flaw::Integer(integer.to_owned())));
        }
        self.json(|json| json.deserialize_map(visitor)).map_err(Fault::of_json)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.expect(b"[", &"an array")?;
        let items: Vec<&'de RawValue> = self.json(|json| Vec::deserialize(json))?;
        visitor.visit_seq(Items { items: items.into_iter(), index: 0, limits: self.limits })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    /// No request has a member of any type.
    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Fault> {
        Err(de::Error::custom("it is of no type that a request may have"))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// Splits an object into its members.
struct Members<'de> {
    known: &'static [&'static str],
    members: Vec<(&'static str, &'de str)>,
    fault: Option<Fault>,
}

impl<'de> Members<'de> {
    /// The member's name, if it is known and not a duplicate.
    fn take(&self, name: &str) -> Result<&'static str, Fault> {
        let known = self.known.iter().find(|known| **known == name);
        let known = known.ok_or_else(|| Fault::unknown(name, self.known))?;
        match self.members.iter().any(|(there, _)| there == known) {
            true => Err(Fault::named(Reason::BadValue, known, "it is there twice")),
            false => Ok(known),
        }
    }
}

impl<'de> Visitor<'de> for &mut Members<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        while let Some(name) = access.next_key::<Cow<'de, str>>()? {
            match self.take(&name) {
                Ok(name) => self.members.push((name, access.next_value::<&'de RawValue>()?.get())),
                Err(fault) => {
                    self.fault = Some(fault);
                    return Err(de::Error::custom("a member that is not taken"));
                }
            }
        }
        Ok(())
    }
}

/// Gives serde the members that were found.
struct Access<'de> {
    members: std::vec::IntoIter<(&'static str, &'de str)>,
    next: Option<(&'static str, &'de str)>,
    limits: &'de Limits,
}

impl<'de> MapAccess<'de> for Access<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.next = self.members.find(|(_, text)| *text != "null");
        let Some((name, _)) = self.next else { return Ok(None) };
        seed.deserialize(StrDeserializer::<Fault>::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (name, text) = self.next.take().ok_or_else(|| Fault::new(Reason::BadValue, "a member without its name"))?;
        seed.deserialize(Part { text, limits: self.limits }).map_err(|fault| fault.within(name))
    }
}

struct Items<'de> {
    items: std::vec::IntoIter<&'de RawValue>,
    index: usize,
    limits: &'de Limits,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        let part = Part { text: item.get(), limits: self.limits };
        seed.deserialize(part).map(Some).map_err(|fault| fault.in_item(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}
