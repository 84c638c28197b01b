//! Changes through whole coordinators over storage in memory, which answers with the faults of a server. Nothing is
//! connected: agents hear nothing, and need not.

use std::sync::Arc;

use holdfast_protocol::request::{Acquire, ShowToken, Takeover};
use holdfast_protocol::subject::Root;
use holdfast_protocol::token::Secret;
use holdfast_protocol::{Reason, RequestId, SessionRecord};
use holdfast_records::{NotDone, Wrote};
use holdfast_store::memory::{Accepted, Faults, Memory};
use holdfast_store::net::{Link, Net};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::context::Context;
use crate::fixture;
use crate::operation::Operation;
use crate::verb::lock::release::Release;
use crate::verb::lock::{Outcome, locked};

/// A coordinator that is not connected, over `store`, which others may use too.
async fn coordinator(store: &Arc<Memory>) -> Arc<Context> {
    let process = Net::new(Root::default(), 1).connect("c1");
    process.set_link(Link::Broken);
    Arc::new(Context::new(process.wire(), store.clone(), Secret::new([7; 32]), Config::default()))
}

async fn store_with(record: &SessionRecord, faults: Faults) -> Arc<Memory> {
    let store = Arc::new(Memory::new(faults));
    store.edit_by_hand(&record.key(), Some(record.to_json().into()));
    store
}

fn operation(request_id: &str) -> Operation {
    let mut operation = Operation::own(Config::default().request_timeout);
    operation.request_id = RequestId::parse(request_id).unwrap();
    operation.by_caller = true;
    operation
}

fn acquire(owner: &str) -> Acquire {
    serde_json::from_value(serde_json::json!({ "owner": owner })).unwrap()
}

fn release(token: &str) -> Release {
    Release(serde_json::from_value::<ShowToken>(serde_json::json!({ "token": token })).unwrap())
}

fn takeover(owner: &str) -> Takeover {
    serde_json::from_value(serde_json::json!({ "owner": owner, "reason": "stuck" })).unwrap()
}

fn reason<Reply>(outcome: Outcome<Reply>) -> Option<Reason> {
    match outcome {
        Ok(_) => None,
        Err(NotDone::Refused(error, _)) => Some(error.reason),
        Err(NotDone::Moved) => None,
        Err(NotDone::Stopped(error)) => Some(error.reason),
    }
}

/// The record as it stands, past all faults.
fn current(store: &Memory) -> SessionRecord {
    let accepted = store.accepted();
    let Some(Accepted::Record(stored)) = accepted.last() else { panic!("no record was written") };
    SessionRecord::from_json(stored.value.as_ref().unwrap(), &fixture::key("s1")).unwrap()
}

#[tokio::test]
async fn of_64_acquires_through_two_coordinators_one_is_granted_and_63_are_refused() {
    let store = store_with(&fixture::active("s1", "w1"), Faults::default()).await;
    let contexts = [coordinator(&store).await, coordinator(&store).await];
    let mut tasks = JoinSet::new();
    for n in 0..64 {
        let context = contexts[n % 2].clone();
        tasks.spawn(async move {
            let key = fixture::key("s1");
            reason(locked(&context, &key, &operation(&format!("r{n}")), &acquire(&format!("c{n}"))).await)
        });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_none()).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Some(Reason::LockHeld)).count(), 63);
    assert_eq!(current(&store).lock_revision, 1);
}

#[tokio::test]
async fn a_coordinator_with_an_old_record_neither_refuses_nor_confirms_by_it() {
    let store = store_with(&fixture::active("s1", "w1"), Faults::default()).await;
    let (one, two) = (coordinator(&store).await, coordinator(&store).await);
    let key = fixture::key("s1");
    let first = locked(&one, &key, &operation("r1"), &acquire("a")).await.unwrap().reply;
    // The other takes it over and frees it; the first has not heard.
    let taken = locked(&two, &key, &operation("r2"), &takeover("ops")).await.unwrap().reply;
    assert_eq!(
        reason(locked(&one, &key, &operation("r3"), &release(&first.lock_token)).await),
        Some(Reason::StaleToken)
    );
    locked(&two, &key, &operation("r4"), &release(&taken.grant.lock_token)).await.unwrap();
    let again = locked(&one, &key, &operation("r5"), &acquire("b")).await.unwrap().reply;
    assert_eq!(again.lock_revision, 4);
}

