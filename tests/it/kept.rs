//! `HF_SIGNALS` keeps every signal of sessions and locks: also of what is committed while the coordinator that relays
//! dies, and while nobody relays at all; and an operator finds it there a second after the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer, stream::Stream};
use futures_util::StreamExt;
use futures_util::future::join_all;
use holdfast_tests::fleet::{Fleet, SOON, Stored};
use holdfast_tests::server::{own_cluster, shared, shared_cluster};
use holdfast_tests::wait::{until, until_ok};
use serde_json::{Value, json};

/// How long a dead relay may stay without a successor: its pin runs out after 3 s, and there is some work to do.
const SUCCEEDED: Duration = Duration::from_secs(6);
/// How long after an operator's answer its signal may be missing.
const KEPT: Duration = Duration::from_secs(1);

async fn fleet(url: &str) -> Fleet {
    let mut fleet = Fleet::empty(url).await.unwrap();
    fleet.add_worker("w1", &[]).await.unwrap();
    fleet.add_worker("w2", &[]).await.unwrap();
    fleet
}

async fn stream(fleet: &Fleet, name: String) -> Stream<()> {
    jetstream::new(fleet.nats.clone()).get_stream_no_info(name).await.unwrap()
}

/// Opens a session of this name, which any coordinator may do, and waits until that is kept.
async fn is_kept(fleet: &Fleet, id: &str) {
    fleet.insist("session.open", "", &json!({"id": id, "request_id": id}), |_| ()).await.ok();
    let signals = stream(fleet, fleet.root.signals_stream()).await;
    let subject = format!("{}.default.signal.{id}.session.opened", fleet.root);
    until("its signal to be kept", SOON, async || signals.get_last_raw_message_by_subject(&subject).await.ok()).await;
}

/// The signals that a message of the stream of sessions calls for: ids and events.
fn called_for(fleet: &Fleet, subject: &str, sequence: u64, record: &Value) -> Vec<(String, String)> {
    let id = format!("{}:{sequence}", fleet.root.sessions_stream());
    if !subject.starts_with("$KV.") {
        return Vec::new();
    }
    // A revision without an event only notes that somebody asked again.
    let Some(event) = record["event"]["type"].as_str().map(str::to_owned) else {
        assert_eq!(record["event"], Value::Null, "{subject} {sequence}: {record}");
        return Vec::new();
    };
    let activated = (event == "session.opened").then(|| (format!("{id}:1"), "session.activated".to_owned()));
    std::iter::once((id, event)).chain(activated).collect()
}

/// Each of `expected` is kept, at least once, and those of a session in their order.
async fn assert_kept(fleet: &Fleet, expected: &BTreeMap<String, Vec<(String, String)>>) {
    let kept = until_ok("everything to be kept", SOON, async || {
        let kept: Vec<Stored> = fleet.kept_signals().await.unwrap();
        let ids: BTreeSet<String> = kept.iter().map(|kept| kept.json()["id"].as_str().unwrap().to_owned()).collect();
        let missing = expected.iter().flat_map(|(session, events)| events.iter().map(move |event| (session, event)));
        let missing: Vec<_> = missing.filter(|(_, (id, _))| !ids.contains(id)).collect();
        match missing.first() {
            None => Ok(kept),
            Some(first) => Err(format!("{} are missing, {first:?} first", missing.len())),
        }
    })
    .await;
    for (session, events) in expected {
        let needle = format!(".signal.{session}.");
        let mut seen = BTreeSet::new();
        let first: Vec<(String, String)> = kept
            .iter()
            .filter(|kept| kept.subject.contains(&needle) && !kept.subject.ends_with(".lock.conflict"))
            .map(|kept| {
                let id = kept.json()["id"].as_str().unwrap().to_owned();
                (id, kept.subject.split(&needle).nth(1).unwrap().to_owned())
            })
            .filter(|(id, _)| seen.insert(id.clone()))
            .collect();
        assert_eq!(&first, events, "of {session}");
    }
}

/// One session's whole life with an operator in it.
async fn live(fleet: &Fleet, id: &str) {
    let ask = async |verb: &str, id: &str, mut body: Value, about: &str| {
        body["request_id"] = json!(format!("{verb}-{about}"));
        fleet.insist(verb, id, &body, |_| ()).await.ok()
    };
    ask("session.open", "", json!({"id": id}), id).await;
    ask("lock.acquire", id, json!({"owner": "a"}), id).await;
    let taken = ask("admin.takeover", id, json!({"owner": "ops", "reason": "test"}), id).await;
    ask("lock.release", id, json!({"token": taken["lock_token"]}), id).await;
    ask("session.close", id, json!({}), id).await;
}

