//! Decision tables.

use holdfast_protocol::id::{KindName, WorkspaceName};
use holdfast_protocol::path::CanonicalPath;
use holdfast_protocol::record::{EventType, Lock, Mark, SessionRecord, State};
use holdfast_protocol::request::Mode;
use holdfast_protocol::{Error, Reason, Revision, SessionKey};

use crate::Author;
use crate::fixture::{active, closed, key, owner, passive};
use crate::open::{Blank, OpenDecision, Wanted, created, is_final, open, unmade};
use crate::place::{Ownership, ownership, placed};
use crate::sweep::{SweepDecision, reclaimed, sweep};

fn wanted<'a>(key: &'a SessionKey, mode: Mode, file: Option<&'a (WorkspaceName, CanonicalPath)>) -> Wanted<'a> {
    static DOCUMENT: std::sync::LazyLock<KindName> = std::sync::LazyLock::new(KindName::default);
    Wanted { key, file, kind: &DOCUMENT, mode }
}

#[test]
fn a_session_stands_where_its_record_and_its_owners_worker_say() {
    let held = active("s1", "w1");
    let by = held.owner.clone().unwrap();
    assert_eq!(ownership(&held, |_| false), Ownership::Active(&by));
    assert_eq!(ownership(&held, |_| true), Ownership::Orphaned(&by));
    assert_eq!(ownership(&passive("s1"), |_| panic!("nobody owns it")), Ownership::Passive);
    assert_eq!(ownership(&closed("s1"), |_| panic!("nobody owns it")), Ownership::Closed);
}

#[test]
fn opening_follows_mode_and_existence() {
    enum Expect {
        Create(u64),
        Existing,
        Refuse(Reason),
    }
    use Expect::*;
    let nothing = || (None, Revision(0));
    let deleted = || (None, Revision(9));
    let found = |record: SessionRecord| (Some(record), Revision(7));
    let table = [
        (nothing(), Mode::Ensure, Create(0)),
        (nothing(), Mode::Create, Create(0)),
        (nothing(), Mode::Attach, Refuse(Reason::NoSession)),
        (deleted(), Mode::Ensure, Create(9)),
        (deleted(), Mode::Create, Create(9)),
        (deleted(), Mode::Attach, Refuse(Reason::NoSession)),
        (found(closed("s1")), Mode::Ensure, Create(7)),
        (found(closed("s1")), Mode::Create, Create(7)),
        (found(closed("s1")), Mode::Attach, Refuse(Reason::NoSession)),
        (found(passive("s1")), Mode::Ensure, Existing),
        (found(passive("s1")), Mode::Create, Refuse(Reason::AlreadyExists)),
        (found(passive("s1")), Mode::Attach, Existing),
        (found(active("s1", "w1")), Mode::Ensure, Existing),
        (found(active("s1", "w1")), Mode::Create, Refuse(Reason::AlreadyExists)),
        (found(active("s1", "w1")), Mode::Attach, Existing),
    ];
    for ((record, revision), mode, expected) in table {
        match (open(record.as_ref(), revision, wanted(&key("s1"), mode, None)), expected) {
            (OpenDecision::Create { expected, .. }, Create(revision)) => assert_eq!(expected, Revision(revision)),
            (OpenDecision::Existing, Existing) => {}
            (OpenDecision::Refuse(error), Refuse(reason)) => assert_eq!(error.reason, reason),
            (decision, _) => panic!("{record:?} with {mode:?} is {decision:?}"),
        }
    }
}

#[test]
fn an_id_of_a_file_is_for_the_session_of_that_file() {
    let workspace = WorkspaceName::parse("main").unwrap();
    let path = CanonicalPath::parse("a.md", 1024).unwrap();
    let key = key(path.session_id(&workspace).as_str());
    let file = (workspace, path);
    let of_file =
        |record: SessionRecord| SessionRecord { workspace: Some(file.0.clone()), path: Some(file.1.clone()), ..record };
    let (fileless, id) = (active(key.id.as_str(), "w1"), key.id.as_str());
    let refusal = |decision: OpenDecision| match decision {
        OpenDecision::Refuse(error) => Some(error.reason),
        OpenDecision::Create { .. } | OpenDecision::Existing => None,
    };
    let on = |record: Option<&SessionRecord>, mode, file| open(record, Revision(7), wanted(&key, mode, file));
    for mode in [Mode::Ensure, Mode::Create] {
        assert_eq!(refusal(on(None, mode, None)), Some(Reason::InvalidSessionId));
        assert_eq!(refusal(on(Some(&closed(id)), mode, None)), Some(Reason::InvalidSessionId));
        assert_eq!(refusal(on(None, mode, Some(&file))), None);
        assert_eq!(refusal(on(Some(&closed(id)), mode, Some(&file))), None);
        assert_eq!(refusal(on(Some(&fileless), mode, Some(&file))), Some(Reason::AlreadyExists));
    }
    let there = of_file(fileless.clone());
    assert_eq!(refusal(on(Some(&there), Mode::Ensure, Some(&file))), None);
    assert_eq!(refusal(on(Some(&there), Mode::Attach, None)), None, "its id is as good as its path once it is there");
}