#[tokio::test(start_paused = true)]
async fn retries_after_lost_acknowledgements_have_one_effect_each() {
    for seed in 1..=20 {
        let faults = Faults {
            seed,
            unavailable: 100,
            lost_ack: 250,
            lost_write: 100,
            late: 100,
            unreadable: 50,
            ..Faults::default()
        };
        let store = store_with(&fixture::active("s1", "w1"), faults).await;
        let contexts = [coordinator(&store).await, coordinator(&store).await];
        let key = fixture::key("s1");
        let mut tries = 0;
        for n in 0..10 {
            let (id, back) = (format!("a{n}"), format!("r{n}"));
            let grant = loop {
                tries += 1;
                // Paused time stands still between two requests, and what was read before one would count as read after
                // it.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                match locked(&contexts[tries % 2], &key, &operation(&id), &acquire("a")).await {
                    Ok(done) => break done.reply,
                    Err(NotDone::Stopped(error)) => assert!(error.retryable, "seed {seed}: {error}"),
                    Err(refused) => panic!("seed {seed}: {refused:?}"),
                }
            };
            assert_eq!(grant.lock_revision, 2 * n + 1, "seed {seed}");
            loop {
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                match locked(&contexts[tries % 2], &key, &operation(&back), &release(&grant.lock_token)).await {
                    Ok(done) => break assert_eq!(done.reply.lock_revision, 2 * n + 2, "seed {seed}"),
                    Err(NotDone::Stopped(error)) => assert!(error.retryable, "seed {seed}: {error}"),
                    Err(refused) => panic!("seed {seed}: {refused:?}"),
                }
            }
        }
        assert_eq!(current(&store).lock_revision, 20, "seed {seed}");
    }
}

#[tokio::test]
async fn a_late_copy_of_a_takeover_does_not_take_over_again() {
    let store = store_with(&fixture::active("s1", "w1"), Faults::default()).await;
    let context = coordinator(&store).await;
    let key = fixture::key("s1");
    let first = locked(&context, &key, &operation("t1"), &takeover("ops")).await.unwrap().reply;
    locked(&context, &key, &operation("t2"), &takeover("boss")).await.unwrap();
    let late = locked(&context, &key, &operation("t1"), &takeover("ops")).await.unwrap();
    assert_eq!(late.wrote, Wrote::Nothing);
    assert_eq!(late.reply, first);
    assert_eq!(current(&store).lock.unwrap().owner, "boss");
}

#[tokio::test]
async fn a_late_copy_of_an_acquire_gets_its_first_grant_at_each_coordinator_whatever_happened_since() {
    let store = store_with(&fixture::active("s1", "w1"), Faults::default()).await;
    let (one, two) = (coordinator(&store).await, coordinator(&store).await);
    let key = fixture::key("s1");
    let first = locked(&one, &key, &operation("r1"), &acquire("a")).await.unwrap().reply;
    locked(&one, &key, &operation("r2"), &release(&first.lock_token)).await.unwrap();
    for context in [&one, &two] {
        let late = locked(context, &key, &operation("r1"), &acquire("a")).await.unwrap();
        assert_eq!((late.wrote, &late.reply), (Wrote::Nothing, &first), "released");
    }
    // The other coordinator makes most of the revisions that the bucket keeps.
    two.floor.advance(u64::MAX);
    for n in 0..30 {
        let grant = locked(&two, &key, &operation(&format!("a{n}")), &acquire("b")).await.unwrap().reply;
        locked(&two, &key, &operation(&format!("b{n}")), &release(&grant.lock_token)).await.unwrap();
    }
    let held = locked(&two, &key, &operation("t"), &takeover("ops")).await.unwrap().reply;
    for context in [&one, &two, &coordinator(&store).await] {
        let late = locked(context, &key, &operation("r1"), &acquire("a")).await.unwrap();
        assert_eq!((late.wrote, &late.reply), (Wrote::Nothing, &first), "taken over");
    }
    assert_eq!(current(&store).lock.unwrap().revision, held.grant.lock_revision);
}

#[tokio::test]
async fn a_past_at_hand_does_not_answer_for_what_another_coordinator_wrote() {
    let store = store_with(&fixture::active("s1", "w1"), Faults::default()).await;
    let (one, two) = (coordinator(&store).await, coordinator(&store).await);
    let key = fixture::key("s1");
    // This coordinator has the past at hand.
    let grant = locked(&one, &key, &operation("r1"), &acquire("a")).await.unwrap().reply;
    locked(&one, &key, &operation("r2"), &release(&grant.lock_token)).await.unwrap();
    locked(&one, &key, &operation("r1"), &acquire("a")).await.unwrap();
    let other = locked(&two, &key, &operation("r3"), &acquire("b")).await.unwrap().reply;
    locked(&two, &key, &operation("r4"), &release(&other.lock_token)).await.unwrap();
    let late = locked(&one, &key, &operation("r3"), &acquire("b")).await.unwrap();
    assert_eq!((late.wrote, late.reply), (Wrote::Nothing, other));
}

