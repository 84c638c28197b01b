//! What `top` shows, and what its keys do.

use holdfast_client::protocol::reply::{Session, WorkerView};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use serde_json::{Value, json};

use super::action::Action;
use super::keys::Effect;
use super::state::{Colours, Mode, Pane, Rate, State};
use super::{News, draw};

fn session(id: &str, worker: Option<&str>, holder: Option<&str>) -> Session {
    let owner: Value = worker.map_or(Value::Null, |worker| {
        json!({"worker": worker, "boot": "018f3c1e-0000-7000-8000-000000000000", "activation": "018f3c1e-0000-7000-8000-000000000001", "since": ""})
    });
    let lock = holder
        .map(|owner| json!({"owner": owner, "revision": 4, "acquired_at": "2026-11-22T12:00:00Z", "ttl_ms": null}));
    serde_json::from_value(
        json!({"id": id, "namespace": "default", "kind": "document", "workspace": null, "path": null,
        "state": if worker.is_some() { "active" } else { "passive" }, "owner": owner, "lock": lock, "lock_revision": 4,
        "revision": 1, "created_at": "",
        "config": {"idle_timeout_ms": 1, "on_idle": "passivate", "lock": "optional"}}),
    )
    .unwrap()
}

fn worker(name: &str, state: &str) -> WorkerView {
    serde_json::from_value(json!({"worker": name, "boot": "018f3c1e-0000-7000-8000-000000000000", "state": state,
        "sessions": 3, "workspaces": ["main"], "version": "0.1.0"}))
    .unwrap()
}

fn state() -> State {
    let mut state = State::new("ops".to_owned(), "Holdfast default".to_owned(), Colours::On);
    state.hear(News::Workers(vec![worker("w1", "ready"), worker("w2", "draining")]));
    let sessions =
        vec![session("c", Some("w1"), Some("ann")), session("a", None, None), session("b", Some("w2"), None)];
    state.hear(News::Sessions { sessions, more: false });
    state.hear(News::Rates(vec![Rate { verb: "lock.acquire".to_owned(), requests: 12.25, errors: 0.5 }]));
    state.hear(News::Event("12:00:00  c  lock.acquired".to_owned()));
    state
}

fn screen(state: &State, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, state)).unwrap();
    terminal
}

fn text(state: &State) -> String {
    let terminal = screen(state, 80, 24);
    let cells = terminal.backend().buffer().content().chunks(80);
    cells.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
}

fn press(state: &mut State, keys: &str) -> Option<Effect> {
    keys.chars().map(|key| press_one(state, code(key))).last().flatten()
}

fn code(key: char) -> KeyCode {
    match key {
        '\n' => KeyCode::Enter,
        '\t' => KeyCode::Tab,
        '\u{1b}' => KeyCode::Esc,
        'v' => KeyCode::Down,
        key => KeyCode::Char(key),
    }
}

