//! What `top` knows and shows. No I/O: keys and news change it, `draw` reads it.

use std::collections::VecDeque;

use holdfast_client::protocol::reply::{Session, WorkerView};
use holdfast_client::protocol::{SessionId, WorkerName};

use super::action::Action;
use crate::words::word;

/// How many events are kept.
const EVENTS: usize = 200;

/// What the screen shows.
#[derive(Debug)]
pub(super) struct State {
    /// Who acts: the owner of a lock that is taken over.
    pub(super) actor: String,
    /// Where: the server and the namespace.
    pub(super) place: String,
    pub(super) workers: Vec<WorkerView>,
    pub(super) sessions: Vec<Session>,
    /// Whether there are more sessions than are read.
    pub(super) more: bool,
    pub(super) rates: Vec<Rate>,
    pub(super) events: VecDeque<String>,
    /// Why nothing new arrives; `None` while it does.
    pub(super) away: Option<String>,
    /// What a key or an action came to.
    pub(super) note: Option<String>,
    pub(super) pane: Pane,
    /// The selected rows of workers, sessions and locks.
    selected: [usize; 3],
    pub(super) sort: Sort,
    pub(super) filter: String,
    pub(super) mode: Mode,
    pub(super) colours: Colours,
}

/// How often a verb is requested.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rate {
    /// `lock.acquire`
    pub(super) verb: String,
    /// Requests per second.
    pub(super) requests: f64,
    /// Errors per second.
    pub(super) errors: f64,
}

/// A list with a selected row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Workers,
    Sessions,
    Locks,
}

/// The order of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Id,
    State,
    Worker,
    Holder,
}

/// What keys do at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They choose.
    Watch,
    /// They are the filter.
    Filter,
    /// Any of them ends the help.
    Help,
    /// They are the reason of an action.
    Reason(Action, String),
    /// They decide about an action with its reason.
    Sure(Action, String),
    /// A text that stays until a key is pressed.
    Told(String),
}

/// Whether the terminal wants colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colours {
    On,
    Off,
}

impl Sort {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Id => Self::State,
            Self::State => Self::Worker,
            Self::Worker => Self::Holder,
            Self::Holder => Self::Id,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::State => "state",
            Self::Worker => "worker",
            Self::Holder => "holder",
        }
    }
}

impl Pane {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Workers => Self::Sessions,
            Self::Sessions => Self::Locks,
            Self::Locks => Self::Workers,
        }
    }
}

impl State {
    pub(super) fn new(actor: String, place: String, colours: Colours) -> Self {
        Self {
            actor,
            place,
            workers: Vec::new(),
            sessions: Vec::new(),
            more: false,
            rates: Vec::new(),
            events: VecDeque::new(),
            away: None,
            note: None,
            pane: Pane::Sessions,
            selected: [0; 3],
            sort: Sort::Id,
            filter: String::new(),
            mode: Mode::Watch,
            colours,
        }
    }

    /// Adds an event.
    pub(super) fn happened(&mut self, event: String) {
        self.events.push_back(event);
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    /// The sessions that the filter lets through, in order.
    pub(super) fn shown_sessions(&self) -> Vec<&Session> {
        let mut shown: Vec<&Session> = self.sessions.iter().filter(|session| self.lets_through(session)).collect();
        // Rows without a value are last. The id makes the order the same at each refresh.
        let key = |session: &Session| {
            let value = match self.sort {
                Sort::Id => None,
                Sort::State => Some(word(session.state)),
                Sort::Worker => worker_of(session).map(ToString::to_string),
                Sort::Holder => session.lock.as_ref().map(|lock| lock.owner.clone()),
            };
            (value.is_none(), value, session.id.to_string())
        };
        shown.sort_by_cached_key(|session| key(session));
        shown
    }

    /// The locked sessions that the filter lets through; the lock that is held longest is first.
    pub(super) fn shown_locks(&self) -> Vec<&Session> {
        let locked = |session: &&Session| session.lock.is_some() && self.lets_through(session);
        let mut shown: Vec<&Session> = self.sessions.iter().filter(locked).collect();
        shown.sort_by_key(|session| session.lock.as_ref().map(|lock| (&lock.acquired_at, session.id.as_str())));
        shown
    }

    fn lets_through(&self, session: &Session) -> bool {
        let has = |text: &str| text.contains(&self.filter);
        has(session.id.as_str())
            || worker_of(session).is_some_and(|worker| has(worker.as_str()))
            || session.lock.as_ref().is_some_and(|lock| has(&lock.owner))
            || session.path.as_deref().is_some_and(has)
    }

    fn rows(&self, pane: Pane) -> usize {
        match pane {
            Pane::Workers => self.workers.len(),
            Pane::Sessions => self.shown_sessions().len(),
            Pane::Locks => self.shown_locks().len(),
        }
    }

    /// The selected row of `pane`, if it has any.
    pub(super) fn selected(&self, pane: Pane) -> Option<usize> {
        Some(self.selected[pane as usize].min(self.rows(pane).checked_sub(1)?))
    }

    /// Selects the row that is `by` rows further down, or the last one.
    pub(super) fn step(&mut self, by: isize) {
        let Some(now) = self.selected(self.pane) else { return };
        self.selected[self.pane as usize] = now.saturating_add_signed(by).min(self.rows(self.pane) - 1);
    }

    /// The session that is selected, in either list of them.
    pub(super) fn session(&self) -> Option<&Session> {
        match self.pane {
            Pane::Workers => None,
            Pane::Sessions => self.shown_sessions().get(self.selected(Pane::Sessions)?).copied(),
            Pane::Locks => self.shown_locks().get(self.selected(Pane::Locks)?).copied(),
        }
    }

    /// The worker that is selected.
    pub(super) fn worker(&self) -> Option<&WorkerView> {
        if self.pane == Pane::Workers { self.workers.get(self.selected(Pane::Workers)?) } else { None }
    }

    /// Keeps the selected session selected while `sessions` takes the place of the old ones.
    pub(super) fn take_sessions(&mut self, sessions: Vec<Session>, more: bool) {
        let before: [Option<SessionId>; 2] = [Pane::Sessions, Pane::Locks].map(|pane| {
            let rows = if pane == Pane::Locks { self.shown_locks() } else { self.shown_sessions() };
            Some(rows.get(self.selected(pane)?)?.id.clone())
        });
        (self.sessions, self.more) = (sessions, more);
        for (pane, before) in [Pane::Sessions, Pane::Locks].into_iter().zip(before) {
            let rows = if pane == Pane::Locks { self.shown_locks() } else { self.shown_sessions() };
            if let Some(row) = rows.iter().position(|session| Some(&session.id) == before.as_ref()) {
                self.selected[pane as usize] = row;
            }
        }
    }

    /// Keeps the selected worker selected while `workers` takes the place of the old ones.
    pub(super) fn take_workers(&mut self, workers: Vec<WorkerView>) {
        let at = self.selected(Pane::Workers).and_then(|row| self.workers.get(row)).map(|view| view.worker.clone());
        self.workers = workers;
        if let Some(row) = self.workers.iter().position(|view| Some(&view.worker) == at.as_ref()) {
            self.selected[Pane::Workers as usize] = row;
        }
    }
}

/// The worker that has the session.
pub(super) fn worker_of(session: &Session) -> Option<&WorkerName> {
    session.owner.as_ref().map(|owner| &owner.worker)
}