#[tokio::test]
async fn a_grant_whose_write_was_not_answered_is_known_as_its_own_without_a_request_id() {
    for seed in 1..=20 {
        let faults = Faults { seed, lost_ack: 700, ..Faults::default() };
        let store = store_with(&fixture::active("s1", "w1"), faults).await;
        let context = coordinator(&store).await;
        let key = fixture::key("s1");
        let mut own = Operation::own(Config::default().request_timeout);
        own.by_caller = false;
        let grant = loop {
            match locked(&context, &key, &own, &acquire("a")).await {
                Ok(done) => break done.reply,
                Err(NotDone::Stopped(error)) => assert!(error.retryable, "seed {seed}: {error}"),
                Err(refused) => panic!("seed {seed}: it waits for itself: {refused:?}"),
            }
        };
        assert_eq!(grant.lock_revision, 1, "seed {seed}");
        assert_eq!(current(&store).lock.unwrap().request_id, None, "its id was made here and is worth no token");
    }
}

#[tokio::test]
async fn a_grant_that_nobody_heard_never_took_effect_unless_it_was_asked_for_again() {
    let store = store_with(&fixture::active("s1", "w1"), Faults::default()).await;
    let context = coordinator(&store).await;
    let key = fixture::key("s1");
    let take_back = |fence| crate::grants::try_take_back(&context, &key, fence);
    let first = locked(&context, &key, &operation("r1"), &acquire("a")).await.unwrap();
    take_back(first.reply.fence).await.unwrap();
    assert_eq!((current(&store).lock, current(&store).lock_revision), (None, 2));
    let again = locked(&context, &key, &operation("r1"), &acquire("a")).await.unwrap();
    assert_eq!((again.wrote, again.reply.lock_revision), (Wrote::Change, 3), "whoever asks again is there");
    let copy = locked(&context, &key, &operation("r1"), &acquire("a")).await.unwrap();
    assert_eq!((copy.wrote, &copy.reply), (Wrote::Note, &again.reply));
    take_back(again.reply.fence).await.unwrap();
    assert_eq!(current(&store).lock.unwrap().revision, 3, "the copy was answered");
    let third = locked(&context, &key, &operation("r1"), &acquire("a")).await.unwrap();
    assert_eq!((third.wrote, &third.reply), (Wrote::Nothing, &again.reply));
}

#[tokio::test]
async fn a_copy_that_another_coordinator_answers_keeps_the_grant_of_the_first() {
    let store = store_with(&fixture::active("s1", "w1"), Faults::default()).await;
    let (one, two) = (coordinator(&store).await, coordinator(&store).await);
    let key = fixture::key("s1");
    let held = locked(&one, &key, &operation("r1"), &acquire("holder")).await.unwrap().reply;
    locked(&one, &key, &operation("r2"), &release(&held.lock_token)).await.unwrap();
    // To the second coordinator the lock is free, also behind the grant that the first one makes.
    two.records.read_record(&key, operation("r3").deadline).await.unwrap();
    let first = locked(&one, &key, &operation("r4"), &acquire("a")).await.unwrap();
    let copy = locked(&two, &key, &operation("r4"), &acquire("a")).await.unwrap();
    assert_eq!((copy.wrote, &copy.reply), (Wrote::Note, &first.reply), "the record says that it was asked again");
    while let Err(moved) = crate::grants::try_take_back(&one, &key, first.reply.fence).await {
        assert!(matches!(moved, NotDone::Moved));
    }
    assert_eq!(current(&store).lock.unwrap().fence, first.reply.fence, "the copy was answered");
}

#[tokio::test]
async fn a_late_takeover_is_answered_as_at_first_although_the_session_has_moved() {
    let store = store_with(&fixture::active("s1", "w1"), Faults::default()).await;
    let context = coordinator(&store).await;
    let key = fixture::key("s1");
    locked(&context, &key, &operation("r1"), &acquire("a")).await.unwrap();
    let first = locked(&context, &key, &operation("r2"), &takeover("ops")).await.unwrap();
    assert_eq!(first.reply.previous_owner.as_deref(), Some("a"));
    // What moves a session keeps its lock and says what happened last.
    store.edit_by_hand(&key, Some(SessionRecord { event: None, ..current(&store) }.to_json().into()));
    context.records.doubt(&key);
    let late = locked(&context, &key, &operation("r2"), &takeover("ops")).await.unwrap();
    assert_eq!((late.wrote, late.reply), (Wrote::Nothing, first.reply));
}

