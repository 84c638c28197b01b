//! Whatever arrives as a request, the answer is a checked request or a clear error of the contract, never a panic; and
//! the limits of the contract, each from both sides.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Debug;

use holdfast_protocol::error::{Code, ErrorReply};
use holdfast_protocol::request::{
    Acquire, Close, DocGet, Drain, Edit, Empty, List, Load, Move, Open, Reclaim, Request, Save, ShowToken, Takeover,
    Undo, Unlock, parse,
};
use holdfast_protocol::{Limits, Reason};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

#[path = "fixture/golden.rs"]
mod golden;

/// Parses `payload` as `R` and checks the error, if it is one.
fn answer<R: Request + Debug>(payload: &[u8]) -> Result<R, Reason> {
    parse::<R>(payload, &Limits::default()).map_err(|error| {
        assert!([Code::InvalidParams, Code::TooLarge].contains(&error.code), "{error:?}");
        assert!(!error.message.is_empty() && !error.retryable, "{error:?}");
        assert!(error.request_id.chars().count() <= 64, "{error:?}");
        let reply: ErrorReply = serde_json::from_slice(&error.to_json()).unwrap();
        assert_eq!(reply.error, error);
        error.reason
    })
}

/// The refusal of a body, or `None`.
type Asked<Body> = fn(Body) -> Option<Reason>;

/// The same of bytes as they come.
type Parse = fn(&[u8]) -> Option<Reason>;

/// Every type of request.
const TYPES: &[Parse] = &[
    |bytes| answer::<Open>(bytes).err(),
    |bytes| answer::<Empty>(bytes).err(),
    |bytes| answer::<List>(bytes).err(),
    |bytes| answer::<Close>(bytes).err(),
    |bytes| answer::<Acquire>(bytes).err(),
    |bytes| answer::<ShowToken>(bytes).err(),
    |bytes| answer::<DocGet>(bytes).err(),
    |bytes| answer::<Edit>(bytes).err(),
    |bytes| answer::<Load>(bytes).err(),
    |bytes| answer::<Save>(bytes).err(),
    |bytes| answer::<Undo>(bytes).err(),
    |bytes| answer::<Takeover>(bytes).err(),
    |bytes| answer::<Unlock>(bytes).err(),
    |bytes| answer::<Move>(bytes).err(),
    |bytes| answer::<Reclaim>(bytes).err(),
    |bytes| answer::<Drain>(bytes).err(),
];

/// One way to spoil valid JSON.
#[derive(Clone, Debug)]
enum Fault {
    Flip(Index, u8),
    Cut(Index, Index),
    Insert(Index, Vec<u8>),
    Twice(Index, Index),
    Truncate(Index),
}

impl Fault {
    fn spoil(&self, json: &mut Vec<u8>) {
        let range = |one: &Index, other: &Index| {
            let (one, other) = (one.index(json.len() + 1), other.index(json.len() + 1));
            one.min(other)..one.max(other)
        };
        match self {
            Self::Flip(at, bits) if !json.is_empty() => {
                let at = at.index(json.len());
                json[at] ^= bits;
            }
            Self::Flip(..) => {}
            Self::Cut(from, to) => drop(json.drain(range(from, to))),
            Self::Insert(at, bytes) => {
                let at = at.index(json.len() + 1);
                json.splice(at..at, bytes.iter().copied());
            }
            Self::Twice(from, to) => json.extend_from_within(range(from, to)),
            Self::Truncate(at) => json.truncate(at.index(json.len() + 1)),
        }
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    let at = any::<Index>;
    let telling = vec(select(b"{}[]\",:\\u0019e-.ntf \xff\xc3".to_vec()), 1..6);
    prop_oneof![
        (at(), 1u8..).prop_map(|(at, bits)| Fault::Flip(at, bits)),
        (at(), at()).prop_map(|(from, to)| Fault::Cut(from, to)),
        (at(), telling).prop_map(|(at, bytes)| Fault::Insert(at, bytes)),
        (at(), at()).prop_map(|(from, to)| Fault::Twice(from, to)),
        at().prop_map(Fault::Truncate),
    ]
}

/// The bytes of some golden request.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    let names = golden::names().into_iter().filter(|name| name.starts_with("request/"));
    select(names.map(|name| golden::bytes(&name)).collect::<Vec<_>>())
}

