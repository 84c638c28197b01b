//! Draws the state. A pure function: the same state gives the same screen.
//!
//! Invariant: text of others goes through `plain`, so that no name commands the terminal.

use std::borrow::Cow;

use holdfast_client::protocol::reply::{Session, WorkerState};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Margin, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, TableState, Wrap};

use super::state::{Colours, Mode, Pane, State, worker_of};
use crate::output::plain;
use crate::words::word;

/// The least size that has room for everything.
const LEAST: (u16, u16) = (60, 20);
const KEYS: &str = "q quit  ? help  Tab list  / filter  s sort  t take  u unlock  m move  d drain";
const HELP: &str = "\
Tab, arrows       choose a list; choose a row (also PgUp, PgDn, Home, End)
/                 show only sessions whose id, worker, holder or path has a text
s                 sort sessions by id, state, worker, holder

t                 take over the lock of the selected session
u                 free its lock
m                 move it to another worker
d                 drain the selected worker, or let it take sessions again
                  Each of these says what will happen, asks for a reason, and asks
                  once more. Nothing happens before that.

q, Esc, Ctrl-C    quit";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("top needs {} columns and {} lines; q quits", LEAST.0, LEAST.1);
        return frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
    }
    let [head, top, middle, events, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(7),
        Constraint::Fill(1),
        Constraint::Length(if area.height > 30 { 9 } else { 5 }),
        Constraint::Length(1),
    ])
    .areas(area);
    let half = [Constraint::Fill(3), Constraint::Fill(2)];
    let [workers, rates] = Layout::horizontal(half).areas(top);
    let [sessions, locks] = Layout::horizontal(half).areas(middle);
    header(frame, head, state);
    self::workers(frame, workers, state);
    self::rates(frame, rates, state);
    self::sessions(frame, sessions, state);
    self::locks(frame, locks, state);
    self::events(frame, events, state);
    footer(frame, foot, state);
    dialog(frame, area, state);
}

fn header(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let locks = state.sessions.iter().filter(|session| session.lock.is_some()).count();
    let more = if state.more { "+" } else { "" };
    let (workers, sessions) = (state.workers.len(), state.sessions.len());
    let text = format!("{}  {workers} workers  {sessions}{more} sessions  {locks} locks", plain(&state.place));
    let line = match &state.away {
        None => Line::styled(text, bold()),
        Some(why) => Line::styled(format!(" {} ", plain(why)), alarm(state.colours)),
    };
    frame.render_widget(line, area);
}

fn workers(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let rows = state.workers.iter().map(|worker| {
        let is_draining = worker.state == WorkerState::Draining;
        let row = [
            plain(worker.worker.as_str()),
            word(worker.state),
            worker.sessions.to_string(),
            plain(&worker.workspaces.join(",")),
        ];
        Row::new(row).style(if is_draining { warning(state.colours) } else { Style::new() })
    });
    let widths = [Constraint::Fill(3), Constraint::Length(8), Constraint::Length(8), Constraint::Fill(2)];
    let header = ["worker", "state", "sessions", "workspaces"];
    list(frame, area, state, (Pane::Workers, "Workers"), Table::new(rows, widths).header(Row::new(header)));
}

fn sessions(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let filter = if state.filter.is_empty() { String::new() } else { format!(", with {}", plain(&state.filter)) };
    let title = format!("Sessions by {}{filter}", state.sort.name());
    let rows = state.shown_sessions().into_iter().map(|session| {
        let worker = worker_of(session).map(|worker| plain(worker.as_str())).unwrap_or_default();
        Row::new([name_of(session), word(session.state), worker, holder(session)])
    });
    let widths = [Constraint::Fill(3), Constraint::Length(7), Constraint::Fill(2), Constraint::Fill(2)];
    let header = ["session", "state", "worker", "holder"];
    list(frame, area, state, (Pane::Sessions, &title), Table::new(rows, widths).header(Row::new(header)));
}

/// The file's path says more than an id that was made from it.
fn name_of(session: &Session) -> String {
    plain(session.path.as_deref().unwrap_or(session.id.as_str()))
}

