//! What keys do: a function of the state.
//!
//! Invariant: no key changes anything in Holdfast by itself. An action shows its consequence, asks for a reason, and
//! asks once more.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::action::Action;
use super::state::{Mode, Pane, State};

/// How many rows a page key goes.
const PAGE: isize = 10;
/// The longest filter and reason; the contract's limit of a reason.
const LONGEST: usize = 256;

/// What has to be done outside of the state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Ends the program.
    Quit,
    /// Sends the request.
    Perform(Action, String),
}

impl State {
    /// Takes one key.
    pub(super) fn on_key(&mut self, key: KeyEvent) -> Option<Effect> {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Some(Effect::Quit);
        }
        match std::mem::replace(&mut self.mode, Mode::Watch) {
            Mode::Watch => return self.watch(key.code),
            Mode::Help | Mode::Told(_) => {}
            Mode::Filter => self.filter(key.code),
            Mode::Reason(action, reason) => self.mode = ask(action, reason, key.code),
            Mode::Sure(action, reason) => match key.code {
                KeyCode::Char('y') => {
                    self.note = Some("asking…".to_owned());
                    return Some(Effect::Perform(action, reason));
                }
                KeyCode::Char('n') | KeyCode::Esc => self.note = Some("nothing was done".to_owned()),
                // Another key is no decision.
                _ => self.mode = Mode::Sure(action, reason),
            },
        }
        None
    }

    fn watch(&mut self, code: KeyCode) -> Option<Effect> {
        self.note = None;
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Effect::Quit),
            KeyCode::Char('?') => self.mode = Mode::Help,
            KeyCode::Char('/') => {
                self.mode = Mode::Filter;
                self.filter.clear();
            }
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Tab | KeyCode::Right => self.pane = self.pane.next(),
            KeyCode::BackTab | KeyCode::Left => self.pane = self.pane.next().next(),
            KeyCode::Up => self.step(-1),
            KeyCode::Down => self.step(1),
            KeyCode::PageUp => self.step(-PAGE),
            KeyCode::PageDown => self.step(PAGE),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Char(key @ ('t' | 'u' | 'm' | 'd')) => self.begin(key),
            _ => {}
        }
        None
    }

    /// Begins an action, or says why there is none.
    fn begin(&mut self, key: char) {
        let action = match (key, self.session(), self.worker()) {
            ('d', _, Some(worker)) => Ok(Action::drain_or_undrain(worker)),
            ('d', _, None) => Err("select a worker first (Tab)"),
            (_, None, _) => Err("select a session first (Tab)"),
            ('t', Some(session), _) => Ok(Action::take_over(session, &self.actor)),
            ('u', Some(session), _) => Action::unlock(session).ok_or("its lock is free"),
            (_, Some(session), _) => Ok(Action::move_away(session)),
        };
        match action {
            Ok(action) => self.mode = Mode::Reason(action, String::new()),
            Err(why) => self.note = Some(why.to_owned()),
        }
    }

    fn filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => return,
            KeyCode::Esc => return self.filter.clear(),
            code => edit(&mut self.filter, code),
        }
        if self.pane == Pane::Workers {
            self.pane = Pane::Sessions;
        }
        self.mode = Mode::Filter;
    }
}

/// Takes a key of the reason: another character, its end, or no action after all.
fn ask(action: Action, mut reason: String, code: KeyCode) -> Mode {
    match code {
        KeyCode::Esc => return Mode::Watch,
        KeyCode::Enter if !reason.trim().is_empty() => return Mode::Sure(action, reason.trim().to_owned()),
        code => edit(&mut reason, code),
    }
    Mode::Reason(action, reason)
}

fn edit(text: &mut String, code: KeyCode) {
    match code {
        KeyCode::Backspace => {
            text.pop();
        }
        KeyCode::Char(c) if !c.is_control() && text.chars().count() < LONGEST => text.push(c),
        _ => {}
    }
}
