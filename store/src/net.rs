//! NATS in memory: processes that communicate over a simulated network, with every fault that a network has.
//!
//! For simulations: the same seed and the same calls give the same deliveries. Each [`Process`] has one connection,
//! which is a [`crate::Wire`]. [`Process::reach`] is the storage over the same connection, so that one switch cuts the
//! process off from both.
//!
//! Invariant: messages from one process to another arrive in the order in which they were sent, except for late copies.
//! There is no order between different pairs of processes.
//!
//! Deliberately absent: JetStream, apart from the streams that keep signals ([`Net::kept`]) and acts ([`Net::acts`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{HeaderMap, HeaderValue, Message, StatusCode, Subject};
use bytes::Bytes;
use holdfast_protocol::subject::Root;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::chance::Dice;
use crate::wire::Outgoing;

mod interest;
mod kept;
mod process;
mod reach;
mod received;
#[cfg(test)]
mod tests;

use interest::{Coming, Interest};
use kept::Keeper;
pub use kept::Kept;
pub use process::{Link, Process};
pub use reach::Reach;

/// The rate of each fault, per 1,000 messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The longest delay of a message, milliseconds.
    pub delay_ms: u64,
    /// A message is lost.
    pub lost: u64,
    /// A request is delivered a second time, later than newer ones.
    pub double: u64,
    /// How much later at most, milliseconds; 0: two seconds.
    pub double_ms: u64,
    /// A message with a reply subject is answered with *no responders* although it has a subscriber.
    pub unrouted: u64,
}

/// A message that the network accepted.
#[derive(Clone, Debug)]
pub struct Published {
    /// When, counted from the network's creation.
    pub at: Duration,
    /// The process that sent it.
    pub from: String,
    /// Its subject.
    pub subject: Subject,
    /// The subject for an answer.
    pub reply: Option<Subject>,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its body.
    pub payload: Bytes,
    /// Whether it is a second copy that the network made.
    pub is_copy: bool,
}

impl std::fmt::Display for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, from, subject, reply, headers, payload, is_copy } = self;
        let copy = if *is_copy { " (copy)" } else { "" };
        write!(f, "{:>9.3} {from:<4}{copy} {subject}", at.as_secs_f64())?;
        if let Some(reply) = reply {
            write!(f, " <- {reply}")?;
        }
        let headers = headers.iter().flat_map(HeaderMap::iter).map(|(name, values)| {
            let values: Vec<&str> = values.iter().map(HeaderValue::as_str).collect();
            format!(" {name}={}", values.join(","))
        });
        // The library's map has no order.
        let headers: BTreeSet<String> = headers.collect();
        headers.iter().try_for_each(|header| f.write_str(header))?;
        write!(f, " {}", String::from_utf8_lossy(payload))
    }
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct Net(Arc<Shared>);

struct Shared {
    root: Root,
    max_payload: usize,
    state: Mutex<State>,
}

struct State {
    begun: Instant,
    faults: Faults,
    dice: Dice,
    processes: Vec<process::Connection>,
    interest: Interest,
    /// When the last message from each process to each other one arrives.
    last_due: BTreeMap<(Sender, usize), Instant>,
    /// When the last message of each arrives at the server.
    last_taken: BTreeMap<Sender, Instant>,
    published: Vec<Published>,
    signals: Keeper,
    acts: Keeper,
    serial: u64,
    late: JoinSet<()>,
}

/// The sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sender {
    Server,
    Process(usize),
}

