//! No body, of any content, takes long: the worst ones that we know, each at the limit of a request. What they cost
//! grows with their size and not faster; without debug assertions each takes less than 50 ms.
//! `cargo test --release -p holdfast-protocol --test worst_bodies -- --nocapture` shows the figures.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use holdfast_protocol::Limits;
use holdfast_protocol::request::{Acquire, Edit, Empty, List, Open, Reclaim, parse, peek};

const LIMIT: usize = 1024 * 1024;
/// Unoptimised code takes long for as many bytes as a request may have.
const SIZE: usize = if cfg!(debug_assertions) { LIMIT / 4 } else { LIMIT };
/// What one body may take.
const MOST: Duration = Duration::from_millis(50);
/// Below this a measurement says nothing about growth.
const NOISE: Duration = Duration::from_millis(40);
/// A small body counts as taking at least this long, because the system tells processor time in steps.
const STEP: Duration = Duration::from_millis(4);

/// `head`, as many of `part` as fit into `bytes`, and `tail`. `part` is given its number.
fn filled(bytes: usize, head: &str, part: impl Fn(usize) -> String, tail: &str) -> Vec<u8> {
    let mut body = head.to_owned();
    for n in 0.. {
        let part = part(n);
        if body.len() + part.len() + tail.len() > bytes {
            break;
        }
        body += &part;
    }
    (body + tail).into_bytes()
}

fn nested(bytes: usize, head: &str, open: &str, close: &str, tail: &str) -> Vec<u8> {
    let levels = (bytes - head.len() - tail.len() - 1) / (open.len() + close.len());
    format!("{head}{}1{}{tail}", open.repeat(levels), close.repeat(levels)).into_bytes()
}

