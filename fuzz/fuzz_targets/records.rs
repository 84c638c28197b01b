//! Nothing that is read as JSON makes its reader panic or gives a name a meaning: records, what clients read, what
//! coordinators and workers say to each other, and fields. What reads is the same when it is written and read again.
//! The first byte chooses the reader.
#![no_main]

use holdfast_protocol::error::ErrorReply;
use holdfast_protocol::internal::{Activate, Hint};
use holdfast_protocol::json::{LEVELS_MAX, parse_fields, survey};
use holdfast_protocol::reply::{Document, Opened, SessionPage, TakenOver};
use holdfast_protocol::signal::Signal;
use holdfast_protocol::subject::Root;
use holdfast_protocol::SessionRecord;
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    let Some((which, body)) = data.split_first() else { return };
    match which % 10 {
        0 => {
            let Some(key) = Root::default().parse_record("$KV.sessions.default.s1") else { return };
            let Ok(record) = SessionRecord::from_json(body, &key) else { return };
            let again = SessionRecord::from_json(&record.to_json(), &key).expect("a record is a record");
            assert_eq!(again.to_json(), record.to_json());
        }
        1 => read::<ErrorReply>(body),
        2 => read::<Document>(body),
        3 => read::<Opened>(body),
        4 => read::<SessionPage>(body),
        5 => read::<TakenOver>(body),
        6 => read::<Signal>(body),
        7 => read::<Activate>(body),
        8 => read::<Hint>(body),
        _ => {
            let Ok(text) = std::str::from_utf8(body) else { return };
            let found = survey(text);
            let Ok(fields) = parse_fields(text) else { return };
            assert!(found.levels <= LEVELS_MAX && found.wide_integer.is_none());
            let json = serde_json::to_string(&fields).expect("fields are JSON");
            assert!(found.least_bytes <= json.len());
            assert_eq!(parse_fields(&json).expect("it was just written"), fields);
        }
    }
});

fn read<T: Serialize + DeserializeOwned>(body: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(body) else { return };
    let json = serde_json::to_vec(&read).expect("it is JSON");
    let again: T = serde_json::from_slice(&json).expect("it was just written");
    assert_eq!(serde_json::to_vec(&again).expect("it is JSON"), json);
}
