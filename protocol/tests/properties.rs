//! Laws of the protocol, tried on random values: paths, subjects, records, frames, merge patches, signals and tokens.
//!
//! Deliberately absent: what the parser of requests does with bad input (`parsing.rs`), and the lock rules, which are a
//! table (`lock_rules.rs`).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use holdfast_protocol::document::merge_patch;
use holdfast_protocol::frame::Frame;
use holdfast_protocol::id::{Boot, RESERVED_NAMESPACES, WorkspaceName};
use holdfast_protocol::path::CanonicalPath;
use holdfast_protocol::record::Lock;
use holdfast_protocol::signal::{DATA_BYTES, Happening, Signal, StreamPosition};
use holdfast_protocol::subject::{RequestSubject, Root, Target, Verb};
use holdfast_protocol::token::{Secret, hash_token};
use holdfast_protocol::{Namespace, Reason, SessionId, SessionKey, SessionRecord, WorkerName};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};
use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;

#[path = "fixture/arbitrary.rs"]
mod arbitrary;

use arbitrary::{frames, key, namespace, object, part, record, root, spelling, token};

fn canonical(path: &str) -> Result<CanonicalPath, Reason> {
    CanonicalPath::parse(path, 4096).map_err(|error| error.reason)
}

/// Whether `path` stays within its workspace, counted apart from how `CanonicalPath` does it.
fn stays_within(path: &str) -> bool {
    let mut depth = 0;
    !path.starts_with('/')
        && path.split('/').all(|part| {
            depth += match part {
                "" | "." => 0,
                ".." => -1,
                _ => 1,
            };
            depth >= 0
        })
}

