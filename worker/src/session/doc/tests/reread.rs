//! A document, its file, and the same read again: what was saved is what is loaded, in memory, with undo, and by
//! whoever opens the file anew.

use std::path::PathBuf;

use holdfast_files::Baseline;
use holdfast_files::{Mount, Workspace};
use holdfast_frontmatter as frontmatter;
use holdfast_protocol::{Namespace, SessionKey};
use proptest::test_runner::TestCaseError;

use super::front;
use super::*;
use crate::machine::Work;

/// What a user does to a document with a file.
#[derive(Clone, Debug)]
enum Doing {
    Body(String),
    Splice(u64, u64, String),
    Fields(Vec<(u8, Option<u8>)>),
    Undo,
    Redo,
    Save,
    Load,
    /// Passes through a snapshot, as at a failover.
    Failover,
}

/// Texts as bodies begin: with byte order marks, front matter, lines that end in CRLF, or nothing.
fn text() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "\u{feff}",
        "\u{feff}body",
        "---\n",
        "---\r\nx: 1\r\n---\r\n",
        "---\nx: 1\n---\nbody",
        "...\n",
        "+++\n",
        "x: 1\n",
        "x = 1\n",
        "a\r\nb",
        "\r\n",
        "é",
        "---",
    ]);
    prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
}

fn doing() -> impl Strategy<Value = Doing> {
    let fields = prop::collection::vec((0u8..2, prop::option::of(0u8..3)), 0..3);
    prop_oneof![
        3 => text().prop_map(Doing::Body),
        3 => (0u64..3, 0u64..3, text()).prop_map(|(at, delete, insert)| Doing::Splice(at, delete, insert)),
        5 => fields.prop_map(Doing::Fields),
        4 => Just(Doing::Undo),
        3 => Just(Doing::Redo),
        5 => Just(Doing::Save),
        5 => Just(Doing::Load),
        1 => Just(Doing::Failover),
    ]
}

/// A document whose file is `a.md` of a folder of its own.
pub(super) struct Filed {
    folder: tempfile::TempDir,
    pub(super) document: Document,
    log: Vec<Box<RawValue>>,
    pub(super) runtime: tokio::runtime::Runtime,
}