fn press_one(state: &mut State, code: KeyCode) -> Option<Effect> {
    state.on_key(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn a_small_terminal_shows_everything() {
    let text = text(&state());
    for shown in [
        "Holdfast default  2 workers  3 sessions  1 locks",
        "w1",
        "draining",
        "lock.acquire",
        "12.2",
        "0.5",
        "Sessions by id",
        "Locks, oldest first",
        "ann",
        "22T12:00",
        "12:00:00  c  lock.acquired",
        "q quit",
        "d drain",
    ] {
        assert!(text.contains(shown), "{shown} is missing in\n{text}");
    }
    for (width, height) in [(10, 3), (1, 1), (60, 20), (200, 60)] {
        screen(&state(), width, height);
    }
}

#[test]
fn no_name_commands_the_terminal() {
    let mut state = state();
    let evil = "\u{1b}]0;x\u{7}\u{9b}2J\n";
    state.hear(News::Sessions { sessions: vec![session("e", None, Some(evil))], more: true });
    state.hear(News::Event(evil.to_owned()));
    state.hear(News::Away(Some(evil.to_owned())));
    press(&mut state, "u");
    let text = text(&state);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.contains("\\u{1b}]0;x"), "{text}");
}

#[test]
fn without_colours_there_are_none() {
    let mut state = state();
    let colours = |state: &State| {
        let terminal = screen(state, 80, 24);
        let cells = terminal.backend().buffer().content();
        cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    state.hear(News::Away(Some("NATS is away".to_owned())));
    assert!(colours(&state) > 0);
    state.colours = Colours::Off;
    assert_eq!(colours(&state), 0);
}

#[test]
fn an_action_happens_only_after_a_reason_and_a_yes() {
    let mut state = state();
    press(&mut state, "vv");
    assert_eq!(press(&mut state, "t"), None);
    assert!(text(&state).contains("Take over the lock of c: ann loses it at once"), "{}", text(&state));
    assert_eq!(press(&mut state, "\n"), None, "there is no reason yet");
    assert!(matches!(state.mode, Mode::Reason(..)));
    assert_eq!(press(&mut state, "stuck\n"), None);
    assert!(text(&state).contains("Reason: stuck"), "{}", text(&state));
    assert_eq!(press(&mut state, "x\n"), None, "neither yes nor no");
    let takeover = Action::TakeOver {
        id: state.sessions.iter().find(|session| session.id.as_str() == "c").unwrap().id.clone(),
        holder: Some("ann".to_owned()),
        lock_revision: 4,
        owner: "ops".to_owned(),
    };
    assert_eq!(press(&mut state, "y"), Some(Effect::Perform(takeover, "stuck".to_owned())));
    state.hear(News::Done("ops has the lock of c".to_owned()));
    assert!(text(&state).contains("ops has the lock of c"));
    press(&mut state, "\n");
    assert_eq!(state.mode, Mode::Watch);
}

#[test]
fn no_and_escape_do_nothing() {
    for keys in ["vvt\u{1b}", "vvtstuck\nn", "vvtstuck\n\u{1b}"] {
        let mut state = state();
        assert_eq!(press(&mut state, keys), None, "{keys:?}");
        assert_eq!(state.mode, Mode::Watch, "{keys:?}");
    }
}

#[test]
fn an_action_needs_what_it_is_about() {
    let mut state = state();
    press(&mut state, "u");
    assert_eq!(state.note.as_deref(), Some("its lock is free"), "a is first");
    press(&mut state, "d");
    assert_eq!(state.note.as_deref(), Some("select a worker first (Tab)"));
    press(&mut state, "\t\tt");
    assert_eq!((state.pane, state.note.as_deref()), (Pane::Workers, Some("select a session first (Tab)")));
    press(&mut state, "d");
    assert!(text(&state).contains("Drain worker w1: its 3 sessions move"), "{}", text(&state));
    press(&mut state, "\u{1b}vd");
    assert!(text(&state).contains("Let worker w2 take sessions again"), "{}", text(&state));
}

#[test]
fn a_filter_and_an_order_choose_the_rows() {
    let mut state = state();
    let ids = |state: &State| state.shown_sessions().iter().map(|session| session.id.to_string()).collect::<String>();
    assert_eq!(ids(&state), "abc");
    press(&mut state, "sss");
    assert_eq!(ids(&state), "cab", "by holder, those without one last");
    press(&mut state, "/w2\n");
    assert_eq!(ids(&state), "b");
    press(&mut state, "/\u{1b}");
    assert_eq!(ids(&state).len(), 3);
}

#[test]
fn the_selected_session_stays_selected_when_others_come() {
    let mut state = state();
    press(&mut state, "v");
    assert_eq!(state.session().unwrap().id.as_str(), "b");
    let sessions = ["0", "1", "b", "a"].map(|id| session(id, None, None)).to_vec();
    state.hear(News::Sessions { sessions, more: false });
    assert_eq!(state.session().unwrap().id.as_str(), "b");
    state.hear(News::Sessions { sessions: vec![], more: false });
    assert!(state.session().is_none());
    assert_eq!(press(&mut state, "t"), None);
}

#[test]
fn a_key_ends_it() {
    assert_eq!(press(&mut state(), "q"), Some(Effect::Quit));
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    let mut asking = state();
    press(&mut asking, "vvtstuck");
    assert_eq!(asking.on_key(ctrl_c), Some(Effect::Quit), "also in a dialog");
}
