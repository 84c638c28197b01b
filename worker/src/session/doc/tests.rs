//! Documents against a model that keeps whole copies.

mod reread;

use holdfast_protocol::request::{Edit, Request};
use proptest::prelude::*;
use serde_json::json;

use super::history::Weight;
use super::*;

mod outside;

/// What a user does.
#[derive(Clone, Debug)]
enum Doing {
    Body(String),
    Splices(Vec<(u64, u64, String)>),
    Fields(Vec<(u8, Option<u8>)>),
    Both(String, Vec<(u8, Option<u8>)>),
    Undo,
    Redo,
    /// Passes through a snapshot, as at a failover.
    Failover,
}

fn doing() -> impl Strategy<Value = Doing> {
    let text = "[abé🎉\n]{0,6}";
    let splices = prop::collection::vec((0u64..8, 0u64..4, text), 0..4);
    let fields = prop::collection::vec((0u8..4, prop::option::of(0u8..3)), 0..4);
    prop_oneof![
        3 => text.prop_map(Doing::Body),
        4 => splices.prop_map(Doing::Splices),
        3 => fields.clone().prop_map(Doing::Fields),
        1 => (text, fields).prop_map(|(body, fields)| Doing::Both(body, fields)),
        4 => Just(Doing::Undo),
        3 => Just(Doing::Redo),
        1 => Just(Doing::Failover),
    ]
}

fn patch(fields: &[(u8, Option<u8>)]) -> Map<String, Value> {
    // A member that is an object is patched inside, and set as a whole by its step.
    let value = |value: u8| if value == 2 { json!({ "deep": { "x": 1, "y": null } }) } else { json!(value) };
    fields.iter().map(|(name, new)| (format!("f{name}"), new.map_or(Value::Null, value))).collect()
}

fn document() -> Document {
    Document {
        id: SessionId::parse("s1").unwrap(),
        limits: Arc::new(Limits::default()),
        file: None,
        state: State::default(),
    }
}

/// The present and what can be reached from it, as whole copies.
#[derive(Default)]
struct Model {
    now: (String, Map<String, Value>),
    undo: Vec<(String, Map<String, Value>)>,
    redo: Vec<(String, Map<String, Value>)>,
    revision: u64,
}

impl Model {
    /// What `doing` makes of it; `false`: it is refused.
    fn make(&mut self, doing: &Doing) -> bool {
        let before = self.now.clone();
        match doing {
            Doing::Failover => return true,
            Doing::Undo => match self.undo.pop() {
                Some(earlier) => self.redo.push(std::mem::replace(&mut self.now, earlier)),
                None => return false,
            },
            Doing::Redo => match self.redo.pop() {
                Some(later) => self.undo.push(std::mem::replace(&mut self.now, later)),
                None => return false,
            },
            _ => {
                if !self.edit(doing) {
                    self.now = before;
                    return false;
                }
                // What changes nothing counts, and is nothing to undo.
                if self.now != before {
                    self.undo.push(before);
                    self.redo.clear();
                }
            }
        }
        self.revision += 1;
        true
    }

    fn edit(&mut self, doing: &Doing) -> bool {
        match doing {
            Doing::Body(text) | Doing::Both(text, _) => self.now.0.clone_from(text),
            Doing::Splices(splices) => {
                for (at, delete, insert) in splices {
                    let chars: Vec<char> = self.now.0.chars().collect();
                    let (at, end) = (*at as usize, (*at + *delete) as usize);
                    if end > chars.len() {
                        return false;
                    }
                    let (head, tail): (String, String) = (chars[..at].iter().collect(), chars[end..].iter().collect());
                    self.now.0 = format!("{head}{insert}{tail}");
                }
            }
            _ => {}
        }
        if let Doing::Fields(fields) | Doing::Both(_, fields) = doing {
            holdfast_protocol::document::merge_patch(&mut self.now.1, &patch(fields));
        }
        true
    }
}

fn request(doing: &Doing) -> (Verb, Value) {
    let splices = |splices: &[(u64, u64, String)]| -> Vec<Value> {
        splices.iter().map(|(at, delete, insert)| json!({ "at": at, "delete": delete, "insert": insert })).collect()
    };
    match doing {
        Doing::Body(text) => (Verb::DocEdit, json!({ "body": text })),
        Doing::Splices(made) => (Verb::DocEdit, json!({ "splices": splices(made) })),
        Doing::Fields(fields) => (Verb::DocEdit, json!({ "fields": patch(fields) })),
        Doing::Both(text, fields) => (Verb::DocEdit, json!({ "body": text, "fields": patch(fields) })),
        Doing::Undo => (Verb::DocUndo, json!({})),
        Doing::Redo => (Verb::DocRedo, json!({})),
        Doing::Failover => (Verb::DocGet, json!({})),
    }
}

fn decide(document: &Document, verb: Verb, body: &Value) -> Result<Decision, Error> {
    let ask = document.parse(verb, body.to_string().as_bytes())?;
    futures_util::FutureExt::now_or_never(document.decide(&ask)).expect("nothing to wait for without a file")
}