impl Filed {
    pub(super) fn new(text: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(text) = text {
            std::fs::write(folder.path().join("a.md"), text).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let document = Self::document(&folder);
        let mut filed = Self { folder, document, log: Vec::new(), runtime };
        let begun = filed.runtime.block_on(filed.document.begin(None)).unwrap().unwrap();
        filed.apply(begun);
        filed
    }

    fn document(folder: &tempfile::TempDir) -> Document {
        let mount = Mount::open(&Workspace { dir: folder.path().to_owned(), writable: true }, None).unwrap();
        let id = SessionId::parse("s1").unwrap();
        let key = SessionKey::new(Namespace::parse("default").unwrap(), id.clone());
        let record = json!({"v": 1, "namespace": "default", "id": "s1", "kind": "document", "workspace": "main",
            "path": "a.md", "state": "passive", "owner": null, "lock": null, "lock_revision": 0,
            "config": {"idle_timeout_ms": 1000, "on_idle": "passivate", "lock": "optional"},
            "created_at": "2026-11-22T12:00:00Z"});
        let record = SessionRecord::from_json(record.to_string().as_bytes(), &key).unwrap();
        let file = File::of(&record, Some(Arc::new(mount))).map(Arc::new);
        Document { id, limits: Arc::new(Limits::default()), file, state: State::default() }
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("a.md")
    }

    fn apply(&mut self, change: Change) {
        self.document.apply(&change.change).unwrap();
        self.log.push(change.change);
    }

    /// Whether it was accepted.
    pub(super) fn ask(&mut self, verb: Verb, body: &Value) -> bool {
        let ask = self.document.parse(verb, body.to_string().as_bytes()).unwrap();
        let decided = match verb {
            Verb::DocSave => self.save(&ask),
            _ => self.runtime.block_on(self.document.decide(&ask)).map(|decision| match decision {
                Decision::Change(change) => change,
                Decision::Reply(_) => panic!("{verb} changes something"),
            }),
        };
        decided.map(|change| self.apply(change)).is_ok()
    }

    fn save(&mut self, ask: &Ask) -> Result<Change, Error> {
        let Effect { intent, nothing, work } = self.runtime.block_on(self.document.effect(ask))?;
        let mut write = |change: Box<RawValue>| {
            self.document.apply(&change).unwrap();
            self.log.push(change);
        };
        write(intent);
        let mut work: Box<dyn Work> = work;
        let saved = self.runtime.block_on(async {
            work.prepare().await?;
            work.finish().await.map_err(|_| Error::new(Reason::Bug, "not saved"))
        });
        if saved.is_err() {
            write(nothing);
        }
        saved
    }

    fn now(&self) -> (String, Map<String, Value>) {
        (self.document.state.body.clone(), self.document.state.fields.clone())
    }

    fn fields(&mut self, fields: Value) {
        assert!(self.ask(Verb::DocEdit, &json!({ "fields": fields })), "refused");
    }

    fn undo(&mut self) {
        assert!(self.ask(Verb::DocUndo, &json!({})), "refused");
    }

    /// Saves and loads, and returns what the file has.
    fn saved(&mut self) -> String {
        assert!(self.ask(Verb::DocSave, &json!({})), "refused");
        let now = self.now();
        let text = std::fs::read_to_string(self.at()).unwrap();
        assert!(self.ask(Verb::DocLoad, &json!({})), "refused");
        assert_eq!(self.now(), now, "what is loaded of {text:?}");
        text
    }

    fn body(&self) -> &str {
        &self.document.state.body
    }

    fn replay(&mut self, change: &Value) {
        self.document.apply(&RawValue::from_string(change.to_string()).unwrap()).unwrap();
    }

    /// What somebody finds who opens the file anew.
    fn anew(&self) -> (String, Map<String, Value>) {
        let text = std::fs::read_to_string(self.at()).unwrap();
        let parts = frontmatter::split(&text);
        (parts.body.to_owned(), front::read(parts.front, &Limits::default()).unwrap())
    }

    /// Whether the body has a front matter of its own and is the whole file, which PROTOCOL.md says is read as fields.
    fn reads_as_fields(&self) -> bool {
        let State { body, fields, .. } = &self.document.state;
        fields.is_empty()
            && !frontmatter::split(body).front.is_empty()
            && std::fs::read_to_string(self.at()).unwrap() == *body
    }
}

/// The document and, as whole copies, what undo and redo lead to.
struct Model {
    filed: Filed,
    undo: Vec<(String, Map<String, Value>)>,
    redo: Vec<(String, Map<String, Value>)>,
}

impl Model {
    fn edit(&mut self, edit: &Value, body: Option<&str>) -> Result<(), TestCaseError> {
        let before = self.filed.now();
        if !self.filed.ask(Verb::DocEdit, edit) {
            prop_assert_eq!(self.filed.now(), before);
            return Ok(());
        }
        let now = self.filed.now();
        if let Some(body) = body {
            prop_assert!(now.0 == body || now.0 == body.trim_start_matches('\u{feff}'), "{:?} of {:?}", now.0, body);
        }
        if now != before {
            self.undo.push(before);
            self.redo.clear();
        }
        Ok(())
    }

