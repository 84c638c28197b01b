//! What the net promises, and what it may do.

use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use futures_util::{FutureExt, StreamExt};
use holdfast_protocol::{Namespace, SessionId, SessionKey};

use super::*;
use crate::StoreError;
use crate::memory::Memory;
use crate::wire::{BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, Outgoing, Request, RequestError, Subscription, Wire};
use crate::{Rollup, Storage};

const SECOND: Duration = Duration::from_secs(1);

fn net() -> Net {
    Net::new(Root::default(), 1)
}

fn to(subject: &str, payload: &str) -> Outgoing {
    Outgoing::to(subject, payload.to_owned())
}

fn ask(subject: &str) -> Request {
    Request { subject: subject.into(), headers: None, payload: Bytes::new(), timeout: SECOND }
}

async fn listen(process: &Process, subject: &str) -> Subscription {
    process.subscribe(subject.into(), None).await.unwrap()
}

/// What has arrived by now.
fn arrived(messages: &mut Subscription) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(Some(message)) = messages.next().now_or_never() {
        texts.push(String::from_utf8_lossy(&message.payload).into_owned());
    }
    texts
}

/// What arrives within a minute.
async fn all(messages: &mut Subscription) -> Vec<String> {
    let mut texts = Vec::new();
    while let Ok(Some(message)) = tokio::time::timeout(SECOND * 60, messages.next()).await {
        texts.push(String::from_utf8_lossy(&message.payload).into_owned());
    }
    texts
}

/// Answers each request with its own name.
fn answers(process: &Process, mut requests: Subscription) -> JoinSet<()> {
    let process = process.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                process.publish(Outgoing::to(reply, process.name())).await.unwrap();
            }
        }
    });
    tasks
}