/// A value that a member may be given and mostly cannot take.
fn odd_value() -> impl Strategy<Value = Value> {
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!("\u{0}"),
        json!("../.."),
        json!("x".repeat(2_000)),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"": null}),
        json!([{"at": u64::MAX, "delete": u64::MAX, "insert": ""}]),
    ];
    select(values.to_vec())
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in vec(any::<u8>(), 0..300)) {
        for parse in TYPES {
            parse(&bytes);
        }
    }

    #[test]
    fn spoiled_requests_are_answered(mut json in valid(), faults in vec(fault(), 1..6)) {
        for fault in &faults {
            fault.spoil(&mut json);
            for parse in TYPES {
                parse(&json);
            }
        }
    }

    #[test]
    fn odd_members_are_answered(json in valid(), at in any::<Index>(), value in odd_value()) {
        let mut request: Value = serde_json::from_slice(&json).unwrap();
        let members = request.as_object_mut().unwrap();
        let name = members.keys().nth(at.index(members.len())).unwrap().clone();
        members.insert(name, value);
        for parse in TYPES {
            parse(&serde_json::to_vec(&request).unwrap());
        }
    }

    #[test]
    fn an_unknown_member_is_named_whatever_it_is_called(name in "[^\\p{C}]{1,20}", known in valid()) {
        let mut request: Value = serde_json::from_slice(&known).unwrap();
        prop_assume!(!["request_id", "actor"].contains(&name.as_str()));
        request.as_object_mut().unwrap().retain(|name, _| name == "request_id" || name == "actor");
        request[&name] = json!(1);
        let error = parse::<Empty>(&serde_json::to_vec(&request).unwrap(), &Limits::default()).unwrap_err();
        prop_assert_eq!((error.reason, &error.details["field"]), (Reason::UnknownField, &json!(name)));
    }
}

#[test]
fn nesting_without_end_is_answered() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"fields\":", "}]")] {
        for json in [open.repeat(20_000), format!("{}1{}", open.repeat(20_000), close.repeat(20_000))] {
            for field in ["fields", "content", "config", "splices", "owner", "token"] {
                for parse in TYPES {
                    assert!(parse(format!("{{\"{field}\":{json}}}").as_bytes()).is_some());
                    assert!(parse(json.as_bytes()).is_some());
                }
            }
        }
    }
}

/// The refusal of a request, or `None`.
fn refusal<R: Request + Debug>(request: Value) -> Option<Reason> {
    answer::<R>(&serde_json::to_vec(&request).unwrap()).err()
}

#[test]
fn numbers_have_the_bounds_of_the_contract() {
    let bounds: &[(&str, Asked<u64>, u64, u64)] = &[
        ("ttl_ms of an acquire", |ms| refusal::<Acquire>(json!({"owner": "a", "ttl_ms": ms})), 1_000, 86_400_000),
        (
            "ttl_ms of a takeover",
            |ms| refusal::<Takeover>(json!({"owner": "a", "reason": "b", "ttl_ms": ms})),
            1_000,
            86_400_000,
        ),
        ("wait_ms", |ms| refusal::<Acquire>(json!({"owner": "a", "wait_ms": ms})), 0, 60_000),
        ("idle_timeout_ms", |ms| refusal::<Open>(json!({"config": {"idle_timeout_ms": ms}})), 1_000, 2_592_000_000),
        ("limit", |limit| refusal::<List>(json!({"limit": limit})), 1, 1_000),
    ];
    for (what, ask, low, high) in bounds {
        assert_eq!((ask(*low), ask(*high)), (None, None), "{what}");
        assert_eq!(ask(high + 1), Some(Reason::BadValue), "{what}");
        assert!(*low == 0 || ask(low - 1) == Some(Reason::BadValue), "{what}");
    }
    assert_eq!(Limits::default().default_idle_timeout_ms, 1_800_000);
}

