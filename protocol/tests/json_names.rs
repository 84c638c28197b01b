//! Names that mean something to the JSON library, to serde or to other libraries mean nothing in what is read from
//! outside: with another name in the place of each, everything is read in the same way.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use holdfast_protocol::error::ErrorReply;
use holdfast_protocol::frame::Frame;
use holdfast_protocol::internal::{Activate, Hint};
use holdfast_protocol::json::{Flaw, parse_fields};
use holdfast_protocol::reply::{Document, Opened, SessionPage, TakenOver};
use holdfast_protocol::request::{Acquire, Edit, Empty, List, Open, parse, peek};
use holdfast_protocol::signal::Signal;
use holdfast_protocol::subject::Root;
use holdfast_protocol::{Limits, SessionRecord};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde::Serialize;
use serde::de::DeserializeOwned;

#[path = "fixture/golden.rs"]
mod golden;

/// Names with a meaning somewhere, and names of the same length without one.
const NAMES: [(&str, &str); 5] = [
    ("$serde_json::private::RawValue", "$serde_json::private::RawValu_"),
    ("$serde_json::private::Number", "$serde_json::private::Numbe_"),
    ("$__toml_private_datetime", "$__toml_private_datetim_"),
    ("$__serde_private_content", "$__serde_private_conten_"),
    ("__yaml_private_tag", "__yaml_private_ta_"),
];

/// `text` as the inside of a JSON string, so that escapes within escapes grow by a little only.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\u005c").replace('"', "\\u0022")
}

/// A value that is 120 arrays, at the inside of which stands the text of another one, for `levels` levels.
fn bomb(levels: usize) -> String {
    let (open, close) = ("[".repeat(120), "]".repeat(120));
    (0..levels).fold("1".to_owned(), |text, _| {
        format!("{open}{{\"$serde_json::private::RawValue\":\"{}\"}}{close}", escaped(&text))
    })
}

/// JSON whose keys are mostly those names, and whose strings often are JSON again.
fn json() -> impl Strategy<Value = String> {
    let leaf = select(vec!["null", "true", "0", "-1", "1.5", "\"\"", "\"[1]\"", "\"{\"", "\"1979-05-27\"", "1e5"]);
    leaf.prop_map(str::to_owned).prop_recursive(6, 40, 4, |inner| {
        let name = prop_oneof![3 => select(NAMES.map(|(name, _)| name.to_owned()).to_vec()), 1 => "[a-c]"];
        let member = (name, inner.clone(), any::<bool>()).prop_map(|(name, value, is_text)| match is_text {
            true => format!("\"{name}\":\"{}\"", escaped(&value)),
            false => format!("\"{name}\":{value}"),
        });
        prop_oneof![
            3 => vec(member, 0..3).prop_map(|members| format!("{{{}}}", members.join(","))),
            1 => vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
        ]
    })
}

fn renamed(text: &str) -> String {
    NAMES.iter().fold(text.to_owned(), |text, (name, other)| text.replace(name, other))
}

/// What a reader makes of bytes, as text.
type Read = fn(&str) -> String;

fn said<T: Serialize>(read: Result<T, impl ToString>) -> String {
    read.map_or_else(|error| error.to_string(), |read| serde_json::to_string(&read).unwrap())
}

fn plain<T: Serialize + DeserializeOwned>(text: &str) -> String {
    said(serde_json::from_str::<T>(text))
}

/// Everything that reads bytes from outside.
const READERS: &[Read] = &[
    |text| said(parse::<Open>(text.as_bytes(), &Limits::default()).map(|open| (open.content, open.id))),
    |text| said(parse::<Edit>(text.as_bytes(), &Limits::default()).map(|edit| (edit.fields, edit.splices))),
    |text| said(parse::<Acquire>(text.as_bytes(), &Limits::default()).map(|acquire| acquire.owner)),
    |text| said(parse::<List>(text.as_bytes(), &Limits::default()).map(|list| list.after)),
    |text| said(parse::<Empty>(text.as_bytes(), &Limits::default()).map(|empty| empty.actor)),
    |text| format!("{:?}", peek(text.as_bytes())),
    |text| said(parse_fields(text)),
    |text| said(Frame::from_json(text.as_bytes(), &Root::default().parse_record("$KV.sessions.default.s1").unwrap())),
    |text| {
        let key = Root::default().parse_record("$KV.sessions.default.s1").unwrap();
        said(SessionRecord::from_json(text.as_bytes(), &key))
    },
    plain::<Document>,
    plain::<Opened>,
    plain::<SessionPage>,
    plain::<TakenOver>,
    plain::<ErrorReply>,
    plain::<Signal>,
    plain::<Activate>,
    plain::<Hint>,
];

/// Where such a value may stand, beside everywhere in golden files.
const PLACES: &[&str] = &[
    "%",
    r#"{"request_id":%}"#,
    r#"{"actor":%,"owner":"a"}"#,
    r#"{"fields":{"a":%}}"#,
    r#"{"fields":%}"#,
    r#"{"splices":[%]}"#,
    r#"{"config":%}"#,
    r#"{"content":%}"#,
    r#"{"content":{"fields":{"a":%}},"id":"s1"}"#,
    r#"{"other":%}"#,
];

/// A golden file with `value` in the place of one of its values, or as a member more of one of its objects.
fn spoiled(golden: &str, at: usize, value: &str) -> String {
    let places: Vec<usize> = golden.match_indices("\": ").map(|(at, _)| at + 3).collect();
    let start = places[at % places.len()];
    let rest = &golden[start..];
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<serde::de::IgnoredAny>();
    values.next().unwrap().unwrap();
    let end = start + values.byte_offset();
    format!("{}{value}{}", &golden[..start], &golden[end..])
}

proptest! {
    #[test]
    fn no_name_has_a_meaning_wherever_it_stands(value in json(), place in select(PLACES)) {
        let text = place.replace('%', &value);
        for read in READERS {
            prop_assert_eq!(renamed(&read(&text)), read(&renamed(&text)));
        }
    }

    #[test]
    fn no_name_has_a_meaning_in_what_was_stored_or_answered(value in json(), at in any::<usize>(), name in select(golden::names().into_iter().collect::<Vec<_>>())) {
        let text = spoiled(&String::from_utf8(golden::bytes(&name)).unwrap(), at, &value);
        for read in READERS {
            prop_assert_eq!(renamed(&read(&text)), read(&renamed(&text)));
        }
    }
}

#[test]
fn text_within_text_without_end_is_text() {
    let bomb = bomb(100);
    assert!((100_000..150_000).contains(&bomb.len()), "{}", bomb.len());
    for place in PLACES {
        let text = place.replace('%', &bomb);
        READERS.iter().for_each(|read| drop(read(&text)));
    }
    // Still thousands of values within each other.
    let small = self::bomb(30);
    for name in golden::names() {
        let golden = String::from_utf8(golden::bytes(&name)).unwrap();
        for at in 0..golden.matches("\": ").count() {
            let text = spoiled(&golden, at, &small);
            READERS.iter().for_each(|read| drop(read(&text)));
        }
    }
}

#[test]
fn an_object_with_such_a_name_is_that_object() {
    for (name, _) in NAMES {
        let text = format!(r#"{{"fields":{{"a":[{{"{name}":"[1]"}}]}}}}"#);
        let edit: Edit = parse(text.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(edit.fields.unwrap()["a"][0].as_object().unwrap()[name], "[1]");
        let text = format!(r#"{{"{name}":"[1]","{name}":2}}"#);
        assert!(matches!(parse_fields(&text), Err(Flaw::Json(_))));
    }
}
