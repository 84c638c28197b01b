//! Saves between the log and the file: what is proven before the file is touched, and what is made up for when the log does not
//! hear of it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use holdfast_protocol::document::Content;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::Frame;
use holdfast_protocol::subject::Verb;
use holdfast_protocol::{Error, SessionRecord};
use holdfast_store::memory::Faults;
use serde_json::json;
use serde_json::value::RawValue;

use super::*;
use crate::document::DocumentKind;
use crate::machine::{Ask, Change, Decision, Effect, Kind, Machine, Noticed, Surroundings, Unfinished, Work};
use crate::session::simulation::world::Process;

type Hook = Arc<Mutex<Option<Box<dyn FnOnce(Finished) -> Finished + Send>>>>;
type Finished = Result<Change, Unfinished>;

/// Documents whose save has its last step followed by something else once, which may change what came of it.
#[derive(Default)]
struct Hooked(Hook);

struct HookedDocument(Box<dyn Machine>, Hook);

struct HookedWork(Box<dyn Work>, Hook);

impl Kind for Hooked {
    fn create(&self, record: &SessionRecord, surroundings: Surroundings) -> Box<dyn Machine> {
        Box::new(HookedDocument(DocumentKind.create(record, surroundings), self.0.clone()))
    }
}

#[async_trait]
impl Work for HookedWork {
    async fn prepare(&mut self) -> Result<(), Error> {
        self.0.prepare().await
    }

    async fn finish(self: Box<Self>) -> Finished {
        let finished = self.0.finish().await;
        match self.1.lock().unwrap().take() {
            Some(hook) => hook(finished),
            None => finished,
        }
    }
}

#[async_trait]
impl Machine for HookedDocument {
    fn parse(&self, verb: Verb, payload: &[u8]) -> Result<Ask, Error> {
        self.0.parse(verb, payload)
    }

    async fn decide(&self, ask: &Ask) -> Result<Decision, Error> {
        self.0.decide(ask).await
    }

    fn effect(&self, ask: &Ask) -> Result<Effect, Error> {
        let Effect { intent, nothing, work } = self.0.effect(ask)?;
        Ok(Effect { intent, nothing, work: Box::new(HookedWork(work, self.1.clone())) })
    }

    async fn begin(&self, content: Option<&Content>) -> Result<Option<Change>, Error> {
        self.0.begin(content).await
    }

    fn apply(&mut self, change: &RawValue) -> Result<(), Error> {
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

    async fn look(&self) -> Option<Noticed> {
        self.0.look().await
    }
}

struct Scene {
    world: Arc<World>,
    node: Arc<Node>,
    folder: tempfile::TempDir,
    hook: Hook,
}

/// A session with unsaved changes of its file.
async fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.md"), "old").unwrap();
    let hooked = Hooked::default();
    let hook = hooked.0.clone();
    let kinds: Vec<(String, Arc<dyn Kind>)> = vec![("hooked".to_owned(), Arc::new(hooked))];
    let opening = Opening { kind: "hooked", kinds, folder: Some(folder.path().to_owned()), ..Opening::default() };
    let (world, node) = world_of(opening).await;
    done(&world, &node, Verb::DocEdit, json!({ "body": "new" })).await;
    Scene { world, node, folder, hook }
}

