//! Subscriptions, and the messages in flight to them.

use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;

use async_nats::Message;
use tokio::time::Instant;

use super::Sender;
use crate::chance::Dice;

/// One subscription.
pub(super) struct Subscribed {
    pub(super) process: usize,
    subject: String,
    queue: Option<String>,
    /// Messages in flight, ordered by their arrival.
    coming: BTreeMap<(Instant, u64), Coming>,
    pub(super) waker: Option<Waker>,
    /// It gets no new messages.
    pub(super) is_draining: bool,
}

/// One message on its way.
pub(super) struct Coming {
    pub(super) from: Sender,
    /// When the server has it: from then on its sender's connection does not matter.
    pub(super) taken: Instant,
    pub(super) message: Message,
}

impl Subscribed {
    pub(super) fn push(&mut self, due: Instant, serial: u64, coming: Coming) {
        self.coming.insert((due, serial), coming);
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next message if it has arrived, or else when the next one arrives, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> Result<Message, Option<Instant>> {
        match self.coming.first_entry() {
            Some(first) if first.key().0 <= now => Ok(first.remove().message),
            Some(first) => Err(Some(first.key().0)),
            None => Err(None),
        }
    }

    /// Loses the messages that have not arrived and that `is_lost` selects.
    pub(super) fn lose(&mut self, now: Instant, is_lost: impl Fn(&Coming) -> bool) {
        self.coming.retain(|(due, _), coming| *due <= now || !is_lost(coming));
    }
}

/// All subscriptions.
#[derive(Default)]
pub(super) struct Interest {
    by_id: BTreeMap<u64, Subscribed>,
    /// Subscriptions without wildcards, by subject.
    literal: BTreeMap<String, BTreeSet<u64>>,
    wild: BTreeSet<u64>,
    last: u64,
}

impl Interest {
    pub(super) fn add(&mut self, process: usize, subject: &str, queue: Option<&str>) -> u64 {
        self.last += 1;
        let subscribed = Subscribed {
            process,
            subject: subject.to_owned(),
            queue: queue.map(str::to_owned),
            coming: BTreeMap::new(),
            waker: None,
            is_draining: false,
        };
        self.by_id.insert(self.last, subscribed);
        if is_wild(subject) {
            self.wild.insert(self.last);
        } else {
            self.literal.entry(subject.to_owned()).or_default().insert(self.last);
        }
        self.last
    }

    fn forget_interest(&mut self, id: u64) {
        self.wild.remove(&id);
        if let Some(subscribed) = self.by_id.get(&id)
            && let Some(ids) = self.literal.get_mut(&subscribed.subject)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.literal.remove(&subscribed.subject);
            }
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.forget_interest(id);
        self.by_id.remove(&id);
    }

    pub(super) fn drain(&mut self, id: u64) {
        self.forget_interest(id);
        if let Some(subscribed) = self.by_id.get_mut(&id) {
            subscribed.is_draining = true;
            subscribed.wake();
        }
    }

    /// The server forgets the subscriptions of a process whose connection is closed.
    pub(super) fn disconnect(&mut self, process: usize) {
        for id in self.of(process) {
            self.forget_interest(id);
        }
    }

    /// Removes all subscriptions of a process.
    pub(super) fn remove_all(&mut self, process: usize) {
        for id in self.of(process) {
            self.remove(id);
        }
    }

    /// Restores the subscriptions of a process with its next connection.
    pub(super) fn reconnect(&mut self, process: usize) {
        for id in self.of(process) {
            let Some(subscribed) = self.by_id.get(&id).filter(|subscribed| !subscribed.is_draining) else { continue };
            if is_wild(&subscribed.subject) {
                self.wild.insert(id);
            } else {
                self.literal.entry(subscribed.subject.clone()).or_default().insert(id);
            }
        }
    }

    fn of(&self, process: usize) -> Vec<u64> {
        self.by_id.iter().filter(|(_, subscribed)| subscribed.process == process).map(|(id, _)| *id).collect()
    }

    pub(super) fn wake(&mut self, process: usize) {
        self.by_id.values_mut().filter(|subscribed| subscribed.process == process).for_each(Subscribed::wake);
    }

    pub(super) fn get(&self, id: u64) -> Option<&Subscribed> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Subscribed> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Subscribed> {
        self.by_id.values_mut()
    }

    /// The subscriptions that get a message: all without a queue, and one of each queue group.
    pub(super) fn receivers(&self, subject: &str, dice: &mut Dice) -> Vec<u64> {
        let literal = self.literal.get(subject).into_iter().flatten();
        let wild = self.wild.iter().filter(|id| self.by_id.get(id).is_some_and(|sub| matches(&sub.subject, subject)));
        let mut receivers = Vec::new();
        let mut groups: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for id in literal.chain(wild) {
            match self.by_id.get(id).and_then(|subscribed| subscribed.queue.as_deref()) {
                None => receivers.push(*id),
                Some(queue) => groups.entry(queue).or_default().push(*id),
            }
        }
        for members in groups.into_values() {
            let chosen = if members.len() == 1 { 0 } else { dice.below(members.len() as u64) };
            receivers.extend(usize::try_from(chosen).ok().and_then(|chosen| members.get(chosen)));
        }
        receivers
    }
}

fn is_wild(subject: &str) -> bool {
    subject.split('.').any(|token| token == "*" || token == ">")
}

/// Whether `subject` matches `pattern`.
pub(super) fn matches(pattern: &str, subject: &str) -> bool {
    let (mut patterns, mut tokens) = (pattern.split('.'), subject.split('.'));
    loop {
        match (patterns.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
}
