//! `holdfast top`: a live view of workers, sessions, locks and requests, with takeover, unlock, move and drain.
//!
//! ```text
//! keys ──┐
//! news ──┼─▶ state ──▶ draw        an action's effect ──▶ a task that sends the request ──▶ news
//! stop ──┘
//! ```
//!
//! Invariant: the terminal is as before when this ends: by a key, a signal, an error or a panic.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use holdfast_client::Client;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;
use crate::exit::Failure;
use action::Action;
use keys::Effect;
use read::{News, Reader};
use state::{Colours, Mode, State};

mod action;
mod draw;
mod keys;
mod read;
mod state;

/// How many keys and news may wait.
const WAITING: usize = 64;
/// How long the thread that reads keys waits before it looks whether it is to end.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// Who acts.
#[derive(Args, Debug)]
#[command(after_help = "NO_COLOR=1 switches colours off.")]
pub(crate) struct Top {
    /// Who acts, for the audit trail, and the holder's name of a lock that is taken over [default: ops]
    #[arg(long, env = "USER", value_name = "NAME")]
    actor: Option<String>,
}

impl Top {
    /// Shows it until a key or `stop` ends it.
    pub(crate) async fn run(self, connection: &Connection, stop: &CancellationToken) -> Result<(), Failure> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            let message = "top needs a terminal; for programs there are `session list --json` and `worker list --json`";
            return Err(Failure::Usage(message.to_owned()));
        }
        let actor = self.actor.filter(|actor| !actor.is_empty()).unwrap_or_else(|| "ops".to_owned());
        let (client, nats) = tokio::select! {
            connected = connection.client_and_nats() => connected?,
            () = stop.cancelled() => return Err(Failure::Interrupted),
        };
        let client = client.acting_as(actor.clone());
        let place = format!("Holdfast {}", connection.namespace);
        let state = State::new(actor, place, colours());
        let (sender, news) = mpsc::channel(WAITING);
        let (root, namespace) = (connection.root.clone(), connection.namespace.clone());
        let reader = Reader { client: client.clone(), nats, root, namespace };
        let mut tasks = JoinSet::new();
        tasks.spawn(reader.run(sender.clone()));
        // Tasks end with the set.
        show(state, &client, Channels { sender, news, keys: Keys::read()?, tasks }, stop).await
    }
}

fn colours() -> Colours {
    // Source: no-color.org.
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) { Colours::Off } else { Colours::On }
}

struct Channels {
    sender: Sender<News>,
    news: Receiver<News>,
    keys: Keys,
    /// Reading, and what was asked for.
    tasks: JoinSet<()>,
}

/// The terminal in the mode for drawing. Dropping it brings it back; a panic does too.
struct Screen(ratatui::DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn show(
    mut state: State,
    client: &Client,
    mut channels: Channels,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut screen = Screen(ratatui::try_init().context("cannot use the terminal")?);
    loop {
        screen.0.draw(|frame| draw::draw(frame, &state)).context("cannot draw on the terminal")?;
        let key = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            input = channels.keys.receiver.recv() => match input {
                Some(input) => input,
                // The terminal is gone.
                None => return Ok(()),
            },
            Some(news) = channels.news.recv() => {
                state.hear(news);
                None
            }
        };
        // All that waits is taken before it is drawn, so that fast typing is not slow on a busy machine.
        let mut keys: Vec<KeyEvent> = key.into_iter().collect();
        keys.extend(std::iter::from_fn(|| channels.keys.receiver.try_recv().ok()).flatten());
        for key in keys {
            match state.on_key(key) {
                None => {}
                Some(Effect::Quit) => return Ok(()),
                Some(Effect::Perform(action, reason)) => channels.perform(action, reason, client),
            }
        }
        while let Ok(news) = channels.news.try_recv() {
            state.hear(news);
        }
    }
}

impl Channels {
    /// Sends the request of an action. What it comes to is news.
    fn perform(&mut self, action: Action, reason: String, client: &Client) {
        let (client, sender) = (client.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let done = action.perform(&client, reason).await;
            sender.send(News::Done(done)).await.ok();
        });
    }
}

impl State {
    fn hear(&mut self, news: News) {
        match news {
            News::Workers(workers) => self.take_workers(workers),
            News::Sessions { sessions, more } => self.take_sessions(sessions, more),
            News::Rates(rates) => self.rates = rates,
            News::Event(event) => self.happened(event),
            News::Away(why) => self.away = why,
            News::Done(text) => {
                self.note = None;
                // A question that is open now is not pushed aside.
                match self.mode {
                    Mode::Watch | Mode::Help => self.mode = Mode::Told(text),
                    _ => self.note = Some(text),
                }
            }
        }
    }
}

/// Keys, read by a thread of their own because reading blocks. `None` is a change of the terminal's size.
struct Keys {
    receiver: Receiver<Option<KeyEvent>>,
    is_over: Arc<AtomicBool>,
}

impl Keys {
    fn read() -> Result<Self, Failure> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let reading = move || {
            while !over.load(Ordering::Relaxed) {
                let input = match event::poll(KEY_WAIT) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                let sent = match input {
                    Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => sender.blocking_send(Some(key)),
                    Ok(Event::Resize(..)) => sender.blocking_send(None),
                    Ok(_) => Ok(()),
                    Err(_) => return,
                };
                if sent.is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("keys".to_owned()).spawn(reading).context("cannot read keys")?;
        Ok(Self { receiver, is_over })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
