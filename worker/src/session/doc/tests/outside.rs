//! What comes from outside, requests and stored changes alike: no content has a meaning, and none takes long.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::reread::Filed;
use super::*;

const RAW: &str = "$serde_json::private::RawValue";

/// Text within text within text, which was parsed again and again once.
fn bomb(levels: usize) -> String {
    let (open, close) = ("[".repeat(120), "]".repeat(120));
    (0..levels).fold("1".to_owned(), |text, _| {
        let escaped = text.replace('\\', "\\u005c").replace('"', "\\u0022");
        format!("{open}{{\"{RAW}\":\"{escaped}\"}}{close}")
    })
}

/// Changes and a state as logs have them, with `value` as a field.
fn stored(value: &str) -> ([String; 4], String) {
    let fields = format!("{{\"a\":{value}}}");
    let step = format!("{{\"set\":{fields}}}");
    let changes = [
        format!("{{\"type\":\"begin\",\"body\":\"\",\"fields\":{fields}}}"),
        format!("{{\"fields\":{fields},\"body\":\"\",\"type\":\"begin\"}}"),
        format!(
            "{{\"type\":\"load\",\"body\":\"\",\"fields\":{fields},\"baseline\":{{\"digest\":\"d\",\"bytes\":1}}}}"
        ),
        format!("{{\"type\":\"edit\",\"step\":{step}}}"),
    ];
    let history = format!("{{\"undo\":[{step}],\"redo\":[{step}]}}");
    let state =
        format!("{{\"body\":\"\",\"fields\":{fields},\"revision\":1,\"saved_revision\":0,\"history\":{history}}}");
    (changes, state)
}

fn json(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap()
}

#[test]
fn no_name_has_a_meaning_in_a_stored_change_or_state() {
    let (changes, state) = stored(&format!("[{{\"{RAW}\":\"[1]\"}}]"));
    let is_whole = |fields: &Map<String, Value>| fields["a"][0].as_object().unwrap()[RAW] == "[1]";
    for change in changes {
        let mut document = document();
        document.apply(&json(change)).unwrap();
        assert!(is_whole(&document.state.fields));
    }
    let mut document = document();
    document.restore(&json(state)).unwrap();
    assert!(is_whole(&document.state.fields));
    for verb in [Verb::DocUndo, Verb::DocRedo] {
        let Ok(Decision::Change(change)) = decide(&document, verb, &json!({})) else { panic!("refused") };
        document.apply(&change.change).unwrap();
    }
    assert!(is_whole(&document.state.fields));
    // All of it again, from what it wrote itself.
    let snapshot = document.snapshot();
    let mut again = self::document();
    again.restore(&snapshot).unwrap();
    assert_eq!(again.state, document.state);

    let (changes, state) = stored(&bomb(100));
    for change in changes {
        self::document().apply(&json(change)).unwrap();
    }
    self::document().restore(&json(state)).unwrap();
}

#[test]
fn what_an_older_version_stored_is_read_as_ever() {
    let (changes, _) = stored("[18446744073709551616,1.5,-0.0,1e300,{\"b\":1,\"b\":2}]");
    for change in changes {
        let mut document = document();
        document.apply(&json(change)).unwrap();
        let fields = json!([18446744073709551616.0, 1.5, -0.0, 1e300, {"b": 2}]);
        assert_eq!(document.state.fields["a"], fields);
    }
}

/// Processor time of this thread, where the system tells it: others use this machine too.
fn processor_time() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|told| told.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

/// What `edit` takes on a document, all of it: read, decide, apply, snapshot; and taking it back.
fn take(body: &str, fields: &Map<String, Value>, edit: &str) -> (Duration, Result<(), Error>) {
    let mut document = document();
    document.state = State { body: body.to_owned(), fields: fields.clone(), ..State::default() };
    let start = processor_time();
    let result = document.parse(Verb::DocEdit, edit.as_bytes()).and_then(|ask| {
        let decided = futures_util::FutureExt::now_or_never(document.decide(&ask)).expect("nothing to wait for");
        let Decision::Change(change) = decided? else { panic!("an edit is a change") };
        document.apply(&change.change)
    });
    (processor_time().saturating_sub(start), result)
}

