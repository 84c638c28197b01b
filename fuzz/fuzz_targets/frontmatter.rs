//! Any text is taken apart without a loss; what reads is written as it was read, and with one field more reads back so.
#![no_main]

#[path = "../../worker/src/document"]
mod document {
    pub(crate) mod frontmatter;
}

use document::frontmatter::{read, rewrite, split};
use holdfast_protocol::Limits;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let limits = Limits::default();
    let parts = split(text);
    assert_eq!([parts.front, parts.body].concat(), text);
    let Ok(fields) = read(parts.front, &limits) else { return };
    // The session's log and snapshots are JSON.
    let json = serde_json::to_string(&fields).expect("fields are JSON");
    let mut fields: Map<String, Value> = serde_json::from_str(&json).expect("it was just written");
    assert_eq!(serde_json::to_string(&fields).expect("fields are JSON"), json);
    let same = rewrite(parts.front, &fields, parts.body, &limits).expect("nothing changed");
    assert_eq!(same, parts.front);
    let name = fields.keys().next().cloned().unwrap_or_else(|| "new".to_owned());
    fields.insert(name, Value::String(text.chars().take(40).collect()));
    if let Ok(changed) = rewrite(parts.front, &fields, parts.body, &limits) {
        assert_eq!(read(&changed, &limits).expect("it was read back"), fields);
        let whole = changed.clone() + parts.body;
        assert_eq!(split(&whole).body, parts.body, "{changed:?}");
    }
});