#[test]
fn texts_have_the_bounds_of_the_contract() {
    // Characters, not bytes: each of these has three.
    let text = |length: usize| "\u{20ac}".repeat(length);
    let bounds: &[(&str, Asked<String>, usize)] = &[
        ("owner of an acquire", |owner| refusal::<Acquire>(json!({"owner": owner})), 256),
        ("owner of a takeover", |owner| refusal::<Takeover>(json!({"owner": owner, "reason": "a"})), 256),
        ("reason of a takeover", |reason| refusal::<Takeover>(json!({"owner": "a", "reason": reason})), 256),
        ("reason of an unlock", |reason| refusal::<Unlock>(json!({"reason": reason})), 256),
        ("reason of a move", |reason| refusal::<Move>(json!({"reason": reason})), 256),
        ("reason of a drain", |reason| refusal::<Drain>(json!({"reason": reason})), 256),
        ("actor", |actor| refusal::<Empty>(json!({"actor": actor})), 256),
        ("request_id", |id| refusal::<Empty>(json!({"request_id": id})), 64),
    ];
    for (what, ask, most) in bounds {
        assert_eq!((ask(text(1)), ask(text(*most))), (None, None), "{what}");
        assert_eq!((ask(text(most + 1)), ask(text(0))), (Some(Reason::BadValue), Some(Reason::BadValue)), "{what}");
    }
    let path = |path: String| refusal::<Open>(json!({"path": path}));
    assert_eq!((path(text(1)), path(text(1024))), (None, None));
    assert_eq!((path(text(1025)), path(text(0))), (Some(Reason::InvalidPath), Some(Reason::InvalidPath)));
    let id = |id: String| refusal::<Open>(json!({"id": id}));
    assert_eq!((id("a".to_owned()), id("a".repeat(64))), (None, None));
    assert_eq!(
        (id("a".repeat(65)), id(String::new())),
        (Some(Reason::InvalidSessionId), Some(Reason::InvalidSessionId))
    );
}

#[test]
fn documents_have_the_bounds_of_the_contract() {
    let edit = |bytes: usize| refusal::<Edit>(json!({"body": "x".repeat(bytes)}));
    let open = |bytes: usize| refusal::<Open>(json!({"content": {"body": "x".repeat(bytes)}}));
    for body in [edit, open] {
        assert_eq!((body(512 * 1024), body(512 * 1024 + 1)), (None, Some(Reason::BodyTooLarge)));
    }
    // `{"a":"…"}` has eight bytes beside the text.
    let fields = |bytes: usize| refusal::<Open>(json!({"content": {"fields": {"a": "x".repeat(bytes - 8)}}}));
    assert_eq!((fields(64 * 1024), fields(64 * 1024 + 1)), (None, Some(Reason::FieldsTooLarge)));
    let nested = |levels: usize| {
        let inner = (2..levels).fold(json!({}), |inner, _| json!({"a": inner}));
        refusal::<Open>(json!({"content": {"fields": {"a": inner}}}))
    };
    assert_eq!((nested(32), nested(33)), (None, Some(Reason::FieldsTooLarge)));
    let request = |bytes: usize| TYPES[1](&[&b"{}"[..], &vec![b' '; bytes - 2]].concat());
    assert_eq!((request(1024 * 1024), request(1024 * 1024 + 1)), (None, Some(Reason::RequestTooLarge)));
}

#[test]
fn left_out_and_null_are_the_same() {
    assert!(matches!(
        answer::<Edit>(br#"{"body":"a","token":null,"fields":null}"#),
        Ok(Edit { token: None, fields: None, .. })
    ));
    assert_eq!(refusal::<Empty>(json!({"request_id": null, "actor": null})), None);
    assert!(answer::<Empty>(b"").is_ok() && answer::<Empty>(b" \n").is_ok(), "an empty body counts as {{}}");
}