fn holder(session: &Session) -> String {
    session.lock.as_ref().map(|lock| plain(&lock.owner)).unwrap_or_default()
}

fn locks(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let rows = state.shown_locks().into_iter().map(|session| {
        // `2026-11-22T12:00:00Z` as `22T12:00`: a lock is rarely older than a month.
        let since = session.lock.as_ref().and_then(|lock| lock.acquired_at.get(8..16)).unwrap_or_default();
        Row::new([name_of(session), holder(session), plain(since)])
    });
    let widths = [Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(8)];
    let header = ["session", "holder", "since"];
    list(frame, area, state, (Pane::Locks, "Locks, oldest first"), Table::new(rows, widths).header(Row::new(header)));
}

fn rates(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let mut rates: Vec<_> = state.rates.iter().filter(|rate| rate.requests > 0.0).collect();
    rates.sort_by(|one, other| other.requests.total_cmp(&one.requests).then_with(|| one.verb.cmp(&other.verb)));
    let rows = rates.into_iter().map(|rate| {
        let row = [plain(&rate.verb), format!("{:.1}", rate.requests), format!("{:.1}", rate.errors)];
        Row::new(row).style(if rate.errors > 0.0 { warning(state.colours) } else { Style::new() })
    });
    let widths = [Constraint::Fill(1), Constraint::Length(8), Constraint::Length(7)];
    let table = Table::new(rows, widths).header(Row::new(["request", "per s", "errors"]).style(bold()));
    frame.render_widget(table.block(Block::bordered().title("Requests")), area);
}

fn events(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let room = usize::from(area.height.saturating_sub(2));
    let skipped = state.events.len().saturating_sub(room);
    let lines: Vec<Line<'_>> = state.events.iter().skip(skipped).map(|event| Line::raw(plain(event))).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("Events")), area);
}

fn footer(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let text: Cow<'_, str> = match (&state.mode, &state.note) {
        (Mode::Filter, _) => format!("filter: {}_   Enter keeps it, Esc clears it", plain(&state.filter)).into(),
        (_, Some(note)) => plain(note).into(),
        _ => KEYS.into(),
    };
    frame.render_widget(Line::raw(text), area);
}

fn dialog(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let (title, text) = match &state.mode {
        Mode::Watch | Mode::Filter => return,
        Mode::Help => ("Keys", HELP.to_owned()),
        Mode::Told(text) => ("Done; any key goes on", plain(text)),
        Mode::Reason(action, reason) => (
            "What will happen",
            format!(
                "{}\n\nReason, for the audit trail: {}_\n\nEnter goes on, Esc does nothing",
                action.consequence(),
                plain(reason)
            ),
        ),
        Mode::Sure(action, reason) => {
            ("Sure?", format!("{}\n\nReason: {}\n\ny does it, n does nothing", action.consequence(), plain(reason)))
        }
    };
    let place = area.centered(Constraint::Length(area.width.min(84) - 4), Constraint::Length(area.height.min(18) - 2));
    frame.render_widget(Clear, place);
    frame.render_widget(Block::bordered().title(Span::styled(title, bold())), place);
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), place.inner(Margin::new(2, 1)));
}

fn list(frame: &mut Frame<'_>, area: Rect, state: &State, (pane, title): (Pane, &str), table: Table<'_>) {
    let is_chosen = state.pane == pane;
    let block = Block::bordered().title(Span::styled(title.to_owned(), if is_chosen { bold() } else { Style::new() }));
    let mark = if is_chosen { Modifier::REVERSED } else { Modifier::empty() };
    let table = table.block(block).row_highlight_style(Style::new().add_modifier(mark));
    let mut selected = TableState::default().with_selected(state.selected(pane));
    frame.render_stateful_widget(table, area, &mut selected);
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn warning(colours: Colours) -> Style {
    match colours {
        Colours::On => Style::new().fg(Color::Yellow),
        Colours::Off => Style::new(),
    }
}

fn alarm(colours: Colours) -> Style {
    match colours {
        Colours::On => Style::new().fg(Color::White).bg(Color::Red),
        Colours::Off => Style::new().add_modifier(Modifier::REVERSED),
    }
}