proptest! {
    #[test]
    fn equivalent_spellings_are_one_path_and_one_session(parts in vec(part(), 1..6), spell in spelling()) {
        let canon = canonical(&parts.join("/")).unwrap();
        prop_assert_eq!(canon.as_str(), parts.join("/"), "it is canonical already");
        let spelled = canonical(&spell.of(&parts)).unwrap();
        prop_assert_eq!(&spelled, &canon);
        let main = WorkspaceName::parse("main").unwrap();
        prop_assert_eq!(spelled.session_id(&main), canon.session_id(&main));
        prop_assert_ne!(spelled.session_id(&WorkspaceName::parse("other").unwrap()), canon.session_id(&main));
    }

    #[test]
    fn canonicalising_twice_changes_nothing(path in "(\\PC|/|\\.){1,40}") {
        if let Ok(once) = canonical(&path) {
            prop_assert_eq!(canonical(once.as_str()), Ok(once));
        }
    }

    #[test]
    fn a_path_stays_within_its_workspace(parts in vec(select(vec!["..", ".", "", "a", "b", "..."]), 0..10)) {
        let path = parts.join("/");
        match canonical(&path) {
            Ok(path) => {
                prop_assert!(stays_within(&parts.join("/")));
                prop_assert!(path.as_str().split('/').all(|part| !["", ".", ".."].contains(&part)), "{}", path);
            }
            Err(Reason::PathEscape) => prop_assert!(!stays_within(&path)),
            Err(reason) => prop_assert!(reason == Reason::InvalidPath && (stays_within(&path) || path.is_empty())),
        }
    }

    #[test]
    fn request_subjects_round_trip(root in root(), key in key(), worker in token().prop_map(|name| WorkerName::parse(&name).unwrap())) {
        for verb in Verb::ALL.iter().copied() {
            let (subject, expected) = match verb.target() {
                Target::Session => (root.session_request(verb, &key), RequestSubject::Session(verb, key.clone())),
                Target::Namespace => {
                    let namespace = key.namespace.clone();
                    (root.namespace_request(verb, &namespace), RequestSubject::Namespace(verb, namespace))
                }
                Target::Worker => (root.sys_request(verb, Some(&worker)), RequestSubject::Worker(verb, worker.clone())),
                Target::Fleet => (root.sys_request(verb, None), RequestSubject::Fleet(verb)),
            };
            prop_assert_eq!(root.parse_request(&subject), Ok(expected));
            prop_assert_eq!(Verb::from_name(verb.as_str()), Some(verb));
            let listening: Vec<_> = Verb::ALL.iter().filter(|other| matches(&root.endpoint(**other), &subject)).collect();
            prop_assert_eq!(listening, [&verb], "one endpoint hears {}", &subject);
            let longer = format!("{subject}.more");
            prop_assert!(!Verb::ALL.iter().any(|other| matches(&root.endpoint(*other), &longer)), "{}", longer);
            prop_assert!(!root.sessions_stream_subjects().iter().any(|stored| matches(stored, &subject)), "{}", subject);
            prop_assert!(!root.signals_stream_subjects().iter().any(|stored| matches(stored, &subject)), "{}", subject);
        }
    }

    #[test]
    fn record_log_and_agent_subjects_round_trip(root in root(), key in key(), worker in token(), boot in any::<u128>(), call in "[a-z]{1,8}(\\.[a-z]{1,8})?") {
        prop_assert_eq!(root.parse_record(&root.record(&key)), Some(key.clone()));
        prop_assert_eq!(root.parse_log(&root.log(&key)), Some(key.clone()));
        for (stored, pattern) in root.sessions_stream_subjects().iter().zip([root.record(&key), root.log(&key)]) {
            prop_assert!(matches(stored, &pattern));
        }
        prop_assert!(matches(&root.records(Some(&key.namespace)), &root.record(&key)));
        let (worker, boot) = (WorkerName::parse(&worker).unwrap(), Boot(Uuid::from_u128(boot)));
        let subject = root.agent(&worker, boot, &key, &call);
        prop_assert!(matches(&root.agents(&worker, boot), &subject));
        prop_assert_eq!(root.parse_agent(&subject), Some((key.clone(), call.as_str())));
        for other in [root.record(&key), root.log(&key), subject, root.signal(&key, "lock", "acquired")] {
            prop_assert!(root.parse_request(&other).is_err(), "{} is no request", other);
        }
        for group in ["session", "lock"] {
            let signal = root.signal(&key, group, "event");
            prop_assert!(matches(&root.signals(&key, Some(group)), &signal) && matches(&root.signals(&key, None), &signal));
            let kept = root.kept_signal(&key, group, "event");
            prop_assert_eq!(root.signals_stream_subjects().iter().filter(|taken| matches(taken, &kept)).count(), 1);
            prop_assert!(!root.signals_stream_subjects().iter().any(|taken| matches(taken, &signal)));
            prop_assert_eq!(root.stored_signal(&kept), Some(signal));
        }
    }

    #[test]
    fn no_subject_makes_the_parser_panic(subject in "(hf|\\.|session|sys|open|get|worker|drain|\\PC){0,12}") {
        let root = Root::default();
        if let Ok(parsed) = root.parse_request(&subject) {
            prop_assert!(matches(&root.endpoint(parsed.verb()), &subject));
        }
        let _ = (root.parse_agent(&subject), root.parse_record(&subject), root.parse_log(&subject));
    }

    #[test]
    fn reserved_namespaces_are_refused(namespace in select(RESERVED_NAMESPACES.to_vec()), id in token()) {
        prop_assert!(Namespace::parse_open(namespace).is_err());
        let subject = format!("hf.{namespace}.doc.get.{id}");
        prop_assert_eq!(Root::default().parse_request(&subject).unwrap_err().reason, Reason::BadValue);
    }

    #[test]
    fn records_round_trip(record in record()) {
        prop_assert_eq!(SessionRecord::from_json(&record.to_json(), &record.key()), Ok(record));
    }

    #[test]
    fn a_record_of_another_key_is_refused(record in record(), key in key()) {
        prop_assume!(record.key() != key);
        prop_assert_eq!(SessionRecord::from_json(&record.to_json(), &key).unwrap_err().reason, Reason::RecordInvalid);
    }

    #[test]
    fn frames_round_trip(frames in frames(), key in key()) {
        for frame in frames {
            let json = frame.to_json();
            prop_assert_eq!(Frame::from_json(&json, &key).unwrap().to_json(), json);
        }
    }

    #[test]
    fn no_bytes_make_the_readers_of_stored_things_panic(bytes in vec(any::<u8>(), 0..200), frames in frames(), record in record(), at in any::<prop::sample::Index>()) {
        let key = record.key();
        for mut json in [record.to_json(), frames[0].to_json()] {
            let at = at.index(json.len());
            json.splice(at..at, bytes.iter().copied());
            let _ = (SessionRecord::from_json(&json, &key), Frame::from_json(&json, &key));
        }
        prop_assert!(SessionRecord::from_json(&bytes, &key).is_err() && Frame::from_json(&bytes, &key).is_err());
    }

    #[test]
    fn replaying_frames_changes_nothing(frames in frames(), late in vec(any::<prop::sample::Index>(), 0..12), key in key()) {
        let (mut seen, mut applied) = (0, Vec::new());
        let mut replay = |frame: &Frame| {
            let ops = frame.unseen(seen, &key).unwrap();
            seen += ops.len() as u64;
            applied.extend(ops.iter().map(|op| op.request_id.to_string()));
        };
        for (at, frame) in frames.iter().enumerate() {
            replay(frame);
            replay(frame);
            late.iter().for_each(|late| replay(&frames[late.index(at + 1)]));
        }
        let written = frames.iter().flat_map(|frame| frame.ops.iter().map(|op| op.request_id.to_string()));
        prop_assert_eq!(applied, written.collect::<Vec<_>>());
    }

    #[test]
    fn a_gap_in_the_log_is_noticed(frames in frames(), seen in prop_oneof![0u64..24, Just(u64::MAX)], key in key()) {
        for frame in frames.iter().filter(|frame| !frame.ops.is_empty()) {
            let unseen = frame.unseen(seen, &key);
            prop_assert_eq!(unseen.is_err(), seen < frame.first_op - 1);
            let last = frame.first_op - 1 + frame.ops.len() as u64;
            prop_assert!(unseen.is_err() || unseen.unwrap().len() as u64 == last.saturating_sub(seen));
        }
    }

    #[test]
    fn merge_patch_is_that_of_the_rfc(target in object(), patch in object()) {
        let mut fields = target.clone();
        merge_patch(&mut fields, &patch);
        prop_assert_eq!(Value::Object(fields), of_the_rfc(Value::Object(target), &Value::Object(patch)));
    }

    #[test]
    fn a_merge_patch_made_twice_or_empty_changes_nothing(target in object(), patch in object()) {
        let mut once = target.clone();
        merge_patch(&mut once, &patch);
        let mut twice = once.clone();
        merge_patch(&mut twice, &patch);
        prop_assert_eq!(&twice, &once);
        merge_patch(&mut twice, &Map::new());
        prop_assert_eq!(&twice, &once);
        for (name, value) in target.iter().filter(|(name, _)| !patch.contains_key(*name)) {
            prop_assert_eq!(once.get(name), Some(value), "what the patch does not name stays");
        }
        prop_assert!(patch.iter().all(|(name, value)| value.is_null() != once.contains_key(name)));
    }

    #[test]
    fn data_of_signals_stays_below_its_limit(data in btree_map("[a-z_]{1,32}", member(), 0..16), index in 0u32..3) {
        prop_assume!(!data.contains_key("truncated"));
        let before: Map<String, Value> = data.into_iter().collect();
        let key = SessionKey::new(Namespace::parse("n").unwrap(), SessionId::parse("s").unwrap());
        let place = StreamPosition { stream: "KV_sessions", sequence: 7, index, time: "" };
        let happening = Happening { name: "lock.acquired".to_owned(), request_id: None, data: before.clone() };
        let mut after = Signal::committed(&key, place, happening).data;
        prop_assert!(serde_json::to_vec(&after).unwrap().len() <= DATA_BYTES);
        let fitted = serde_json::to_vec(&before).unwrap().len() <= DATA_BYTES;
        let cut: Vec<String> = after.remove("truncated").map_or(Vec::new(), |cut| serde_json::from_value(cut).unwrap());
        prop_assert_eq!(cut.is_empty(), fitted);
        prop_assert_eq!(after.len(), before.len());
        for (name, value) in &after {
            prop_assert_eq!(value, if cut.contains(name) { &Value::Null } else { &before[name] });
        }
        let size = |name: &String| serde_json::to_vec(&before[name]).unwrap().len();
        let largest_kept = after.keys().filter(|name| !cut.contains(*name)).map(size).max();
        prop_assert!(cut.iter().all(|name| size(name) >= largest_kept.unwrap_or(0)), "the largest are cut");
    }

    #[test]
    fn a_token_follows_from_secret_session_revision_and_nonce(bytes in any::<[u8; 32]>(), key in key(), other in key(), revision in any::<u64>(), nonce in any::<u128>()) {
        prop_assume!(key.namespace != other.namespace && key.id != other.id);
        let (secret, nonce) = (Secret::new(bytes), Uuid::from_u128(nonce));
        let token = secret.token(&key, revision, nonce);
        prop_assert_eq!(&secret.clone().token(&key, revision, nonce), &token);
        prop_assert!(token.len() == 44 && token.starts_with("hft_"));
        let mut changed = bytes;
        changed[31] ^= 1;
        let others = [
            Secret::new(changed).token(&key, revision, nonce),
            secret.token(&SessionKey::new(other.namespace.clone(), key.id.clone()), revision, nonce),
            secret.token(&SessionKey::new(key.namespace.clone(), other.id.clone()), revision, nonce),
            secret.token(&key, revision.wrapping_add(1), nonce),
            secret.token(&key, revision, Uuid::from_u128(nonce.as_u128() ^ 1)),
        ];
        let lock: Lock = serde_json::from_value(json!({"owner": "a", "revision": 1, "token_hash": hash_token(&token)})).unwrap();
        prop_assert!(lock.is_proven_by(&token));
        prop_assert!(others.iter().all(|other| *other != token && !lock.is_proven_by(other)));
    }

    #[test]
    fn where_namespace_ends_and_id_begins_matters(name in namespace(), id in token(), cut in 1usize..32) {
        // `a` + `bc` and `ab` + `c` are two sessions with two tokens.
        let whole = format!("{name}{}", id.to_lowercase());
        prop_assume!(cut != name.as_str().len() && cut < whole.len() && cut <= 32 && whole.len() <= cut + 64);
        let split = |at: usize| SessionKey::new(Namespace::parse(&whole[..at]).unwrap(), SessionId::parse(&whole[at..]).unwrap());
        let token = |key: SessionKey| Secret::new([1; 32]).token(&key, 1, Uuid::nil());
        prop_assert_ne!(token(split(cut)), token(split(name.as_str().len())));
    }
}