    fn make(&mut self, doing: &Doing) -> Result<(), TestCaseError> {
        let before = self.filed.now();
        match doing {
            Doing::Body(text) => self.edit(&json!({ "body": text }), Some(text))?,
            Doing::Splice(at, delete, insert) => {
                self.edit(&json!({"splices": [{"at": at, "delete": delete, "insert": insert}]}), None)?;
            }
            Doing::Fields(fields) => self.edit(&json!({ "fields": patch(fields) }), None)?,
            Doing::Undo => {
                let is_done = self.filed.ask(Verb::DocUndo, &json!({}));
                prop_assert_eq!(is_done, !self.undo.is_empty());
                if let Some(earlier) = self.undo.pop() {
                    prop_assert_eq!(self.filed.now(), earlier);
                    self.redo.push(before);
                }
            }
            Doing::Redo => {
                let is_done = self.filed.ask(Verb::DocRedo, &json!({}));
                prop_assert_eq!(is_done, !self.redo.is_empty());
                if let Some(later) = self.redo.pop() {
                    prop_assert_eq!(self.filed.now(), later);
                    self.undo.push(before);
                }
            }
            Doing::Save => {
                if self.filed.ask(Verb::DocSave, &json!({})) {
                    prop_assert_eq!(self.filed.now(), before);
                    if !self.filed.reads_as_fields() {
                        prop_assert_eq!(self.filed.anew(), self.filed.now(), "whoever opens it anew");
                    }
                }
            }
            Doing::Load => self.load(before)?,
            Doing::Failover => {
                let snapshot = self.filed.document.snapshot();
                self.filed.document = Filed::document(&self.filed.folder);
                self.filed.document.restore(&snapshot).unwrap();
            }
        }
        Ok(())
    }

