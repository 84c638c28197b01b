//! Machines that panic.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_protocol::document::Content;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, SessionId, SessionKey, SessionRecord};
use serde_json::json;
use serde_json::value::RawValue;

use super::*;
use crate::document::DocumentKind;
use crate::machine::{Ask, Change, Decision, Kind, Machine, Surroundings};

/// Documents that panic at the word `boom`, when it is decided, and at `poison`, when it is made, now and at every replay.
struct Fragile;

struct FragileDocument(Box<dyn Machine>);

impl Kind for Fragile {
    fn create(&self, record: &SessionRecord, surroundings: Surroundings) -> Box<dyn Machine> {
        Box::new(FragileDocument(DocumentKind.create(record, surroundings)))
    }
}

#[async_trait]
impl Machine for FragileDocument {
    fn parse(&self, verb: Verb, payload: &[u8]) -> Result<Ask, Error> {
        assert!(!String::from_utf8_lossy(payload).contains("boom"), "a bug in somebody's machine");
        self.0.parse(verb, payload)
    }

    async fn decide(&self, ask: &Ask) -> Result<Decision, Error> {
        self.0.decide(ask).await
    }

    async fn begin(&self, content: Option<&Content>) -> Result<Option<Change>, Error> {
        self.0.begin(content).await
    }

    fn apply(&mut self, change: &RawValue) -> Result<(), Error> {
        assert!(!change.get().contains("poison"), "a bug in somebody's machine");
        self.0.apply(change)
    }

    fn snapshot(&self) -> Box<RawValue> {
        self.0.snapshot()
    }

    fn restore(&mut self, state: &RawValue) -> Result<(), Error> {
        self.0.restore(state)
    }

    fn view(&self) -> Box<RawValue> {
        self.0.view()
    }

    fn revision(&self) -> u64 {
        self.0.revision()
    }

    fn unsaved_changes(&self) -> Option<Error> {
        self.0.unsaved_changes()
    }
}

fn fragile() -> Opening {
    let kinds: Vec<(String, Arc<dyn Kind>)> = vec![("fragile".to_owned(), Arc::new(Fragile))];
    Opening { kind: "fragile", kinds, ..Opening::default() }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_machine_takes_nobody_else_down_and_its_session_comes_back() {
    let (world, node) = world_of(fragile()).await;
    let other = SessionKey::new(world.key.namespace.clone(), SessionId::parse("s2").unwrap());
    world.create(&other, &node).await;
    let ask_other = |body: Value| {
        let ask = Asked { payload: body.to_string().into(), ..world.plain_ask(Revision(0)) };
        node.ask(&other, Call::Verb(Verb::DocEdit), ask)
    };
    assert!(matches!(ask_other(edit("b")).await, Some(Answer::Done(_))));
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    for round in 0..3 {
        assert!(ask(&world, &node, Verb::DocEdit, edit("boom")).await.is_none(), "the panic takes its letter along");
        assert_eq!(done(&world, &node, Verb::DocEdit, edit("a")).await["revision"], round + 2);
        assert!(matches!(ask_other(edit("b")).await, Some(Answer::Done(_))));
    }
    assert_eq!(body(&world, &node).await, "aaaa");
    assert_eq!(node.supervisor.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_panic_is_sent_to_ask_again() {
    let (world, node) = world_of(fragile()).await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    node.process.send_replace(crate::session::simulation::world::Process::Stalls);
    let busy = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("a")).await;
    let boom = begin_asking(&world, &node, Call::Handover, json!({})).await;
    let behind = begin_asking(&world, &node, Call::Verb(Verb::DocEdit), edit("b")).await;
    world.heal();
    assert!(matches!(busy.await.unwrap(), Some(Answer::Done(_))));
    assert!(boom.await.unwrap().is_some());
    assert!(matches!(behind.await.unwrap(), Some(Answer::Moved)));
}

#[tokio::test(start_paused = true)]
async fn a_late_word_of_an_empty_log_is_not_believed_after_a_panic() {
    let (world, node) = world_of(Opening { activated: false, ..fragile() }).await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    assert!(ask(&world, &node, Verb::DocEdit, edit("boom")).await.is_none());
    let (_, activate) = world.first.lock().unwrap().clone().unwrap();
    let ask_of = world.plain_ask(Revision(0));
    node.ask(&world.key, Call::Activate(Box::new(activate)), ask_of).await.unwrap();
    assert_eq!(body(&world, &node).await, "a");
    assert_eq!(done(&world, &node, Verb::DocEdit, edit("b")).await["revision"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_panics_at_every_replay_stays_as_it_is() {
    // Written as a document, read by a kind that cannot.
    let (world, node) = world_of(Opening { kind: "document", ..fragile() }).await;
    done(&world, &node, Verb::DocEdit, edit("poison")).await;
    world.write_by_hand(&SessionRecord { kind: "fragile".to_owned(), ..record(&world).await });
    world.give_to(&hint(&world).await, &world.node(1), EventType::SessionMoved).await.unwrap();
    let before = world.memory.log_now(&world.key).len();
    for _ in 0..100 {
        assert!(!matches!(ask(&world, &world.node(1), Verb::DocGet, json!({})).await, Some(Answer::Done(_))));
    }
    assert!(world.memory.log_now(&world.key).len() <= before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_word_of_an_empty_log_is_not_believed_after_a_record_was_broken_and_repaired() {
    let (world, node) = world_of(Opening { content: Some(json!({ "body": "begin" })), ..Opening::default() }).await;
    done(&world, &node, Verb::DocEdit, edit("a")).await;
    let good = record(&world).await;
    world.memory.edit_by_hand(&world.key, None);
    assert!(matches!(ask(&world, &node, Verb::DocEdit, edit("lost")).await, Some(Answer::Moved)));
    world.write_by_hand(&good);
    let (_, activate) = world.first.lock().unwrap().clone().unwrap();
    let ask_of = world.plain_ask(Revision(0));
    node.ask(&world.key, Call::Activate(Box::new(activate)), ask_of).await.unwrap();
    assert_eq!(body(&world, &node).await, "abegin");
}