/// Merge patch as RFC 7396 section 2 writes it down.
fn of_the_rfc(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = match target {
        Value::Object(target) => target,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let before = target.remove(name).unwrap_or(Value::Null);
            target.insert(name.clone(), of_the_rfc(before, value));
        }
    }
    Value::Object(target)
}

/// Whether a NATS subscription of `pattern` hears `subject`.
fn matches(pattern: &str, subject: &str) -> bool {
    let (mut patterns, mut tokens) = (pattern.split('.'), subject.split('.'));
    loop {
        match (patterns.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(pattern), Some(token)) if pattern == "*" || pattern == token => {}
            _ => return false,
        }
    }
}

/// A member of a signal's data, from nothing to far over the limit; control characters take six bytes each.
fn member() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<u64>().prop_map(|number| json!(number)),
        (0usize..20_000).prop_map(|length| json!("x".repeat(length))),
        (0usize..5_000).prop_map(|length| json!("\u{1}".repeat(length))),
        vec("[a-z]{0,9}", 0..4).prop_map(|words| json!(words)),
    ]
}

#[test]
fn decomposed_and_composed_letters_are_one_session() {
    let composed = "\u{e9}t\u{e9}/\u{ac00}.md";
    let decomposed: String = composed.nfd().collect();
    assert_ne!(composed, decomposed);
    assert_eq!(canonical(composed), canonical(&decomposed));
}