    fn load(&mut self, before: (String, Map<String, Value>)) -> Result<(), TestCaseError> {
        let (is_dirty, is_there) = (self.filed.document.state.dirty(), self.filed.at().exists());
        let reads_as_fields = is_there && self.filed.reads_as_fields();
        prop_assert_eq!(self.filed.ask(Verb::DocLoad, &json!({"discard": true})), is_there);
        if !is_there {
            return Ok(());
        }
        let now = self.filed.now();
        prop_assert_eq!(&now, &self.filed.anew());
        if is_dirty && now != before {
            (self.undo, self.redo) = (Vec::new(), Vec::new());
        } else if reads_as_fields && !is_dirty {
            self.undo.push(before);
            self.redo.clear();
        } else {
            prop_assert_eq!(now, before, "a load of what was saved changed the document");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn what_was_saved_is_what_is_loaded_and_can_be_undone(
        begin in prop::option::of(text()),
        all in prop::collection::vec(doing(), 1..40),
    ) {
        let is_good = |text: &String| front::read(frontmatter::split(text).front, &Limits::default()).is_ok();
        prop_assume!(begin.as_ref().is_none_or(is_good));
        let mut model = Model { filed: Filed::new(begin.as_deref()), undo: Vec::new(), redo: Vec::new() };
        for doing in &all {
            model.make(doing)?;
        }
        let mut replayed = Filed::document(&model.filed.folder);
        for change in &model.filed.log {
            replayed.apply(change).unwrap();
        }
        prop_assert_eq!(&replayed.state, &model.filed.document.state, "the log alone makes the state");
    }
}

#[test]
fn a_byte_order_mark_is_the_bodys_or_the_front_matters_and_undo_takes_it_back() {
    let (plain, titled) = ("\u{feff}body", "\u{feff}---\nf: 1\n---\nbody");
    let mut filed = Filed::new(Some(plain));
    for _ in 0..2 {
        assert_eq!(filed.body(), plain);
        filed.fields(json!({"f": 1}));
        assert_eq!(filed.body(), "body", "from now on the mark is the front matter's");
        assert_eq!(filed.saved(), titled);
        filed.undo();
        assert_eq!(filed.body(), plain);
        assert_eq!(filed.saved(), plain);
        assert!(filed.ask(Verb::DocRedo, &json!({})));
        assert_eq!(filed.body(), "body");
        assert_eq!(filed.saved(), titled, "it is the file's first again");
        filed.undo();
    }
    // One that is put before the body of a document with fields, and the last field taken away.
    filed.fields(json!({"f": 2}));
    assert!(filed.ask(Verb::DocEdit, &json!({"body": "\u{feff}\u{feff}new"})));
    assert_eq!(filed.body(), "new");
    assert_eq!(filed.saved(), "\u{feff}---\nf: 2\n---\nnew");
    filed.fields(json!({"f": null}));
    assert_eq!(filed.saved(), "\u{feff}---\n---\nnew");
    // Taken away before anything was saved.
    let mut filed = Filed::new(Some(plain));
    filed.fields(json!({"f": 1}));
    filed.fields(json!({"f": null}));
    assert_eq!(filed.body(), "body");
    assert_eq!(filed.saved(), "\u{feff}---\n---\nbody");
    filed.undo();
    filed.undo();
    assert_eq!(filed.saved(), plain);
}

#[test]
fn a_mark_alone_before_the_body_of_a_document_with_fields_changes_nothing() {
    let mut filed = Filed::new(Some("---\nf: 1\n---\nbody"));
    assert!(filed.ask(Verb::DocEdit, &json!({"body": "\u{feff}body"})));
    assert!(!filed.document.state.dirty());
    assert!(!filed.ask(Verb::DocUndo, &json!({})), "there is nothing to undo");
}

#[test]
fn what_a_session_is_opened_with_has_its_mark_in_front_of_its_fields() {
    let mut filed = Filed::new(None);
    filed.document = Filed::document(&filed.folder);
    let content: Content = serde_json::from_value(json!({"body": "\u{feff}body", "fields": {"f": 1}})).unwrap();
    let begun = filed.runtime.block_on(filed.document.begin(Some(&content))).unwrap().unwrap();
    filed.apply(begun);
    assert_eq!(filed.body(), "body");
    assert_eq!(filed.saved(), "\u{feff}---\nf: 1\n---\nbody");
}

fn map(fields: Value) -> Map<String, Value> {
    serde_json::from_value(fields).unwrap()
}

#[test]
fn a_body_with_a_front_matter_of_its_own_becomes_fields_and_that_can_be_undone() {
    for body in ["---\nx: 1\n---\nbody", "+++\r\nx = 1\r\n+++\r\nbody", "\u{feff}---\nx: 1\n---\nbody"] {
        let mut filed = Filed::new(None);
        for body in ["before", body] {
            assert!(filed.ask(Verb::DocEdit, &json!({ "body": body })));
        }
        assert!(filed.ask(Verb::DocSave, &json!({})));
        assert_eq!(std::fs::read_to_string(filed.at()).unwrap(), body);
        assert!(filed.ask(Verb::DocLoad, &json!({})));
        assert_eq!(filed.now(), ("body".to_owned(), map(json!({"x": 1}))));
        for earlier in [body, "before"] {
            filed.undo();
            assert_eq!(filed.now(), (earlier.to_owned(), Map::new()));
        }
    }
}

#[test]
fn a_log_of_the_first_version_keeps_the_mark_where_it_was_until_a_load_and_keeps_undo() {
    // The first version had the mark in the body of a document with fields, and wrote it before the front matter.
    let mut filed = Filed::new(Some("\u{feff}---\nf: 1\n---\nbody"));
    let digest = Baseline::of(&std::fs::read(filed.at()).unwrap()).digest;
    filed.document.state = State::default();
    for change in [
        json!({"type": "begin", "body": "\u{feff}body", "fields": {}, "baseline": {"digest": "d", "bytes": 7}}),
        json!({"type": "edit", "step": {"splices": [{"at": 5, "delete": 0, "insert": "!"}]}}),
        json!({"type": "undo"}),
        json!({"type": "edit", "step": {"set": {"f": 1}}}),
        json!({"type": "saving", "digest": digest}),
        json!({"type": "save", "baseline": {"digest": digest, "bytes": 23}, "front": "---\nf: 1\n---\n"}),
    ] {
        filed.replay(&change);
    }
    assert_eq!((filed.body(), &*filed.document.state.front), ("\u{feff}body", "---\nf: 1\n---\n"));
    assert!(!filed.document.state.dirty());
    assert!(filed.ask(Verb::DocLoad, &json!({})));
    assert_eq!(filed.now(), ("body".to_owned(), map(json!({"f": 1}))));
    for earlier in [json!({"f": 1}), json!({})] {
        filed.undo();
        assert_eq!(filed.now(), ("\u{feff}body".to_owned(), map(earlier)));
    }
    assert_eq!(filed.saved(), "\u{feff}body");
}