#[test]
fn subjects_match_as_in_nats() {
    use super::interest::matches;
    for (pattern, subject, expected) in [
        ("a.b", "a.b", true),
        ("a.*", "a.b", true),
        ("a.*", "a", false),
        ("a.*", "a.b.c", false),
        ("a.>", "a.b.c", true),
        ("a.>", "a", false),
        (">", "a", true),
        ("*.b.*", "a.b.c", true),
        ("*.b.*", "a.c.c", false),
    ] {
        assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_each_pair_messages_arrive_in_order_and_pairs_overtake_each_other() {
    let net = net();
    net.set_faults(Faults { delay_ms: 50, ..Faults::default() });
    let (one, two, three) = (net.connect("one"), net.connect("two"), net.connect("three"));
    let mut messages = listen(&three, "a.*").await;
    for n in 0..50 {
        one.publish(to("a.x", &format!("1-{n}"))).await.unwrap();
        two.publish(to("a.y", &format!("2-{n}"))).await.unwrap();
    }
    let heard = all(&mut messages).await;
    for sender in ["1", "2"] {
        let of_one: Vec<&String> = heard.iter().filter(|text| text.starts_with(sender)).collect();
        let sent: Vec<String> = (0..50).map(|n| format!("{sender}-{n}")).collect();
        assert_eq!(of_one, sent.iter().collect::<Vec<_>>());
    }
    let sent: Vec<String> = (0..50).flat_map(|n| [format!("1-{n}"), format!("2-{n}")]).collect();
    assert_ne!(heard, sent);
}

#[tokio::test(start_paused = true)]
async fn one_of_a_queue_group_gets_each_message_and_all_others_do() {
    let net = net();
    let (one, two) = (net.connect("one"), net.connect("two"));
    let mut members =
        [one.subscribe("a.>".into(), Some("q")).await.unwrap(), two.subscribe("a.>".into(), Some("q")).await.unwrap()];
    let mut other = listen(&two, "a.b").await;
    for n in 0..40 {
        one.publish(to("a.b", &n.to_string())).await.unwrap();
    }
    let [first, second] = members.each_mut().map(arrived);
    assert!(first.len() > 5 && second.len() > 5 && first.len() + second.len() == 40);
    assert_eq!(arrived(&mut other).len(), 40);
    two.kill();
    one.publish(to("a.b", "last")).await.unwrap();
    assert_eq!(arrived(&mut members[0]), ["last"]);
}

#[tokio::test(start_paused = true)]
async fn who_asks_nobody_is_told_so_and_so_is_whoever_names_a_reply_subject() {
    let net = net();
    let (one, two) = (net.connect("one"), net.connect("two"));
    assert!(matches!(one.request(ask("a")).await, Err(RequestError::NoResponders)));
    let mut words = listen(&one, "words.*").await;
    one.publish(to("a", "").with_reply("words.1")).await.unwrap();
    assert_eq!(words.next().await.unwrap().status, Some(StatusCode::NO_RESPONDERS));
    let _tasks = answers(&two, listen(&two, "a").await);
    assert_eq!(one.request(ask("a")).await.unwrap().payload, "two");
    two.kill();
    assert!(matches!(one.request(ask("a")).await, Err(RequestError::NoResponders)));
    let large = Request { payload: vec![0; 9 * 1024 * 1024].into(), ..ask("a") };
    assert!(matches!(one.request(large).await, Err(RequestError::TooLarge(_))));
}

#[tokio::test(start_paused = true)]
async fn a_drained_subscription_ends_behind_what_is_on_its_way() {
    let net = net();
    net.set_faults(Faults { delay_ms: 50, ..Faults::default() });
    let (one, two) = (net.connect("one"), net.connect("two"));
    let mut messages = listen(&two, "a").await;
    one.publish(to("a", "before")).await.unwrap();
    messages.drain().await.unwrap();
    one.publish(to("a", "behind")).await.unwrap();
    assert_eq!(messages.next().await.unwrap().payload, "before");
    assert!(messages.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_request_may_come_once_more_and_its_answer_finds_nobody() {
    let net = net();
    net.set_faults(Faults { double: 1000, ..Faults::default() });
    let (one, two) = (net.connect("one"), net.connect("two"));
    let mut requests = listen(&two, "hf.default.session.get.s1").await;
    let answered = async {
        let request = requests.next().await.unwrap();
        two.publish(Outgoing::to(request.reply.unwrap(), "yes")).await.unwrap();
        Instant::now()
    };
    let (answer, first) = tokio::join!(one.request(ask("hf.default.session.get.s1")), answered);
    assert_eq!(answer.unwrap().payload, "yes");
    assert!(tokio::time::timeout(SECOND * 60, requests.next()).await.unwrap().is_some());
    assert!(first.elapsed() > Duration::ZERO);
    let copies = |net: &Net| net.published().iter().filter(|published| published.is_copy).count();
    assert_eq!(copies(&net), 1);
    one.publish(to("hf.default.session.get.s1", "")).await.unwrap();
    tokio::time::sleep(SECOND * 5).await;
    assert_eq!(copies(&net), 1, "it wants no answer");
}

#[tokio::test(start_paused = true)]
async fn messages_are_lost_and_not_routed_by_their_share() {
    let net = net();
    let (one, two) = (net.connect("one"), net.connect("two"));
    let mut messages = listen(&two, "a").await;
    net.set_faults(Faults { lost: 500, ..Faults::default() });
    for _ in 0..100 {
        one.publish(to("a", "")).await.unwrap();
    }
    assert!((20..80).contains(&arrived(&mut messages).len()));
    net.set_faults(Faults { unrouted: 1000, ..Faults::default() });
    assert!(matches!(one.request(ask("a")).await, Err(RequestError::NoResponders)));
    assert!(arrived(&mut messages).is_empty(), "what is answered so had no effect");
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_loses_what_is_under_way_and_keeps_what_is_published_meanwhile() {
    let net = net();
    net.set_faults(Faults { delay_ms: 50, ..Faults::default() });
    let (one, two) = (net.connect("one"), net.connect("two"));
    let (mut to_one, mut to_two) = (listen(&one, "one").await, listen(&two, "two").await);
    one.publish(to("two", "under way")).await.unwrap();
    two.publish(to("one", "under way")).await.unwrap();
    one.set_link(Link::Broken);
    two.publish(to("one", "to nobody")).await.unwrap();
    assert!(matches!(two.request(ask("one")).await, Err(RequestError::NoResponders)));
    one.publish(to("two", "first")).await.unwrap();
    assert!(matches!(one.request(ask("two")).await, Err(RequestError::Unknown(_))));
    assert_eq!(one.connects(), 1);
    one.heal();
    assert_eq!(one.connects(), 2);
    assert_eq!(all(&mut to_two).await, ["first", ""], "the late request among them");
    assert!(arrived(&mut to_one).is_empty());
    two.publish(to("one", "again")).await.unwrap();
    assert_eq!(all(&mut to_one).await, ["again"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_an_echo_came_back_is_not_lost_with_the_connection() {
    let net = net();
    net.set_faults(Faults { delay_ms: 50, ..Faults::default() });
    let (one, two) = (net.connect("one"), net.connect("two"));
    let (mut echo, mut to_two) = (listen(&one, "echo").await, listen(&two, "two").await);
    for n in 0..20 {
        one.publish(to("two", &n.to_string())).await.unwrap();
        one.publish(to("echo", "")).await.unwrap();
        echo.next().await.unwrap();
        one.set_link(Link::Broken);
        one.heal();
    }
    assert_eq!(all(&mut to_two).await, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn one_way_cuts_lose_one_way_and_nobody_is_told() {
    let net = net();
    let (one, two) = (net.connect("one"), net.connect("two"));
    let (mut to_one, mut to_two) = (listen(&one, "one").await, listen(&two, "two").await);
    for (link, gets_in, gets_out) in [(Link::Deaf, 0, 1), (Link::Mute, 1, 0), (Link::Silent, 0, 0), (Link::Up, 1, 1)] {
        one.set_link(link);
        one.publish(to("two", "")).await.unwrap();
        two.publish(to("one", "")).await.unwrap();
        assert_eq!((arrived(&mut to_one).len(), arrived(&mut to_two).len()), (gets_in, gets_out), "{link:?}");
        let asked = two.request(ask("one")).await;
        assert!(matches!(asked, Err(RequestError::Unknown(_))), "{link:?}: silence is no word");
        arrived(&mut to_one);
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_process_gets_all_when_it_moves_again_and_sends_nothing_before() {
    let net = net();
    let (one, two) = (net.connect("one"), net.connect("two"));
    let (mut to_one, mut to_two) = (listen(&one, "one").await, listen(&two, "two").await);
    one.set_link(Link::Frozen);
    two.publish(to("one", "waits")).await.unwrap();
    assert!(arrived(&mut to_one).is_empty());
    let thaw = async {
        tokio::time::sleep(SECOND).await;
        assert!(arrived(&mut to_two).is_empty());
        one.heal();
    };
    let (sent, ()) = tokio::join!(one.publish(to("two", "late")), thaw);
    sent.unwrap();
    assert_eq!((arrived(&mut to_one), arrived(&mut to_two)), (vec!["waits".to_owned()], vec!["late".to_owned()]));
    assert_eq!(one.connects(), 1);
}

#[tokio::test(start_paused = true)]
async fn signals_are_kept_once_and_acknowledged_each_time() {
    let net = net();
    let (one, two) = (net.connect("one"), net.connect("two"));
    let mut signals = listen(&two, "hf.default.signal.s1.>").await;
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, "e1");
    let subject = "hf.sys.keep.default.s1.lock.acquired";
    for expected in [r#"{"stream":"HF_SIGNALS","seq":1}"#, r#"{"stream":"HF_SIGNALS","seq":1,"duplicate":true}"#] {
        let answer = one.request(Request { headers: Some(headers.clone()), ..ask(subject) }).await.unwrap();
        assert_eq!(answer.payload, expected);
    }
    assert_eq!(net.kept().len(), 1);
    assert_eq!(net.kept()[0].subject.as_str(), "hf.default.signal.s1.lock.acquired");
    assert!(arrived(&mut signals).is_empty(), "what is kept was announced before");
    let live = one.request(ask("hf.default.signal.s2.lock.acquired")).await;
    assert!(matches!(live, Err(RequestError::NoResponders)) && net.kept().len() == 1, "nor is it kept again");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_kept_whole_or_not_at_all() {
    let net = net();
    let one = net.connect("one");
    let send = async |batch: &str, ids: &[&str], left_out: usize| {
        let (mut answer, last) = (None, ids.len());
        for (number, id) in (1..).zip(ids).filter(|(number, _)| *number != left_out) {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_MESSAGE_ID, *id);
            headers.insert(BATCH_ID, batch);
            headers.insert(BATCH_SEQUENCE, number.to_string().as_str());
            let subject = "hf.sys.keep.default.s1.lock.acquired";
            if number == last {
                headers.insert(BATCH_COMMIT, "1");
                answer = Some(one.request(Request { headers: Some(headers), ..ask(subject) }).await.unwrap());
            } else {
                one.publish(Outgoing::to(subject, "").with_headers(headers)).await.unwrap();
            }
        }
        String::from_utf8(answer.unwrap().payload.to_vec()).unwrap()
    };
    assert_eq!(send("b1", &["e1", "e2"], 0).await, r#"{"stream":"HF_SIGNALS","seq":2}"#);
    assert!(send("b2", &["e2", "e3"], 0).await.contains("10201"), "one of them is stored");
    assert!(send("b3", &["e3", "e4", "e5"], 2).await.contains("error"), "one of them was lost");
    assert_eq!(net.kept().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn acts_are_kept_in_a_stream_of_their_own() {
    let net = net();
    let one = net.connect("one");
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, "a1");
    for expected in [r#"{"stream":"HF_AUDIT","seq":1}"#, r#"{"stream":"HF_AUDIT","seq":1,"duplicate":true}"#] {
        let act = Request { headers: Some(headers.clone()), ..ask("hf.sys.audit.worker.drained") };
        assert_eq!(one.request(act).await.unwrap().payload, expected);
    }
    assert_eq!((net.acts().len(), net.kept().len()), (1, 0));
    let control = one.request(ask("hf.sys.control.w1")).await;
    assert!(matches!(control, Err(RequestError::NoResponders)), "nothing else below `sys` is kept");
}

fn key() -> SessionKey {
    SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse("s1").unwrap())
}

#[tokio::test(start_paused = true)]
async fn storage_is_reached_over_the_same_connection() {
    let (net, memory) = (net(), Memory::default());
    let process = net.connect("one");
    let reach = process.reach(&memory);
    let revision = memory.edit_by_hand(&key(), Some("{}".into()));
    let append =
        async |id: &str| reach.append(&key(), revision, "{}".into(), Rollup::Keep, id.to_owned()).await.map(drop);
    process.set_link(Link::Broken);
    assert!(matches!(append("f1").await, Err(StoreError::Unavailable(_))));
    process.set_link(Link::Mute);
    assert!(matches!(append("f2").await, Err(StoreError::Unknown(_))));
    assert!(memory.log_now(&key()).is_empty());
    process.set_link(Link::Deaf);
    assert!(matches!(append("f3").await, Err(StoreError::Unknown(_))));
    assert_eq!(memory.log_now(&key()).len(), 1, "it landed");
    assert!(matches!(Storage::read(&*reach, &key()).await, Err(StoreError::Unavailable(_))));
    process.heal();
    assert!(Storage::read(&*reach, &key()).await.unwrap().is_some());
    process.kill();
    assert!(tokio::time::timeout(SECOND * 60, append("f4")).await.is_err());
    assert_eq!(memory.log_now(&key()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_makes_the_same_run() {
    async fn run(seed: u64) -> Vec<String> {
        let net = Net::new(Root::default(), seed);
        net.set_faults(Faults { delay_ms: 30, lost: 100, double: 300, unrouted: 50, ..Faults::default() });
        let (one, two) = (net.connect("one"), net.connect("two"));
        let _tasks = answers(&two, listen(&two, "hf.default.session.get.*").await);
        for n in 0..50 {
            one.request(ask(&format!("hf.default.session.get.s{n}"))).await.ok();
        }
        net.published().iter().map(ToString::to_string).collect()
    }
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}
