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

/// One page as a client sees it: ids, and `next`.
async fn ids(store: &Store, request: &List) -> (Vec<String>, Option<String>) {
    let namespace = Namespace::parse("default").unwrap();
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
    let request = request("{}");
    let mut page = Page::new(&request);
    page.bytes = PAGE_BYTES - 1;
    assert!(page.take(&stored("a")));
    assert!(!page.take(&stored("b")), "no room");
    assert!(page.take(&stored("a")), "it is named already");
    let finished = page.finish(Some(Cursor { looked: 7, ..Cursor::at_begin(9) }));
    assert_eq!((finished.sessions.len(), finished.next.as_deref()), (1, Some("7.9.0.0")));
}

#[tokio::test]
async fn a_page_without_matches_comes_back_in_its_time_and_the_listing_gets_on() {
    let memory = Memory::default();
    for n in 0..2_000 {
        write(&memory, &fixture::passive(&format!("s{n}")));
    }
    write(&memory, &fixture::active("busy", "w1"));
    let store: Store = Arc::new(memory);
    let namespace = Namespace::parse("default").unwrap();
    let mut request = request(r#"{"state":"active"}"#);
    let (mut found, mut rounds, mut looked) = (Vec::new(), 0, 0);
    loop {
        // There is no time for more than one stretch.
        let page = page(&store, &namespace, &request, Instant::now(), Instant::now() + LOOK).await.unwrap();
        found.extend(page.sessions.iter().map(|session| session.id.to_string()));
        rounds += 1;
        let Some(next) = page.next else { break };
        let at = Cursor::parse(&next).unwrap().looked;
        assert!(at > looked, "it gets on");
        looked = at;
        request.after = Some(next);
    }
    assert_eq!((found, rounds), (vec!["busy".to_owned()], 2_001_usize.div_ceil(STRETCH)));
}

#[test]
fn what_is_no_cursor_is_refused_by_name() {
    for after in [
        "s1",
        "",
        "12",
        "1.2.0",
        "-1.2.3.0",
        "+5.6.7.0",
        "1.2.3.0.",
        "1.2.3.0.a b",
        "1.2.3.99",
        "99999999999999999999999.1.1.0",
    ] {
        let error = Cursor::parse(after).unwrap_err();
        assert_eq!(error.details["field"], "after", "{after}");
    }
    let mut cursor = Cursor::at_begin(2).next_walk(70);
    for n in 0..100 {
        let stored = stored(&format!("file-{n}"));
        cursor.passed(&Found { at: n, stored });
        assert_eq!(Cursor::parse(&cursor.to_string()).unwrap(), cursor);
    }
    assert!(cursor.to_string().len() < 4_096 && cursor.named.len() == NAMED, "{cursor}");
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
                // One of the sessions changes so often that no revision of it stays for long.
                for n in 0_u64.. {
                    let hot = SessionRecord { lock_revision: n, ..fixture::passive("s7") };
                    (0..(seed % 4) * 2).for_each(|_| write(&memory, &hot));
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