/// `part` as often as it fits into a request, between `head` and `tail`.
fn filled(head: &str, part: impl Fn(usize) -> String, tail: &str) -> String {
    let mut text = head.to_owned();
    for n in 0.. {
        let part = part(n);
        if text.len() + part.len() + tail.len() > 1024 * 1024 {
            break;
        }
        text += &part;
    }
    text + tail
}

/// `cargo test --release -p holdfast-worker --lib outside -- --nocapture` shows the figures.
#[test]
fn no_edit_takes_long_on_the_largest_document() {
    let splice =
        |at: u64, delete: u64, insert: &str| format!(",{{\"at\":{at},\"delete\":{delete},\"insert\":\"{insert}\"}}");
    let splices = |each: &dyn Fn(u64) -> String| {
        let first = "{\"splices\":[{\"at\":0,\"delete\":0,\"insert\":\"\"}";
        filled(first, |n| each(n as u64), "]}")
    };
    let bodies = ["é".repeat(256 * 1024), "aé🎉\r\n".repeat(50_000), "\u{1}".repeat(512 * 1024)];
    let mut fields = Map::new();
    for n in 0..6_000 {
        fields.insert(format!("{n:x}"), json!(1));
    }
    let edits = [
        ("splices in the middle", splices(&|_| splice(130_000, 0, ""))),
        ("splices all over", splices(&|n| splice(n * 7_919 % 200_000, 1, "é"))),
        ("splices that take all away", splices(&|n| if n == 0 { splice(0, 250_000, "") } else { splice(0, 0, "a") })),
        ("splices that take and give a lot", splices(&|n| splice(0, 200_000 * (n % 2), &"é".repeat(500)))),
        (
            "another text",
            filled("{\"body\":\"", |n| if n < 250_000 { "è".to_owned() } else { " ".repeat(1 << 20) }, "\"}"),
        ),
        (
            "a text of escapes",
            filled("{\"body\":\"", |n| if n < 170_000 { "\\u00e8".to_owned() } else { " ".repeat(1 << 20) }, "\"}"),
        ),
        ("fields that are not there", filled("{\"fields\":{\"x\":1", |n| format!(",\"_{n:x}\":null"), "}}")),
        (
            "fields that are there",
            filled(
                "{\"fields\":{\"x\":1",
                |n| if n < 6_000 { format!(",\"{n:x}\":null") } else { " ".to_owned() },
                "}}",
            ),
        ),
        ("fields within fields", format!("{{\"fields\":{{\"0\":{}1{}}}}}", "{\"a\":".repeat(120), "}".repeat(120))),
        ("too many fields", filled("{\"fields\":{\"x\":1", |n| format!(",\"_{n:x}\":1"), "}}")),
        ("a wide field", filled("{\"fields\":{\"0\":[1", |_| ",[]".to_owned(), "]}}")),
    ];
    // With debug assertions this only shows that nothing grows with the square.
    let is_slow = cfg!(debug_assertions);
    for (name, edit) in &edits {
        for body in &bodies[if is_slow { 1..2 } else { 0..3 }] {
            let (mut took, mut result) = take(body, &fields, edit);
            for _ in 0..if is_slow { 0 } else { 4 } {
                let again = take(body, &fields, edit);
                (took, result) = (took.min(again.0), again.1);
            }
            eprintln!(
                "{took:>12.1?}  {name}: {}",
                result.map_or_else(|error| error.reason.to_string(), |()| "done".to_owned())
            );
            let most = Duration::from_millis(if is_slow { 20_000 } else { 50 });
            assert!(took < most, "{name} took {took:?}");
        }
    }
}

#[test]
fn the_content_of_a_save_is_made_while_the_session_s_task_does_not_run() {
    let items: String = (0..500).map(|n| format!("- i{n}\n")).collect();
    let mut filed = Filed::new(Some(&format!("---\nl:\n{items}---\n")));
    assert!(filed.ask(Verb::DocEdit, &json!({"fields": {"l": vec!["x"; 500]}})));
    let ask = filed.document.parse(Verb::DocSave, b"").unwrap();
    let _runtime = filed.runtime.enter();
    let first_poll = futures_util::FutureExt::now_or_never(filed.document.effect(&ask));
    assert!(first_poll.is_none(), "front matter that takes a tenth of a second was written on the task");
}