/// A name and the body of about so many bytes.
type Body = (&'static str, fn(usize) -> Vec<u8>);

/// A float that only all of its digits tell from its neighbour.
fn halfway() -> String {
    format!("9007199254740993.{}1,", "0".repeat(760))
}

const BODIES: &[Body] = &[
    ("deep arrays", |bytes| nested(bytes, "", "[", "]", "")),
    ("deep arrays in actor", |bytes| nested(bytes, "{\"actor\":", "[", "]", "}")),
    ("deep arrays in an unknown member", |bytes| nested(bytes, "{\"x\":", "[", "]", "}")),
    ("deep arrays in fields", |bytes| nested(bytes, "{\"fields\":{\"a\":", "[", "]", "}}")),
    ("deep objects in fields", |bytes| nested(bytes, "{\"fields\":{\"a\":", "{\"a\":", "}", "}}")),
    ("deep objects in content", |bytes| nested(bytes, "{\"content\":{\"fields\":{\"a\":", "{\"a\":", "}", "}}}")),
    ("arrays that are not closed", |bytes| vec![b'['; bytes]),
    ("tiny keys", |bytes| filled(bytes, "{\"request_id\":\"r\"", |n| format!(",\"{n:x}\":1"), "}")),
    ("tiny keys in fields", |bytes| filled(bytes, "{\"fields\":{\"x\":1", |n| format!(",\"{n:x}\":1"), "}}")),
    ("tiny keys in content", |bytes| {
        filled(bytes, "{\"content\":{\"fields\":{\"x\":1", |n| format!(",\"{n:x}\":1"), "}}}")
    }),
    ("tiny objects in fields", |bytes| filled(bytes, "{\"fields\":{\"a\":[1", |_| ",{\"a\":1}".to_owned(), "]}}")),
    ("tiny arrays in fields", |bytes| filled(bytes, "{\"fields\":{\"a\":[1", |_| ",[]".to_owned(), "]}}")),
    ("tiny arrays at the deepest levels", |bytes| {
        let (open, close) = ("[".repeat(120), "]".repeat(120));
        filled(bytes, &format!("{{\"fields\":{{\"a\":{open}1"), |_| ",[]".to_owned(), &format!("{close}}}}}"))
    }),
    ("many towers in fields", |bytes| {
        let tower = format!(",{}{}", "[".repeat(100), "]".repeat(100));
        filled(bytes, "{\"fields\":{\"a\":[1", |_| tower.clone(), "]}}")
    }),
    ("long escapes", |bytes| filled(bytes, "{\"body\":\"", |_| "\\u00e9".to_owned(), "\"}")),
    ("short escapes", |bytes| filled(bytes, "{\"content\":{\"body\":\"", |_| "\\n".to_owned(), "\"}}")),
    ("an escaped key", |bytes| filled(bytes, "{\"", |_| "\\u0061".to_owned(), "\":1}")),
    ("an escaped key in fields", |bytes| filled(bytes, "{\"fields\":{\"", |_| "\\u0061".to_owned(), "\":1}}")),
    ("an escaped request_id", |bytes| filled(bytes, "{\"request_id\":\"", |_| "\\u0061".to_owned(), "\"}")),
    ("a long owner", |bytes| filled(bytes, "{\"owner\":\"", |_| "\u{20ac}".to_owned(), "\"}")),
    ("an integer", |bytes| filled(bytes, "{\"fields\":{\"a\":", |_| "9".to_owned(), "}}")),
    ("an integer as a number of ours", |bytes| filled(bytes, "{\"max_idle_ms\":", |_| "9".to_owned(), "}")),
    ("a fraction", |bytes| filled(bytes, "{\"fields\":{\"a\":0.", |_| "4".to_owned(), "}}")),
    ("a fraction as a number of ours", |bytes| filled(bytes, "{\"max_idle_ms\":0.", |_| "4".to_owned(), "}")),
    ("an exponent", |bytes| filled(bytes, "{\"fields\":{\"a\":1e-", |_| "9".to_owned(), "}}")),
    ("floats", |bytes| filled(bytes, "{\"fields\":{\"a\":[", |_| "0.12345678901234567890123,".to_owned(), "0]}}")),
    ("short floats", |bytes| filled(bytes, "{\"fields\":{\"a\":[", |_| "1e-7,".to_owned(), "0]}}")),
    ("floats between two", |bytes| filled(bytes, "{\"fields\":{\"a\":[", |_| halfway(), "0]}}")),
    ("integers at the limit", |bytes| filled(bytes, "{\"fields\":{\"a\":[", |_| format!("{},", u64::MAX), "0]}}")),
    ("small splices", |bytes| {
        filled(
            bytes,
            "{\"splices\":[{\"at\":0,\"delete\":0,\"insert\":\"\"}",
            |_| ",{\"at\":0,\"delete\":0,\"insert\":\"\"}".to_owned(),
            "]}",
        )
    }),
    ("splices that are none", |bytes| filled(bytes, "{\"splices\":[1", |_| ",1".to_owned(), "]}")),
    ("combining characters in a path", |bytes| filled(bytes, "{\"path\":\"", |_| "a\u{301}\u{323}".to_owned(), "\"}")),
    ("one long cluster in a path", |bytes| {
        filled(bytes, "{\"path\":\"a", |n| if n % 2 == 0 { "\u{301}" } else { "\u{323}" }.to_owned(), "\"}")
    }),
    ("a path of dots", |bytes| filled(bytes, "{\"path\":\"a", |_| "/..".to_owned(), "\"}")),
    ("white space", |bytes| filled(bytes, "{", |_| " ".to_owned(), "}")),
    ("white space and nothing", |bytes| vec![b' '; bytes]),
    ("text that is not UTF-8 at its end", |bytes| [vec![b' '; bytes - 1], vec![0xff]].concat()),
    ("JSON within JSON", |bytes| {
        let mut text = "1".to_owned();
        while text.len() < bytes / 2 {
            let inner = text.replace('\\', "\\u005c").replace('"', "\\u0022");
            text = format!("[{{\"$serde_json::private::RawValue\":\"{inner}\"}}]");
        }
        text.truncate(bytes / 2);
        filled(bytes, &format!("{{\"fields\":{{\"a\":{text}"), |_| " ".to_owned(), "}}")
    }),
];

/// Processor time of this thread, where the system tells it: others use this machine too.
fn processor_time() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|told| told.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

fn read(body: &[u8]) -> [Duration; 7] {
    let limits = Limits::default();
    let timed = |read: &dyn Fn()| {
        let once = |_| {
            let start = processor_time();
            read();
            processor_time().saturating_sub(start)
        };
        (0..3)
            .map(once)
            .try_fold(Duration::MAX, |best, took| if took < NOISE / 10 { Err(took) } else { Ok(best.min(took)) })
            .unwrap_or_else(|took| took)
    };
    [
        timed(&|| drop(parse::<Open>(body, &limits))),
        timed(&|| drop(parse::<Edit>(body, &limits))),
        timed(&|| drop(parse::<Acquire>(body, &limits))),
        timed(&|| drop(parse::<List>(body, &limits))),
        timed(&|| drop(parse::<Reclaim>(body, &limits))),
        timed(&|| drop(parse::<Empty>(body, &limits))),
        timed(&|| drop(peek(body))),
    ]
}

#[test]
fn no_body_takes_longer_than_its_size_says() {
    for (name, body) in BODIES {
        let (part, whole) = (body(SIZE / 16), body(SIZE));
        assert!((SIZE - 2_000..=SIZE).contains(&whole.len()), "{name}: {}", whole.len());
        let (small, large) = (read(&part), read(&whole));
        let most = large.iter().max().unwrap();
        eprintln!("{most:>12.1?}  {name}");
        assert!(cfg!(debug_assertions) || *most < MOST, "{name}: {large:?}");
        for (small, large) in small.iter().zip(&large) {
            // What grows with the square takes 256 times as long.
            assert!(
                *large < NOISE || *large < (*small).max(STEP) * 100,
                "{name}: sixteen times as much takes {large:?} for {small:?}"
            );
        }
    }
}

#[test]
fn a_body_over_the_limit_is_neither_parsed_nor_searched_to_its_end() {
    let tail = |bytes: usize| {
        filled(bytes, "{\"request_id\":\"early\",\"x\":[1", |_| ",1".to_owned(), "],\"actor\":\"late\"}")
    };
    let (at_limit, over) = (tail(LIMIT), tail(8 * LIMIT));
    assert_eq!(peek(&at_limit).actor.as_deref(), Some("late"));
    let peeked = peek(&over);
    assert_eq!((peeked.request_id.as_deref(), peeked.actor), (Some("early"), None));
    let error = parse::<Empty>(&over, &Limits::default()).unwrap_err();
    assert_eq!((error.reason.as_str(), &*error.request_id), ("request_too_large", "early"));
}
