use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_store::memory::{Faults, Memory};

use super::*;
use crate::fixture;

fn write(memory: &Memory, record: &SessionRecord) {
    memory.edit_by_hand(&record.key(), Some(record.to_json().into()));
}

fn stored(id: &str) -> Stored {
    Stored {
        key: fixture::key(id),
        revision: Revision(1),
        value: Some(fixture::passive(id).to_json().into()),
        write_id: None,
        time: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn request(json: &str) -> List {
    serde_json::from_str(json).unwrap()
}

fn default_namespace() -> Namespace {
    Namespace::parse("default").unwrap()
}

/// One page as a client sees it: ids, and `next`.
async fn ids(store: &Store, request: &List) -> (Vec<String>, Option<String>) {
    let namespace = default_namespace();
    let until = Instant::now() + LOOK;
    let SessionPage { sessions, next } = page(store, &namespace, request, until, until).await.unwrap();
    (sessions.iter().map(|session| session.id.to_string()).collect(), next)
}

async fn pages(store: &Store, json: &str) -> Vec<Vec<String>> {
    let mut request = request(json);
    let mut pages = Vec::new();
    loop {
        let (ids, next) = ids(store, &request).await;
        pages.push(ids);
        assert!(pages.len() < 1_000, "a listing ends");
        match next {
            Some(next) => request.after = Some(next),
            None => return pages,
        }
    }
}

fn store_of(records: &[SessionRecord]) -> Store {
    let memory = Memory::default();
    records.iter().for_each(|record| write(&memory, record));
    Arc::new(memory)
}

#[tokio::test]
async fn pages_join_up_in_the_order_of_the_stream_and_the_last_one_says_so() {
    let records: Vec<SessionRecord> = ["e", "b", "d", "a", "c"].iter().map(|id| fixture::passive(id)).collect();
    let store = store_of(&records);
    assert_eq!(pages(&store, r#"{"limit":2}"#).await, [vec!["e", "b"], vec!["d", "a"], vec!["c"]]);
    assert_eq!(pages(&store, r#"{"limit":5}"#).await, [["e", "b", "d", "a", "c"]]);
    assert_eq!(pages(&store_of(&[]), "{}").await, [Vec::<String>::new()]);
}

#[tokio::test]
async fn closed_sessions_are_shown_when_asked_for_and_filters_apply() {
    let records = [fixture::active("a", "w1"), fixture::closed("b"), fixture::passive("c"), fixture::active("d", "w2")];
    let store = store_of(&records);
    assert_eq!(pages(&store, "{}").await, [["a", "c", "d"]]);
    assert_eq!(pages(&store, r#"{"state":"closed"}"#).await, [["b"]]);
    assert_eq!(pages(&store, r#"{"state":"active","worker":"w2"}"#).await, [["d"]]);
}

#[tokio::test]
async fn earlier_revisions_markers_and_records_that_do_not_parse_are_passed() {
    let memory = Memory::default();
    for round in 0..70 {
        for id in ["a", "b", "c"] {
            let record = SessionRecord { lock_revision: round, ..fixture::passive(id) };
            write(&memory, &record);
        }
    }
    memory.edit_by_hand(&fixture::key("b"), None);
    memory.edit_by_hand(&fixture::key("c"), Some("nonsense".into()));
    write(&memory, &fixture::passive("d"));
    let store: Store = Arc::new(memory);
    assert_eq!(pages(&store, "{}").await, [["a", "d"]]);
    assert_eq!(pages(&store, r#"{"limit":1}"#).await, [["a"], ["d"]]);
}

#[tokio::test]
async fn a_page_that_grows_too_large_ends_early_and_says_where() {
    let (namespace, request) = (default_namespace(), request("{}"));
    let listing = Listing { namespace: &namespace, request: &request };
    let mut page = Page::new(listing);
    page.bytes = PAGE_BYTES - 1;
    assert!(page.take(&stored("a")));
    assert!(!page.take(&stored("b")), "no room");
    assert!(page.take(&stored("a")), "it is named already");
    let cursor = Cursor { looked: 7, ..Cursor::at_begin(9) };
    let finished = page.finish(Some(cursor.clone()));
    assert_eq!(finished.sessions.len(), 1);
    assert_eq!(listing.cursor(&finished.next.unwrap()).unwrap(), cursor);
}

#[tokio::test]
async fn a_page_without_matches_comes_back_in_its_time_and_the_listing_gets_on() {
    let memory = Memory::default();
    for n in 0..2_000 {
        write(&memory, &fixture::passive(&format!("s{n}")));
    }
    write(&memory, &fixture::active("busy", "w1"));
    let store: Store = Arc::new(memory);
    let namespace = default_namespace();
    let mut request = request(r#"{"state":"active"}"#);
    let (mut found, mut rounds, mut looked) = (Vec::new(), 0, 0);
    loop {
        // There is no time for more than one stretch.
        let page = page(&store, &namespace, &request, Instant::now(), Instant::now() + LOOK).await.unwrap();
        found.extend(page.sessions.iter().map(|session| session.id.to_string()));
        rounds += 1;
        let Some(next) = page.next else { break };
        let at = Listing { namespace: &namespace, request: &request }.cursor(&next).unwrap().looked;
        assert!(at > looked, "it gets on");
        looked = at;
        request.after = Some(next);
    }
    assert_eq!((found, rounds), (vec!["busy".to_owned()], 2_001_usize.div_ceil(STRETCH)));
}

#[test]
fn what_is_no_cursor_of_this_listing_is_refused_by_name() {
    let (namespace, other) = (default_namespace(), Namespace::parse("other").unwrap());
    let [plain, active, on_w1] = [r#"{"limit":7}"#, r#"{"state":"active"}"#, r#"{"worker":"w1"}"#].map(request);
    let plain_too = request("{}");
    let of = |namespace, request| Listing { namespace, request };
    let here = of(&namespace, &plain);
    let refused = |after: &str| {
        let error = here.cursor(after).unwrap_err();
        assert_eq!((error.reason, &error.details["field"]), (Reason::BadValue, &"after".into()), "{after}");
    };
    let cursor = Cursor { looked: 7, ..Cursor::at_begin(9) };
    let next = here.next(&cursor);
    assert_eq!(here.cursor(&next).unwrap(), cursor);
    assert_eq!(of(&namespace, &plain_too).cursor(&next).unwrap(), cursor, "the limit may change");
    for (why, listing) in [
        ("another namespace", of(&other, &plain)),
        ("another state", of(&namespace, &active)),
        ("another worker", of(&namespace, &on_w1)),
    ] {
        assert!(listing.cursor(&next).is_err(), "{why}");
        refused(&listing.next(&cursor));
    }
    for after in ["s1", "", ".", "7.9.0.0", "-1", "99999999999999999999999", &"7.".repeat(1_000_000)] {
        refused(after);
        refused(&format!("{next}{after}x"));
    }
    // Whoever computes the checksum as well must say something possible.
    for text in [
        "",
        "12",
        "1.2.0",
        "-1.2.0.0",
        "+1.2.0.0",
        "1.2.3.0",
        "3.2.0.0",
        "1.2.0.0.",
        "1.2.0.0.a b",
        "1.2.0.9",
        "1.99999999999999999999999.0.0",
    ] {
        refused(&format!("{text}.{}", here.check(text)));
    }
}

#[test]
fn a_cursor_is_bounded_and_read_back_as_it_was() {
    let (namespace, request) = (default_namespace(), request("{}"));
    let listing = Listing { namespace: &namespace, request: &request };
    let mut cursor = Cursor { looked: u64::MAX, until: u64::MAX, begin: u64::MAX, walk: WALKS, named: Vec::new() };
    for n in 0..100 {
        let stored = stored(&format!("{n:0>64}"));
        cursor.passed(&PageRecord { at: u64::MAX, stored });
        assert_eq!(listing.cursor(&listing.next(&cursor)).unwrap(), cursor);
    }
    assert_eq!(cursor.named.len(), NAMED);
    assert!(listing.next(&cursor).len() <= CURSOR_BYTES, "{}", listing.next(&cursor).len());
}

/// A session that changes behind a page that did not come as far.
#[tokio::test]
async fn a_session_that_changes_between_pages_is_named_all_the_same() {
    let table: [(u64, &[&str]); 7] = [
        (0, &["a", "hot", "b"]),
        // Its revision from before tells where it was.
        (1, &["a", "hot", "b"]),
        (63, &["a", "hot", "b"]),
        // All its revisions from before are gone.
        (64, &["a", "b", "hot"]),
        (65, &["a", "b", "hot"]),
        (200, &["a", "b", "hot"]),
        (5_000, &["a", "b", "hot"]),
    ];
    for (changes, expected) in table {
        let memory = Arc::new(Memory::default());
        ["a", "hot", "b"].iter().for_each(|id| write(&memory, &fixture::passive(id)));
        let store: Store = memory.clone();
        let mut request = request(r#"{"limit":1}"#);
        let (mut named, mut next) = ids(&store, &request).await;
        for _ in 0..changes {
            write(&memory, &fixture::passive("hot"));
        }
        while let Some(after) = next.take() {
            request.after = Some(after);
            let (more, then) = ids(&store, &request).await;
            named.extend(more);
            next = then;
        }
        assert_eq!(named, expected, "{changes} changes");
    }
}

#[tokio::test]
async fn sessions_that_change_faster_than_pages_are_read_are_named_once_each_and_the_listing_ends() {
    let memory = Arc::new(Memory::default());
    let hot = ["hot1", "hot2", "hot3"];
    ["a", "hot1", "hot2", "hot3", "b"].iter().for_each(|id| write(&memory, &fixture::passive(id)));
    let store: Store = memory.clone();
    let mut request = request(r#"{"limit":1}"#);
    let mut all = Vec::new();
    for pages in 0.. {
        assert!(pages < 20, "it ends: {all:?}");
        let (named, next) = ids(&store, &request).await;
        all.extend(named);
        let Some(next) = next else { break };
        request.after = Some(next);
        for _ in 0..100 {
            hot.iter().for_each(|id| write(&memory, &fixture::passive(id)));
        }
    }
    assert_eq!(all, ["a", "b", "hot1", "hot2", "hot3"]);
}

/// Sessions that are opened, changed and closed while pages are read, by seed.
#[tokio::test(start_paused = true)]
async fn no_page_names_a_session_twice_and_none_that_stays_is_left_out() {
    for seed in 0..60 {
        let memory = Arc::new(Memory::new(Faults { seed, delay_ms: 1, ..Faults::default() }));
        let stays: BTreeSet<String> = (0..40).map(|n| format!("s{n}")).collect();
        for id in &stays {
            write(&memory, &fixture::passive(id));
        }
        let writer = {
            let memory = memory.clone();
            async move {
                // One of the sessions changes so often that no revision of it stays for long, in some runs not even for
                // the time of one stretch.
                for n in 0_u64.. {
                    let hot = SessionRecord { lock_revision: n, ..fixture::passive("s7") };
                    (0..[0, 3, 20, 70][seed as usize / 4 % 4]).for_each(|_| write(&memory, &hot));
                    let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed) >> 33;
                    write(&memory, &fixture::passive(&format!("s{}", random % 40)));
                    write(&memory, &fixture::passive(&format!("new-{n}")));
                    write(&memory, &fixture::closed(&format!("new-{}", n / 2)));
                    tokio::time::sleep(Duration::from_millis(1 + random % 3)).await;
                }
            }
        };
        let store: Store = memory.clone();
        let json = format!(r#"{{"limit":{}}}"#, [1, 7, 50, 1000][usize::try_from(seed % 4).unwrap()]);
        let pages = tokio::select! {
            pages = pages(&store, &json) => pages,
            () = writer => unreachable!("it goes on for ever"),
        };
        for page in &pages {
            let mut named: BTreeMap<&String, usize> = BTreeMap::new();
            page.iter().for_each(|id| *named.entry(id).or_default() += 1);
            assert_eq!(named.iter().find(|(_, times)| **times > 1), None, "seed {seed}: named twice in one page");
        }
        let all: BTreeSet<String> = pages.into_iter().flatten().collect();
        assert_eq!(stays.difference(&all).next(), None, "seed {seed}: left out");
    }
}

#[tokio::test]
async fn sessions_are_filtered_by_their_lock_and_a_cursor_belongs_to_the_filters() {
    let locked = |id: &str, owner: &str| {
        let lock = format!(r#"{{"owner":"{owner}","revision":1,"acquired_at":"","ttl_ms":null}}"#);
        SessionRecord {
            lock: Some(serde_json::from_str(&lock).unwrap()),
            lock_revision: 1,
            ..fixture::active(id, "w1")
        }
    };
    let records =
        [locked("a", "ann"), fixture::active("b", "w1"), locked("c", "bob"), fixture::passive("d"), locked("e", "ann")];
    let store = store_of(&records);
    let all = async |json: &str| pages(&store, json).await.concat();
    assert_eq!(all(r#"{"locked":true}"#).await, ["a", "c", "e"]);
    assert_eq!(all(r#"{"locked":false}"#).await, ["b", "d"]);
    assert_eq!(all(r#"{"lock_owner":"ann","limit":1}"#).await, ["a", "e"]);
    assert_eq!(all(r#"{"lock_owner":"ann","locked":false}"#).await, [""; 0]);
    // Only sessions in memory can be idle; how long, their workers say.
    assert_eq!(all(r#"{"idle_ms":1}"#).await, ["a", "b", "c", "e"]);
    let (_, next) = ids(&store, &request(r#"{"locked":true,"limit":1}"#)).await;
    let namespace = default_namespace();
    let listing = |request: &List, after: &str| Listing { namespace: &namespace, request }.cursor(after).is_ok();
    let next = next.unwrap();
    assert!(listing(&request(r#"{"locked":true}"#), &next));
    for other in
        ["{}", r#"{"locked":false}"#, r#"{"locked":true,"lock_owner":"ann"}"#, r#"{"locked":true,"idle_ms":1}"#]
    {
        assert!(!listing(&request(other), &next), "{other}");
    }
    // A cursor without the newer filters is the one of earlier versions.
    let plain = request("{}");
    let plain = Listing { namespace: &namespace, request: &plain };
    assert_eq!(plain.next(&Cursor::at_begin(9)), "0.9.0.0.".to_owned() + &plain.check("0.9.0.0"));
}