proptest! {
    #[test]
    fn a_document_is_what_whole_copies_would_be(all in prop::collection::vec(doing(), 1..80)) {
        let (mut document, mut model) = (document(), Model::default());
        let mut log = Vec::new();
        for doing in &all {
            if matches!(doing, Doing::Failover) {
                let snapshot = document.snapshot();
                document = self::document();
                document.restore(&snapshot).unwrap();
            }
            let (verb, body) = request(doing);
            let made = match decide(&document, verb, &body) {
                Ok(Decision::Change(change)) => {
                    document.apply(&change.change).unwrap();
                    log.push(change.change);
                    true
                }
                Ok(Decision::Reply(_)) => true,
                Err(_) => false,
            };
            prop_assert_eq!(made, model.make(doing), "{:?}", doing);
            prop_assert_eq!(&document.state.body, &model.now.0);
            prop_assert_eq!(&document.state.fields, &model.now.1);
            prop_assert_eq!(document.revision(), model.revision);
        }
        let mut replayed = self::document();
        for change in &log {
            replayed.apply(change).unwrap();
        }
        prop_assert_eq!(&replayed.state, &document.state, "the log alone makes the state");
    }
}

#[test]
fn undo_is_bounded_in_number_and_in_bytes() {
    let mut document = document();
    let edit = |document: &mut Document, body: Value| {
        let Ok(Decision::Change(change)) = decide(document, Verb::DocEdit, &body) else { panic!("refused") };
        document.apply(&change.change).unwrap();
    };
    for number in 0..150 {
        edit(&mut document, json!({ "fields": { "n": number } }));
    }
    let undone = (0..).take_while(|_| match decide(&document, Verb::DocUndo, &json!({})) {
        Ok(Decision::Change(change)) => document.apply(&change.change).is_ok(),
        _ => false,
    });
    assert_eq!(undone.count(), 100);
    for number in 0..10 {
        edit(&mut document, json!({ "body": number.to_string().repeat(400 * 1024) }));
    }
    assert!(document.snapshot().get().len() < 2 * 1024 * 1024);
    // In a snapshot a control character is six bytes, and a server takes no snapshot over its `max_payload`.
    for number in 0..20 {
        edit(&mut document, json!({ "body": "\u{1}".repeat(170 * 1024) + &number.to_string() }));
        edit(&mut document, json!({ "body": "" }));
    }
    assert!(document.snapshot().get().len() < 4 * 1024 * 1024, "{}", document.snapshot().get().len());
    assert!(decide(&document, Verb::DocUndo, &json!({})).is_ok(), "the latest change can be undone");
}

#[test]
fn a_log_of_the_first_version_replays_to_what_it_was() {
    // Two large texts replaced, and both taken back: weighed as a snapshot has them, the first would have been dropped.
    let large = |letter: &str| format!("{letter}\n").repeat(200 * 1024);
    let edit = |document: &Document, body: &str| {
        let step = document.delta_of(&serde_json::from_value(json!({ "body": body })).unwrap()).unwrap();
        json!({ "type": "edit", "step": step })
    };
    let mut document = document();
    for body in [large("a"), large("b"), String::new()] {
        let change = edit(&document, &body).to_string();
        document.apply(&RawValue::from_string(change).unwrap()).unwrap();
    }
    for body in [large("b"), large("a")] {
        document.apply(&RawValue::from_string(json!({ "type": "undo" }).to_string()).unwrap()).unwrap();
        assert_eq!(document.state.body.len(), body.len());
    }
    // And what it said of saves and of edits that change nothing.
    for change in
        [json!({ "type": "saving", "digest": "d" }), json!({ "type": "edit", "step": {} }), json!({ "type": "undo" })]
    {
        document.apply(&RawValue::from_string(change.to_string()).unwrap()).unwrap();
    }
    assert_eq!(document.state.body, large("a"));
    let mut again = self::document();
    let old = document.snapshot().get().replace(r#"{"digest":"d"}"#, r#""d""#);
    again.restore(&RawValue::from_string(old).unwrap()).unwrap();
    assert_eq!(again.state, document.state);
}

#[test]
fn a_load_keeps_the_history_only_where_its_log_says_so() {
    let load = json!({"type": "load", "body": "a", "baseline": {"digest": "d", "bytes": 1}});
    let mut same = load.clone();
    same["same"] = json!(true);
    for (load, can_undo) in [(load, false), (same, true)] {
        let mut document = document();
        let edit = json!({"type": "edit", "step": {"splices": [{"at": 0, "delete": 0, "insert": "a"}]}});
        for change in [edit, load] {
            document.apply(&RawValue::from_string(change.to_string()).unwrap()).unwrap();
        }
        assert_eq!((&*document.state.body, document.state.revision), ("a", 2));
        assert_eq!(document.state.history.next(Way::Undo).is_some(), can_undo);
    }
}

#[test]
fn a_change_of_another_kind_is_not_replayed() {
    let mut document = document();
    let nonsense = serde_json::value::to_raw_value(&json!({ "type": "nonsense" })).unwrap();
    assert_eq!(document.apply(&nonsense).unwrap_err().reason, Reason::RecordInvalid);
    let undo = raw(&DocumentChange::Undo { stamp: None, weight: Weight::Encoded });
    assert_eq!(document.apply(&undo).unwrap_err().reason, Reason::RecordInvalid);
}

#[test]
fn a_request_is_remembered_by_its_id() {
    let edit = json!({ "body": "x", "request_id": "r1", "actor": "me" });
    let ask = document().parse(Verb::DocEdit, edit.to_string().as_bytes()).unwrap();
    assert_eq!(ask.request_id.as_ref().map(holdfast_protocol::RequestId::as_str), Some("r1"));
    let body: Edit = serde_json::from_value(edit).unwrap();
    assert_eq!(ask.actor.as_deref(), body.actor());
}
