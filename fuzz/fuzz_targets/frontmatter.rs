//! Any text is taken apart without a loss; what reads is written as it was read, and with one field more, or one leaf
//! changed or gone, reads back so.
#![no_main]

use holdfast_frontmatter::{Limits, join, read, rewrite, split};
use holdfast_protocol::json::parse_fields;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

const LIMITS: Limits = Limits { bytes: 64 * 1024, levels: 32 };

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parts = split(text);
    assert_eq!([parts.front, parts.body].concat(), text);
    assert_eq!(join(parts.front, parts.body), text);
    let Ok(fields) = read(parts.front, &LIMITS) else { return };
    // The session's log and snapshots are JSON.
    let json = serde_json::to_string(&fields).expect("fields are JSON");
    let mut fields: Map<String, Value> = parse_fields(&json).expect("it was just written");
    assert_eq!(serde_json::to_string(&fields).expect("fields are JSON"), json);
    let same = rewrite(parts.front, &fields, parts.body, &LIMITS).expect("nothing changed");
    assert_eq!(same, parts.front);
    let some: String = text.chars().take(40).collect();
    // Which leaf, and what to do about it, is in the text as well.
    let seed = text.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let mut changed = Value::Object(fields.clone());
    change(&mut changed, seed, &some);
    if let Value::Object(changed) = changed {
        check(text, &changed);
    }
    let name = fields.keys().next().cloned().unwrap_or_else(|| "new".to_owned());
    fields.insert(name, Value::String(some));
    check(text, &fields);
});

/// Changes what is deep in a value: the leaf or the container that `seed` leads to.
fn change(value: &mut Value, seed: usize, text: &str) {
    let (way, seed) = (seed % 8, seed / 8);
    match value {
        Value::Object(members) if !members.is_empty() => {
            let name = members.keys().nth(seed % members.len()).expect("it has so many").clone();
            match way {
                0 => drop(members.remove(&name)),
                1 => drop(members.insert(text.to_owned(), Value::from(1))),
                _ => change(&mut members[&name], seed / 8, text),
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let at = seed % items.len();
            match way {
                0 => drop(items.remove(at)),
                1 => items.insert(at, Value::from(text)),
                _ => change(&mut items[at], seed / 8, text),
            }
        }
        leaf => {
            *leaf = match way {
                0 => Value::Null,
                1 => Value::from(vec![Value::from(text)]),
                2 => Value::Object(Map::from_iter([(text.to_owned(), Value::from(true))])),
                3 => Value::from(-0.1),
                _ => Value::from(text),
            }
        }
    }
}

/// What is written reads back as it was, and leaves the body alone.
fn check(text: &str, fields: &Map<String, Value>) {
    let parts = split(text);
    let Ok(front) = rewrite(parts.front, fields, parts.body, &LIMITS) else { return };
    assert_eq!(&read(&front, &LIMITS).expect("it was read back"), fields);
    let whole = join(&front, parts.body);
    // A first front matter goes behind the byte order mark of the body.
    let is_first = parts.front.is_empty() && !front.is_empty();
    let body = if is_first { parts.body.trim_start_matches('\u{feff}') } else { parts.body };
    assert_eq!(split(&whole).body, body, "{front:?}");
}