async fn kept_when_the_relay_is_killed(url: &str) {
    let mut fleet = fleet(url).await;
    let relaying = fleet.begin_mortal_coordinator(url).await.unwrap();
    is_kept(&fleet, "before").await;
    fleet.add_coordinator().await.unwrap();
    let (lived, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let clients = join_all((0..6).map(async |client| {
        for n in 0.. {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            live(&fleet, &format!("s{client}-{n}")).await;
            lived.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let killing = async {
        let more = async |count: usize| {
            let goal = lived.load(Ordering::Relaxed) + count;
            until("sessions to live", SOON, async || (lived.load(Ordering::Relaxed) >= goal).then_some(())).await;
        };
        more(12).await;
        relaying.kill();
        let killed = Instant::now();
        is_kept(&fleet, "after").await;
        let elapsed = killed.elapsed();
        println!("signals are kept again {elapsed:?} after the relay was killed");
        assert!(elapsed < SUCCEEDED, "the other coordinator relays after {elapsed:?}");
        more(12).await;
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(clients, killing);
    assert_all_kept(&fleet, 24 * 6).await;
}

/// Everything in the stream of sessions has its signals, which are at least so many.
async fn assert_all_kept(fleet: &Fleet, least: usize) {
    let mut expected: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for stored in fleet.stream().await.unwrap() {
        let session = stored.subject.rsplit('.').next().unwrap().to_owned();
        let events = called_for(fleet, &stored.subject, stored.sequence, &stored.json());
        expected.entry(session).or_default().extend(events);
    }
    let of_all: usize = expected.values().map(Vec::len).sum();
    assert!(of_all >= least, "{of_all} events of {} sessions", expected.len());
    assert_kept(fleet, &expected).await;
}

/// Somebody else than a coordinator wrote the relay's checkpoint, or it is one of another stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_not_one_of_this_stream_skips_no_signal() {
    for forged in [r#"{"floor": 9000000000000000000}"#, "nonsense"] {
        let mut fleet = Fleet::empty(shared().await.unwrap().url()).await.unwrap();
        fleet.add_worker("w1", &[]).await.unwrap();
        let stored = fleet.nats.request(fleet.root.relay_checkpoint(), forged.into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&stored.payload).contains("error"), "{stored:?}");
        fleet.add_coordinator().await.unwrap();
        for n in 0..4 {
            live(&fleet, &format!("a{n}")).await;
        }
        assert_all_kept(&fleet, 4 * 6).await;
    }
}

/// The relay's consumer is in the memory of one server. What it acknowledged since the last checkpoint goes with it.
#[tokio::test(flavor = "multi_thread")]
async fn signals_are_kept_when_the_server_that_has_the_relays_consumer_is_killed() {
    let mut cluster = own_cluster().await.unwrap();
    let mut fleet = fleet(&cluster.url()).await;
    fleet.add_coordinator().await.unwrap();
    is_kept(&fleet, "before").await;
    for n in 0..4 {
        live(&fleet, &format!("a{n}")).await;
    }
    let info = format!("$JS.API.CONSUMER.INFO.{}.relay", fleet.root.sessions_stream());
    let info = fleet.nats.request(info, "{}".into()).await.unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    assert_eq!((&info["config"]["num_replicas"], &info["config"]["mem_storage"]), (&json!(1), &json!(true)), "{info}");
    let lost = info["cluster"]["leader"].as_str().unwrap();
    let lost = cluster.servers().iter().position(|server| server.name() == lost).unwrap();
    cluster.servers_mut()[lost].kill9().unwrap();
    let killed = Instant::now();
    for n in 0..4 {
        live(&fleet, &format!("b{n}")).await;
    }
    is_kept(&fleet, "after").await;
    println!("signals are kept again {:?} after the server was killed", killed.elapsed());
    cluster.servers_mut()[lost].restart().await.unwrap();
    for n in 0..4 {
        live(&fleet, &format!("c{n}")).await;
    }
    assert_all_kept(&fleet, 12 * 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_kept_when_the_coordinator_that_relays_is_killed_on_one_server() {
    kept_when_the_relay_is_killed(shared().await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_kept_when_the_coordinator_that_relays_is_killed_on_three_servers() {
    kept_when_the_relay_is_killed(&shared_cluster().await.unwrap().url()).await;
}

/// One replicated write for many signals, and not one for each.
#[tokio::test(flavor = "multi_thread")]
async fn three_servers_get_kept_signals_in_batches() {
    let mut fleet = fleet(&shared_cluster().await.unwrap().url()).await;
    fleet.add_coordinator().await.unwrap();
    for n in 0..4 {
        live(&fleet, &format!("a{n}")).await;
    }
    assert_all_kept(&fleet, 4 * 6).await;
    let kept = fleet.kept_signals().await.unwrap();
    let of_batches = kept.iter().filter(|kept| kept.headers.contains("NatsBatchId")).count();
    assert!(of_batches * 2 > kept.len(), "{of_batches} of {} were in batches", kept.len());
}

/// Waits for a kept signal of this revision, whose request was answered just now.
async fn assert_kept_in_time(fleet: &Fleet, signals: &Stream<()>, id: &str, event: &str) {
    let answered = Instant::now();
    let (revision, _) = fleet.record(id).await.unwrap();
    let subject = format!("{}.default.signal.{id}.{event}", fleet.root);
    until(&format!("{event} of revision {revision} to be kept"), SOON, async || {
        let message = signals.get_last_raw_message_by_subject(&subject).await.ok()?;
        let signal: Value = serde_json::from_slice(&message.payload).unwrap();
        (signal["data"]["revision"] == revision).then_some(())
    })
    .await;
    let elapsed = answered.elapsed();
    assert!(elapsed < KEPT, "{event} is kept {elapsed:?} after the answer");
}

async fn operators_find_their_signals(url: &str) {
    let mut fleet = fleet(url).await;
    fleet.add_coordinator().await.unwrap();
    fleet.add_coordinator().await.unwrap();
    let signals = stream(&fleet, fleet.root.signals_stream()).await;
    is_kept(&fleet, "before").await;
    for n in 0..8 {
        let id = &format!("s{n}");
        fleet.open(id).await;
        fleet.acquire(id, "a").await;
        fleet.ask("admin.takeover", id, json!({"owner": "ops", "reason": "test"})).await.ok();
        assert_kept_in_time(&fleet, &signals, id, "lock.taken_over").await;
        fleet.ask("admin.unlock", id, json!({"reason": "test"})).await.ok();
        assert_kept_in_time(&fleet, &signals, id, "lock.released").await;
        let worker = fleet.record(id).await.unwrap().1["owner"]["worker"].as_str().unwrap().to_owned();
        let to = if worker == "w1" { "w2" } else { "w1" };
        fleet.ask("admin.move", id, json!({"worker": to, "reason": "test"})).await.ok();
        assert_kept_in_time(&fleet, &signals, id, "session.moved").await;
        fleet.acquire(id, "b").await;
        let (revision, mut record) = fleet.record(id).await.unwrap();
        record["lock"] = Value::Null;
        fleet.edit_record(id, revision, record.to_string().into_bytes()).await.unwrap();
        assert_kept_in_time(&fleet, &signals, id, "lock.changed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_do_is_kept_within_a_second_on_one_server() {
    operators_find_their_signals(shared().await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_do_is_kept_within_a_second_on_three_servers() {
    operators_find_their_signals(&shared_cluster().await.unwrap().url()).await;
}

/// What a session goes through again and again.
#[derive(Clone, Copy)]
enum Round {
    /// It is opened and closed.
    Open,
    /// It is opened, locked, freed and closed.
    Lock,
}

/// Goes round until it is over. `refused` counts how often it was told that announcements are behind.
async fn go_round(fleet: &Fleet, id: &str, round: Round, refused: &AtomicUsize, is_over: &AtomicBool) {
    let ask = async |verb: &str, id: &str, mut body: Value, n: usize| {
        body["request_id"] = json!(format!("{verb}-{n}"));
        let heard = |reply: &holdfast_tests::fleet::Reply| {
            if let Some(reason) = reply.body["error"]["reason"].as_str() {
                assert_eq!(reason, "mailbox_full", "{}", reply.body);
                refused.fetch_add(1, Ordering::Relaxed);
            }
        };
        fleet.insist(verb, id, &body, heard).await.ok()
    };
    for n in 0.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        ask("session.open", "", json!({"id": id}), n).await;
        if let Round::Lock = round {
            let grant = ask("lock.acquire", id, json!({"owner": "a"}), n).await;
            ask("lock.release", id, json!({"token": grant["lock_token"]}), n).await;
        }
        ask("session.close", id, json!({}), n).await;
    }
}

/// The events of sessions' records as they are committed, before revisions of later on push them out.
#[derive(Default)]
struct Committed(Mutex<BTreeMap<String, Vec<(String, String)>>>);

impl Committed {
    async fn follow(&self, fleet: &Fleet) {
        let stream = stream(fleet, fleet.root.sessions_stream()).await;
        let config = consumer::pull::OrderedConfig {
            filter_subject: format!("$KV.{}.>", fleet.root.sessions_bucket()),
            ..Default::default()
        };
        let mut messages = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            let sequence = message.info().unwrap().stream_sequence;
            let record = serde_json::from_slice(&message.payload).unwrap();
            let events = called_for(fleet, &message.subject, sequence, &record);
            let session = message.subject.rsplit('.').next().unwrap().to_owned();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(session).or_default().extend(events);
        }
    }

    fn all(&self) -> BTreeMap<String, Vec<(String, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many revisions of a session.
    fn revisions(&self, id: &str) -> usize {
        self.all().get(id).map_or(0, |events| events.iter().filter(|(_, event)| event != "session.activated").count())
    }
}

async fn kept_while_nobody_relays(url: &str) {
    const SESSIONS: [(&str, Round); 2] = [("opened", Round::Open), ("locked", Round::Lock)];
    let mut fleet = fleet(url).await;
    fleet.add_coordinator().await.unwrap();
    fleet.add_coordinator().await.unwrap();
    is_kept(&fleet, "before").await;
    let (committed, is_over) = (Committed::default(), AtomicBool::new(false));
    let refused = SESSIONS.map(|_| AtomicUsize::new(0));
    let rounds = join_all(
        SESSIONS.iter().zip(&refused).map(|((id, round), refused)| go_round(&fleet, id, *round, refused, &is_over)),
    );
    let pausing = async {
        // Signals stand still as they do when the one that relays dies, for longer.
        pause_relay(&fleet, json!("2099-01-01T00:00:00Z")).await;
        let before = SESSIONS.map(|(id, _)| committed.revisions(id));
        until("all to be refused, more than once", SOON * 2, async || {
            let counts = SESSIONS.iter().zip(&refused).zip(before);
            let made = counts.map(|(((id, _), refused), before)| {
                let made = committed.revisions(id) - before;
                assert!(made < 64, "{made} revisions of {id} while nobody relays");
                refused.load(Ordering::Relaxed)
            });
            made.min().is_some_and(|least| least >= 2).then_some(())
        })
        .await;
        pause_relay(&fleet, Value::Null).await;
        let enough = |(id, _): &(&str, Round)| committed.revisions(id) > 2 * 64;
        until("more revisions than are kept", SOON * 2, async || SESSIONS.iter().all(enough).then_some(())).await;
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::select! {
        () = committed.follow(&fleet) => panic!("the stream of sessions ended"),
        ((), _) = async { tokio::join!(pausing, rounds) } => {}
    }
    // Whatever was committed last is in the stream still.
    let mut expected = committed.all();
    for stored in fleet.stream().await.unwrap() {
        let session = stored.subject.rsplit('.').next().unwrap().to_owned();
        let events = expected.entry(session).or_default();
        for event in called_for(&fleet, &stored.subject, stored.sequence, &stored.json()) {
            if !events.contains(&event) {
                events.push(event);
            }
        }
    }
    assert_kept(&fleet, &expected).await;
}

/// The relay's consumer gives nothing to anybody until it is resumed (`null`).
async fn pause_relay(fleet: &Fleet, until: Value) {
    let subject = format!("$JS.API.CONSUMER.PAUSE.{}.relay", fleet.root.sessions_stream());
    let reply = fleet.nats.request(subject, json!({"pause_until": until}).to_string().into()).await.unwrap();
    let reply: Value = serde_json::from_slice(&reply.payload).unwrap();
    assert_eq!(reply["paused"].as_bool().unwrap_or_default(), !until.is_null(), "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_unannounced_while_nobody_relays_on_one_server() {
    kept_while_nobody_relays(shared().await.unwrap().url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_unannounced_while_nobody_relays_on_three_servers() {
    kept_while_nobody_relays(&shared_cluster().await.unwrap().url()).await;
}