#[tokio::test(start_paused = true)]
async fn of_many_who_look_whether_a_session_is_still_there_one_reads() {
    let store = store_with(&fixture::active("s1", "w1"), Faults { seed: 1, delay_ms: 100, ..Faults::default() }).await;
    let context = coordinator(&store).await;
    let begin = tokio::time::Instant::now();
    let mut looks = JoinSet::new();
    for _ in 0..64 {
        let context = context.clone();
        let age = std::time::Duration::from_secs(1);
        looks.spawn(async move {
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
            context.records.recent_record(&fixture::key("s1"), age, deadline).await.unwrap().revision
        });
    }
    assert_eq!(looks.join_all().await.len(), 64);
    // One read takes at most twice the delay; one after the other they would take 64 times that.
    assert!(begin.elapsed() <= std::time::Duration::from_millis(400), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn over_a_service_import_waiting_needs_a_lease() {
    let store = store_with(&fixture::active("s1", "w1"), Faults::default()).await;
    let context = coordinator(&store).await;
    let begin = |reply: &str, body: &'static str| {
        let incoming = crate::operation::Incoming {
            asker: crate::asker::Asker::of(reply.into()),
            payload: body.into(),
            made: RequestId::parse("made").unwrap(),
            arrived: tokio::time::Instant::now(),
            timeout: Config::default().request_timeout,
            peeked: Default::default(),
        };
        crate::verb::begin_acquire(&context, &fixture::key("s1"), &incoming).map(|_| ())
    };
    let refusal = begin("_R_.abc.1", r#"{"owner": "a", "wait_ms": 1000}"#).unwrap_err();
    assert_eq!((refusal.reason, &refusal.details["field"]), (Reason::BadValue, &serde_json::json!("wait_ms")));
    begin("_R_.abc.1", r#"{"owner": "a", "wait_ms": 1000, "ttl_ms": 1000}"#).unwrap();
    begin("_R_.abc.1", r#"{"owner": "a"}"#).unwrap();
    begin("_INBOX.abc.1", r#"{"owner": "a", "wait_ms": 1000}"#).unwrap();
}

#[tokio::test]
async fn a_record_that_does_not_parse_is_never_written_over() {
    let store = store_with(&fixture::active("s1", "w1"), Faults::default()).await;
    let context = coordinator(&store).await;
    let key = fixture::key("s1");
    let grant = locked(&context, &key, &operation("r1"), &acquire("a")).await.unwrap().reply;
    store.edit_by_hand(&key, Some("nonsense".into()));
    let writes = store.accepted().len();
    assert_eq!(
        reason(locked(&context, &key, &operation("r2"), &release(&grant.lock_token)).await),
        Some(Reason::RecordInvalid)
    );
    assert_eq!(reason(locked(&context, &key, &operation("r3"), &takeover("ops")).await), Some(Reason::RecordInvalid));
    store.edit_by_hand(&key, None);
    assert_eq!(reason(locked(&context, &key, &operation("r4"), &takeover("ops")).await), Some(Reason::NoSession));
    assert_eq!(store.accepted().len(), writes + 1);
}

#[tokio::test]
async fn a_session_that_outruns_its_announcements_waits_and_operators_do_not() {
    let store = store_with(&fixture::active("s1", "w1"), Faults::default()).await;
    let context = coordinator(&store).await;
    let key = fixture::key("s1");
    let mut changes = 0;
    let refusal = loop {
        let grant = match locked(&context, &key, &operation(&format!("a{changes}")), &acquire("a")).await {
            Ok(done) => done.reply,
            Err(refusal) => break refusal,
        };
        changes += 1;
        if let Err(refusal) =
            locked(&context, &key, &operation(&format!("r{changes}")), &release(&grant.lock_token)).await
        {
            break refusal;
        }
        changes += 1;
        assert!(changes < 64, "a revision was lost unannounced");
    };
    assert!(matches!(refusal, NotDone::Stopped(error) if error.reason == Reason::MailboxFull));
    let operator = operation("t1").urgent();
    locked(&context, &key, &operator, &takeover("ops")).await.unwrap();
    context.floor.advance(1_000);
    locked(&context, &key, &operation("t2"), &takeover("ops")).await.unwrap();
}
