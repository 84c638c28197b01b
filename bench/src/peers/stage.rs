//! A system on stage: with the history of what was done to it, and what was made for its measurements.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::history::History;
use super::system::{Edit, Held, System};

pub(crate) struct Stage {
    pub(crate) system: Box<dyn System>,
    pub(crate) history: History,
    made: Mutex<HashSet<String>>,
    audience: tokio::sync::Mutex<Option<Audience>>,
}

/// Subscribers of one key.
pub(crate) struct Audience {
    pub(crate) key: String,
    pub(crate) size: usize,
    /// When a signal reached which subscriber.
    pub(crate) arrivals: mpsc::Receiver<(usize, Instant)>,
    /// Whether all subscribers are known to hear.
    pub(crate) rehearsed: bool,
    /// Ends the subscribers when this is dropped.
    _subscribers: JoinSet<()>,
}

impl Stage {
    pub(crate) fn new(system: Box<dyn System>) -> Self {
        Self { system, history: History::default(), made: Mutex::default(), audience: tokio::sync::Mutex::default() }
    }

    /// Whether this is asked for the first time.
    fn is_new(&self, what: String) -> bool {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(what)
    }

    /// Makes the keys that are not there yet.
    pub(crate) async fn prepare(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            if self.is_new(format!("key {key}")) {
                self.system.prepare(key).await?;
            }
        }
        Ok(())
    }

    /// Makes the documents that are not there yet.
    pub(crate) async fn open(&self, keys: &[String]) -> Result<()> {
        for key in keys {
            if self.is_new(format!("document {key}")) {
                self.system.open(0, key).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn lock(&self, client: usize, key: &str) -> Result<Held> {
        let held = self.system.lock(client, key).await?;
        self.history.granted(key, client, &held);
        Ok(held)
    }

    pub(crate) async fn wait_lock(&self, client: usize, key: &str) -> Result<Held> {
        let held = self.system.wait_lock(client, key).await?;
        self.history.granted(key, client, &held);
        Ok(held)
    }

    pub(crate) async fn unlock(&self, client: usize, key: &str, held: Held) -> Result<()> {
        self.history.releasing(key);
        self.system.unlock(client, key, held).await
    }

    pub(crate) async fn edit(&self, client: usize, key: &str, held: &Held, editor: usize) -> Result<Edit> {
        let part = self.history.next(key, editor);
        let current = self.history.is_current(key, held);
        let outcome = self.system.edit(client, key, held, part).await?;
        self.history.edited(key, part, outcome, current);
        Ok(outcome)
    }

    /// So many subscribers of one key; those of the call before are kept if there are as many.
    pub(crate) async fn audience(
        &self,
        key: &str,
        size: usize,
    ) -> Result<tokio::sync::MutexGuard<'_, Option<Audience>>> {
        let mut audience = self.audience.lock().await;
        if audience.as_ref().is_none_or(|there| there.size != size || there.key != key) {
            *audience = None;
            let (sender, arrivals) = mpsc::channel(size * 2);
            let mut subscribers = JoinSet::new();
            for client in 0..size {
                let mut signals = self.system.signals(client, key).await?;
                let sender = sender.clone();
                subscribers.spawn(async move {
                    while signals.next().await.is_some() {
                        if sender.send((client, Instant::now())).await.is_err() {
                            return;
                        }
                    }
                });
            }
            *audience =
                Some(Audience { key: key.to_owned(), size, arrivals, rehearsed: false, _subscribers: subscribers });
        }
        Ok(audience)
    }

    /// Lets all subscribers go.
    pub(crate) async fn dismiss(&self) {
        *self.audience.lock().await = None;
    }
}