impl Net {
    /// A network without faults for the installation below `root`. `seed` decides everything random.
    pub fn new(root: Root, seed: u64) -> Self {
        let state = State {
            begun: Instant::now(),
            faults: Faults::default(),
            dice: Dice::new(seed),
            processes: Vec::new(),
            interest: Interest::default(),
            last_due: BTreeMap::new(),
            last_taken: BTreeMap::new(),
            published: Vec::new(),
            signals: Keeper::of_signals(&root),
            acts: Keeper::of_acts(&root),
            serial: 0,
            late: JoinSet::new(),
        };
        Self(Arc::new(Shared { root, max_payload: 8 * 1024 * 1024, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, `faults`.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// A new process, connected.
    pub fn connect(&self, name: &str) -> Process {
        let mut state = self.state();
        state.processes.push(process::Connection::new(name));
        Process::new(self.clone(), state.processes.len() - 1)
    }

    /// All accepted messages, in order.
    pub fn published(&self) -> Vec<Published> {
        self.state().published.clone()
    }

    /// All signals in the stream of signals, in order.
    pub fn kept(&self) -> Vec<Kept> {
        self.state().signals.all().to_vec()
    }

    /// All acts in the stream of acts, in order.
    pub fn acts(&self) -> Vec<Kept> {
        self.state().acts.all().to_vec()
    }

    /// The time since the network's creation.
    pub fn elapsed(&self) -> Duration {
        self.state().begun.elapsed()
    }

    fn is_too_large(&self, headers: Option<&HeaderMap>, payload: &Bytes) -> bool {
        let of_headers = headers.iter().flat_map(|headers| headers.iter()).map(|(name, values)| {
            values.iter().map(|value| AsRef::<str>::as_ref(name).len() + value.as_str().len() + 4).sum::<usize>()
        });
        payload.len() + of_headers.sum::<usize>() > self.0.max_payload
    }

    /// Accepts a message from a connected process.
    fn take(&self, from: usize, message: Outgoing) {
        let mut state = self.state();
        state.log(from, &message, false);
        let is_request = message.reply.is_some() && self.is_request(&message.subject);
        let double = state.faults.double;
        if is_request && state.dice.happens(double) {
            self.copy_later(&mut state, from, message.clone());
        }
        state.route(Sender::Process(from), message);
    }

    fn is_request(&self, subject: &str) -> bool {
        self.0.root.parse_request(subject).is_ok() || self.0.root.parse_agent(subject).is_some()
    }

    fn copy_later(&self, state: &mut State, from: usize, message: Outgoing) {
        let most = if state.faults.double_ms == 0 { 2_000 } else { state.faults.double_ms };
        let pause = Duration::from_millis(1 + state.dice.below(most));
        let shared = Arc::downgrade(&self.0);
        while state.late.try_join_next().is_some() {}
        state.late.spawn(async move {
            tokio::time::sleep(pause).await;
            let Some(net) = shared.upgrade().map(Net) else { return };
            let mut state = net.state();
            state.log(from, &message, true);
            state.route(Sender::Process(from), message);
        });
    }
}

impl State {
    fn log(&mut self, from: usize, message: &Outgoing, is_copy: bool) {
        let Outgoing { subject, reply, headers, payload } = message.clone();
        let from = self.processes[from].name.clone();
        let at = self.begun.elapsed();
        self.published.push(Published { at, from, subject, reply, headers, payload, is_copy });
    }

    /// Delivers a message to its subscribers, or answers *no responders* if there is none.
    fn route(&mut self, from: Sender, message: Outgoing) {
        let Faults { lost, unrouted, .. } = self.faults;
        let keeper = [&mut self.signals, &mut self.acts].into_iter().find(|keeper| keeper.keeps(&message.subject));
        let is_kept = keeper.is_some();
        let ack = keeper.filter(|_| !self.dice.happens(lost)).map(|keeper| keeper.keep(&message));
        if let (Some(ack), Some(reply)) = (ack, message.reply.clone()) {
            self.route(Sender::Server, Outgoing::to(reply, ack));
        }
        let is_unrouted = message.reply.is_some() && !is_kept && self.dice.happens(unrouted);
        let receivers =
            if is_unrouted { Vec::new() } else { self.interest.receivers(&message.subject, &mut self.dice) };
        if let Some(reply) = message.reply.clone().filter(|_| receivers.is_empty() && !is_kept) {
            let nobody = Message { status: Some(StatusCode::NO_RESPONDERS), ..plain(Outgoing::to(reply, "")) };
            for receiver in self.interest.receivers(&nobody.subject, &mut self.dice) {
                self.send(Sender::Server, receiver, nobody.clone());
            }
        }
        let message = plain(message);
        for receiver in receivers {
            self.send(from, receiver, message.clone());
        }
    }

    fn send(&mut self, from: Sender, receiver: u64, message: Message) {
        let Faults { delay_ms, lost, .. } = self.faults;
        let Some(process) = self.interest.get(receiver).map(|subscribed| subscribed.process) else { return };
        if self.dice.happens(lost) || self.processes[process].is_deaf() {
            return;
        }
        let delay = if delay_ms == 0 { 0 } else { self.dice.below(delay_ms + 1) };
        let (now, delay) = (Instant::now(), Duration::from_millis(delay));
        let to_server = if from == Sender::Server { Duration::ZERO } else { delay / 2 };
        let last = self.last_taken.entry(from).or_insert(now);
        let taken = (*last).max(now + to_server);
        *last = taken;
        let last = self.last_due.entry((from, process)).or_insert(now);
        let due = (*last).max(taken + (delay - to_server));
        *last = due;
        self.serial += 1;
        let serial = self.serial;
        if let Some(subscribed) = self.interest.get_mut(receiver) {
            subscribed.push(due, serial, Coming { from, taken, message });
        }
    }

    /// Loses the messages in flight from a process to the server, and from the server to it.
    fn lose_in_flight(&mut self, process: usize) {
        let now = Instant::now();
        for subscribed in self.interest.all_mut() {
            let is_to_it = subscribed.process == process;
            subscribed.lose(now, |coming| is_to_it || coming.from == Sender::Process(process) && coming.taken > now);
        }
        self.last_taken.remove(&Sender::Process(process));
        self.last_due.retain(|(_, to), _| *to != process);
    }
}

fn plain(message: Outgoing) -> Message {
    let Outgoing { subject, reply, headers, payload } = message;
    let length = subject.len() + payload.len();
    Message { subject, reply, payload, headers, status: None, description: None, length }
}