#[test]
fn a_session_made_over_a_closed_one_leaves_its_frames_behind_and_its_mark_in_place() {
    let mut before = closed("s1");
    before.mark = Mark { at: Revision(3), changes: 20 };
    let OpenDecision::Create { expected, mark } =
        open(Some(&before), Revision(7), wanted(&key("s1"), Mode::Ensure, None))
    else {
        panic!()
    };
    let blank = Blank {
        secret: 0,
        key: &key("s1"),
        file: None,
        kind: KindName::default(),
        config: active("s1", "w1").config,
        owner: owner("w1"),
        expected,
        mark,
    };
    let record = created(blank, Author::default());
    assert_eq!(record.log_after, 7);
    assert_eq!(record.mark, Mark { at: Revision(3), changes: 20 });
    assert_eq!(record.event.as_ref().unwrap().kind, EventType::SessionOpened);
    assert_eq!(SessionRecord::from_json(&record.to_json(), &key("s1")).unwrap(), record);
}

#[test]
fn a_session_of_another_kind_is_not_opened() {
    let (counter, key) = (KindName::parse("counter").unwrap(), key("s1"));
    assert_eq!(KindName::default().as_str(), "document");
    let as_counter = |record: Option<&SessionRecord>| {
        open(record, Revision(7), Wanted { kind: &counter, ..wanted(&key, Mode::Ensure, None) })
    };
    for there in [active("s1", "w1"), passive("s1")] {
        assert!(matches!(open(Some(&there), Revision(7), wanted(&key, Mode::Ensure, None)), OpenDecision::Existing));
        let OpenDecision::Refuse(refusal) = as_counter(Some(&there)) else { panic!("it was opened") };
        assert_eq!(refusal.reason, Reason::AlreadyExists);
        assert_eq!((&refusal.details["kind"], &refusal.details["field"]), (&"document".into(), &"kind".into()));
    }
    assert!(
        matches!(as_counter(Some(&closed("s1"))), OpenDecision::Create { .. }),
        "what is over is opened as anything"
    );
    assert!(matches!(as_counter(None), OpenDecision::Create { .. }));
}

#[test]
fn placing_says_whether_the_session_moved_or_came_back() {
    let author =
        Author { actor: Some("ops"), actor_proven: Some("OPS/ops"), reason: Some("because"), request_id: None };
    let moved = placed(&active("s1", "w1"), owner("w2"), author);
    let event = moved.event.as_ref().unwrap();
    assert_eq!(event.kind, EventType::SessionMoved);
    assert_eq!(event.previous_worker.as_ref().unwrap().as_str(), "w1");
    assert_eq!(moved.owner.as_ref().unwrap().worker.as_str(), "w2");
    assert_eq!((event.actor.as_deref(), event.reason.as_deref()), (Some("ops"), Some("because")));

    let back = placed(&passive("s1"), owner("w2"), Author::default());
    assert_eq!(back.event.as_ref().unwrap().kind, EventType::SessionActivated);
    assert_eq!(back.event.as_ref().unwrap().previous_worker, None);
    for record in [moved, back] {
        assert_eq!(SessionRecord::from_json(&record.to_json(), &key("s1")).unwrap(), record);
    }
}

#[test]
fn a_sweep_touches_only_orphans_and_moves_those_whose_lock_has_a_lease() {
    let locked = |ttl_ms| SessionRecord {
        lock: Some(Lock {
            owner: "a".to_owned(),
            revision: 1,
            token_hash: String::new(),
            nonce: uuid::Uuid::nil(),
            acquired_at: String::new(),
            ttl_ms,
            request_id: None,
            fence: 0,
            reasked: false,
        }),
        lock_revision: 1,
        ..active("s1", "w1")
    };
    let table = [
        (active("s1", "w1"), false, SweepDecision::Keep),
        (locked(Some(1_000)), false, SweepDecision::Keep),
        (passive("s1"), true, SweepDecision::Keep),
        (closed("s1"), true, SweepDecision::Keep),
        (active("s1", "w1"), true, SweepDecision::Reclaim),
        (locked(None), true, SweepDecision::Reclaim),
        (locked(Some(1_000)), true, SweepDecision::Move),
    ];
    for (record, gone, expected) in table {
        assert_eq!(sweep(&record, |_| gone), expected, "{record:?}");
    }
    let reclaimed = reclaimed(&locked(None), Author { reason: Some("worker w1 is gone"), ..Author::default() });
    assert_eq!((reclaimed.state, &reclaimed.owner), (State::Passive, &None));
    assert!(reclaimed.lock.is_some(), "a lock without a lease outlives its session's worker");
    assert_eq!(SessionRecord::from_json(&reclaimed.to_json(), &key("s1")).unwrap(), reclaimed);
}

#[test]
fn a_new_session_is_unmade_only_when_the_refusal_is_final() {
    for (reason, expected) in [
        (Reason::PathEscape, true),
        (Reason::NotUtf8, true),
        (Reason::BodyTooLarge, true),
        (Reason::WorkspaceDenied, true),
        (Reason::Draining, false),
        (Reason::StorageUnavailable, false),
        (Reason::AckTimeout, false),
        (Reason::Bug, false),
    ] {
        assert_eq!(is_final(&Error::new(reason, "")), expected, "{reason}");
    }
    let record = unmade(&active("s1", "w1"), Author::default());
    assert_eq!(SessionRecord::from_json(&record.to_json(), &key("s1")).unwrap(), record);
}