impl Scene {
    fn file(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("a.md")).unwrap()
    }

    fn once_it_is_in_its_place(&self, hook: impl FnOnce() + Send + 'static) {
        let hook = |finished| {
            hook();
            finished
        };
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// As if the folder could not be made durable.
    fn once_it_may_not_last(&self, hook: impl FnOnce() + Send + 'static) {
        let hook = |_| {
            hook();
            Err(Unfinished::Unsure(Error::new(Reason::Io, "the disk said no")))
        };
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// What the log says was saved, by request.
    fn saved(&self) -> Vec<String> {
        let frames = self.world.memory.log_now(&self.world.key);
        let frames = frames.iter().map(|stored| Frame::from_json(&stored.value, &self.world.key).unwrap());
        let ops = frames.flat_map(|frame| frame.ops);
        let saved = ops.filter(|op| op.event.as_ref().is_some_and(|event| event.kind == "saved"));
        saved.map(|op| op.request_id.as_str().to_owned()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_is_answered_though_the_log_cannot_hear_of_it_and_is_made_up_for() {
    let scene = scene().await;
    let memory = scene.world.memory.clone();
    scene.once_it_is_in_its_place(move || memory.set_faults(Faults { unavailable: 1000, ..Faults::default() }));
    let save = json!({ "request_id": "s1" });
    let saved = done(&scene.world, &scene.node, Verb::DocSave, save.clone()).await;
    assert_eq!(scene.file(), "new");
    scene.world.memory.set_faults(Faults::default());
    assert_eq!(scene.saved(), Vec::<String>::new(), "the log did not hear of it");
    let document = done(&scene.world, &scene.node, Verb::DocGet, json!({"consistency": "linearizable"})).await;
    assert_eq!((&document["dirty"], document.get("diverged")), (&json!(false), None));
    assert_eq!(done(&scene.world, &scene.node, Verb::DocSave, save).await, saved);
    assert_eq!(scene.saved(), ["s1"], "it is announced, once");
}

#[tokio::test(start_paused = true)]
async fn the_next_owner_makes_up_for_a_save_that_the_log_did_not_hear_of() {
    let scene = scene().await;
    let node = scene.node.clone();
    scene.once_it_is_in_its_place(move || {
        node.process.send_replace(Process::Dead);
    });
    let dead = begin_asking(&scene.world, &scene.node, Call::Verb(Verb::DocSave), json!({ "request_id": "s1" })).await;
    while scene.file() != "new" {
        tokio::task::yield_now().await;
    }
    let next = scene.world.node(1);
    give(&scene.world, &next).await;
    let document = done(&scene.world, &next, Verb::DocGet, json!({})).await;
    assert_eq!((&document["body"], &document["dirty"]), (&json!("new"), &json!(false)));
    assert_eq!(scene.saved(), ["s1"]);
    let again = done(&scene.world, &next, Verb::DocSave, json!({ "request_id": "s1" })).await;
    assert_eq!(again["revision"], 1);
    dead.abort();
}

#[tokio::test(start_paused = true)]
async fn a_takeover_before_the_intent_is_in_the_log_leaves_the_file_as_it_was() {
    let scene = scene().await;
    let (world, node) = (&scene.world, &scene.node);
    let (grant, hint) = acquire(world, "a", None).await;
    tell(world, node, hint).await;
    node.process.send_replace(Process::Stalls);
    let save = json!({ "token": grant.lock_token });
    let save = begin_asking(world, node, Call::Verb(Verb::DocSave), save).await;
    let (taken, _) = take_over(world, "b").await;
    world.heal();
    match save.await.unwrap() {
        Some(Answer::Refused(error)) => assert_eq!(error.reason, Reason::StaleToken),
        other => panic!("the old holder's save was answered {other:?}"),
    }
    assert_eq!(scene.file(), "old");
    assert_eq!(std::fs::read_dir(scene.folder.path()).unwrap().count(), 1, "nothing is left beside it");
    done(world, node, Verb::DocSave, json!({ "token": taken.lock_token })).await;
    assert_eq!(scene.file(), "new");
}

#[tokio::test(start_paused = true)]
async fn a_save_that_cannot_be_proven_leaves_the_file_as_it_was() {
    let scene = scene().await;
    scene.world.memory.set_faults(Faults { unavailable: 1000, ..Faults::default() });
    let reason = refused(&scene.world, &scene.node, Verb::DocSave, json!({})).await;
    assert_eq!(reason, Reason::StorageUnavailable);
    assert_eq!(scene.file(), "old");
    scene.world.memory.set_faults(Faults::default());
    let document = done(&scene.world, &scene.node, Verb::DocGet, json!({"consistency": "linearizable"})).await;
    assert_eq!(document["dirty"], true);
    done(&scene.world, &scene.node, Verb::DocSave, json!({})).await;
    assert_eq!(scene.file(), "new");
}

#[tokio::test(start_paused = true)]
async fn a_save_that_was_refused_is_never_said_to_be_saved() {
    let scene = scene().await;
    let (world, node, file) = (&scene.world, &scene.node, scene.folder.path().join("a.md"));
    std::fs::write(&file, "theirs").unwrap();
    assert_eq!(refused(world, node, Verb::DocSave, json!({ "request_id": "s1" })).await, Reason::DiskDiverged);
    // The very text that was to be saved, by another's hand.
    std::fs::write(&file, "new").unwrap();
    node.ask(&world.key, Call::Look, world.plain_ask(Revision(0))).await;
    let document = done(world, node, Verb::DocGet, json!({})).await;
    assert_eq!((&document["dirty"], document.get("diverged")), (&json!(true), None));
    assert_eq!(scene.saved(), Vec::<String>::new());
    done(world, node, Verb::DocSave, json!({ "request_id": "s1" })).await;
    assert_eq!(scene.saved(), ["s1"]);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_brought_back_by_hand_saves_what_was_acknowledged_meanwhile() {
    let scene = scene().await;
    let (world, node, next) = (&scene.world, &scene.node, scene.world.node(1));
    // The next frame of this owner would replace the log by what it knows.
    while world.memory.log_now(&world.key).len() < 32 {
        done(world, node, Verb::DocEdit, edit("x")).await;
    }
    let before = record(world).await;
    give(world, &next).await;
    done(world, &next, Verb::DocEdit, json!({ "body": "of the next owner" })).await;
    world.write_by_hand(&before);
    let revision = hint(world).await.revision;
    let saved = ask_knowing(world, node, Verb::DocSave, &json!({}), revision).await;
    assert!(matches!(saved, Some(Answer::Done(_))), "{saved:?}");
    assert_eq!(scene.file(), "of the next owner");
    let document = done(world, node, Verb::DocGet, json!({})).await;
    assert_eq!((&document["body"], &document["dirty"]), (&json!("of the next owner"), &json!(false)));
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_notices_by_itself_makes_no_request_forgotten() {
    let scene = scene().await;
    let (world, node, file) = (&scene.world, &scene.node, scene.folder.path().join("a.md"));
    let edit = json!({ "body": "once", "request_id": "r1" });
    let edited = done(world, node, Verb::DocEdit, edit.clone()).await;
    for number in 0..1_100 {
        std::fs::write(&file, if number % 2 == 0 { "theirs" } else { "old" }).unwrap();
        node.ask(&world.key, Call::Look, world.plain_ask(Revision(0))).await;
        node.floor.advance(u64::MAX);
    }
    assert_eq!(done(world, node, Verb::DocEdit, edit).await, edited);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_was_answered_is_not_forgotten_when_somebody_else_writes_right_after_it() {
    let scene = scene().await;
    let (world, node, file) = (&scene.world, &scene.node, scene.folder.path().join("a.md"));
    let (memory, formatted) = (world.memory.clone(), file.clone());
    scene.once_it_is_in_its_place(move || {
        memory.set_faults(Faults { unavailable: 1000, ..Faults::default() });
        std::fs::write(formatted, "new, formatted").unwrap();
    });
    let saved = done(world, node, Verb::DocSave, json!({ "request_id": "s1" })).await;
    world.memory.set_faults(Faults::default());
    let document = done(world, node, Verb::DocGet, json!({"consistency": "linearizable"})).await;
    assert_eq!((&document["dirty"], &document["diverged"]), (&json!(false), &json!(true)));
    assert_eq!(done(world, node, Verb::DocSave, json!({ "request_id": "s1" })).await, saved);
    assert_eq!(scene.saved(), ["s1"]);
    assert_eq!(scene.file(), "new, formatted");
}

#[tokio::test(start_paused = true)]
async fn a_save_whose_intent_came_late_is_never_said_to_be_saved() {
    let scene = scene().await;
    let (world, node, file) = (&scene.world, &scene.node, scene.folder.path().join("a.md"));
    world.memory.set_faults(Faults { lost_ack: 1000, ..Faults::default() });
    let reason = refused(world, node, Verb::DocSave, json!({})).await;
    assert_eq!(reason, Reason::StorageUnavailable);
    world.memory.set_faults(Faults::default());
    // The very text, by another's hand.
    std::fs::write(&file, "new").unwrap();
    let document = done(world, node, Verb::DocGet, json!({"consistency": "linearizable"})).await;
    assert_eq!(document["dirty"], true);
    assert_eq!(scene.saved(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_save_that_may_not_last_is_done_where_it_turns_out_to() {
    let scene = scene().await;
    let (world, node) = (&scene.world, &scene.node);
    scene.once_it_may_not_last(|| ());
    let saved = done(world, node, Verb::DocSave, json!({ "request_id": "s1" })).await;
    assert_eq!((&saved["revision"], scene.file()), (&json!(1), "new".to_owned()));
    assert_eq!(done(world, node, Verb::DocSave, json!({ "request_id": "s1" })).await, saved);
    assert_eq!(done(world, node, Verb::DocGet, json!({})).await["dirty"], false);
    assert_eq!(scene.saved(), ["s1"]);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_may_not_last_is_unknown_where_it_cannot_be_told() {
    let scene = scene().await;
    let (world, node, file) = (&scene.world, &scene.node, scene.folder.path().join("a.md"));
    // The power failed and the old file is back, say.
    let old = file.clone();
    scene.once_it_may_not_last(move || std::fs::write(old, "old").unwrap());
    assert_eq!(refused(world, node, Verb::DocSave, json!({ "request_id": "s1" })).await, Reason::AckTimeout);
    let document = done(world, node, Verb::DocGet, json!({})).await;
    assert_eq!((&document["body"], &document["dirty"]), (&json!("new"), &json!(true)));
    assert_eq!(scene.saved(), Vec::<String>::new());
    // The same request again saves.
    done(world, node, Verb::DocSave, json!({ "request_id": "s1" })).await;
    assert_eq!((scene.file(), scene.saved()), ("new".to_owned(), vec!["s1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn loads_of_a_large_file_that_come_at_once_are_frames_of_their_own() {
    let scene = scene().await;
    let (world, node) = (&scene.world, &scene.node);
    // In the log each character is six bytes. A frame has room for two such files, and not for three.
    std::fs::write(scene.folder.path().join("a.md"), "\u{1}".repeat(512 * 1024)).unwrap();
    world.memory.set_faults(Faults { frame_bytes_max: 8 * 1024 * 1024, ..Faults::default() });
    let load = || begin_asking(world, node, Call::Verb(Verb::DocLoad), json!({ "discard": true }));
    let edit = begin_asking(world, node, Call::Verb(Verb::DocEdit), json!({ "body": "mine" }));
    let all =
        futures_util::future::join_all([load().await, load().await, edit.await, load().await, load().await]).await;
    for answer in all {
        assert!(matches!(answer, Ok(Some(Answer::Done(_)))), "{answer:?}");
    }
    assert_eq!(done(world, node, Verb::DocGet, json!({})).await["revision"], 6);
}
