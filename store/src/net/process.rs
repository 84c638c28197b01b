//! One simulated process: its connection to the network, and its faults.

use std::collections::VecDeque;
use std::sync::Arc;

use async_nats::{Message, StatusCode, Subject};
use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::received::Received;
use super::{Net, Reach};
use crate::memory::Memory;
use crate::wire::{Outgoing, PublishError, Request, RequestError, SharedWire, Subscription, Wire, WireError};

/// How many messages a disconnected process queues; more are lost.
const QUEUED: usize = 2_048;

/// The link of a process to the network and the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It works.
    Up,
    /// The connection is closed, and both sides know it: the process has no subscriptions, and what it publishes waits
    /// for the next connection.
    Broken,
    /// Nothing comes in, and neither side knows.
    Deaf,
    /// Nothing goes out, and neither side knows.
    Mute,
    /// Nothing comes in or goes out, and neither side knows.
    Silent,
    /// The process is stopped (as by SIGSTOP) and does not know it: incoming messages wait, nothing goes out.
    Frozen,
    /// The process is dead for good: it has no subscriptions, and its tasks reach nothing.
    Dead,
}

impl Link {
    /// Whether its messages get out.
    fn hears_out(self) -> bool {
        matches!(self, Self::Up | Self::Deaf)
    }

    /// Whether messages to it get in.
    fn hears_in(self) -> bool {
        matches!(self, Self::Up | Self::Mute)
    }
}

/// The network's side of a process.
pub(super) struct Connection {
    pub(super) name: String,
    link: Link,
    /// Wakes the tasks that wait for a change of the link, in their order of arrival; a watch channel has no such
    /// order.
    changed: Arc<Notify>,
    connects: u64,
    inboxes: u64,
    queued: VecDeque<Outgoing>,
}

impl Connection {
    pub(super) fn new(name: &str) -> Self {
        let (name, changed) = (name.to_owned(), Arc::default());
        Self { name, link: Link::Up, changed, connects: 1, inboxes: 0, queued: VecDeque::new() }
    }

    pub(super) fn is_deaf(&self) -> bool {
        matches!(self.link, Link::Broken | Link::Deaf | Link::Silent | Link::Dead)
    }

    pub(super) fn stands_still(&self) -> bool {
        matches!(self.link, Link::Frozen | Link::Dead)
    }
}

/// A simulated process with its connection.
#[derive(Clone)]
pub struct Process {
    net: Net,
    number: usize,
}

impl Process {
    pub(super) fn new(net: Net, number: usize) -> Self {
        Self { net, number }
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.with(|connection| connection.name.clone())
    }

    /// Its connection, shared.
    pub fn wire(&self) -> SharedWire {
        Arc::new(self.clone())
    }

    /// The storage over its connection.
    pub fn reach(&self, memory: &Memory) -> Arc<Reach> {
        Arc::new(Reach::new(self.clone(), memory.clone()))
    }

    /// Its link.
    pub fn link(&self) -> Link {
        self.with(|connection| connection.link)
    }

    /// Changes its link. A lost connection loses the messages in flight; when the link works again, the connection is a
    /// new one. A dead process stays dead.
    pub fn set_link(&self, link: Link) {
        let was = self.link();
        if was == link || was == Link::Dead {
            return;
        }
        let mut state = self.net.state();
        if !matches!((was, link), (Link::Up, Link::Frozen) | (Link::Frozen, Link::Up)) {
            state.lose_in_flight(self.number);
        }
        match link {
            Link::Broken => state.interest.disconnect(self.number),
            Link::Dead => state.interest.remove_all(self.number),
            _ => state.interest.reconnect(self.number),
        }
        let connection = &mut state.processes[self.number];
        if link == Link::Up && was != Link::Frozen {
            connection.connects += 1;
        }
        connection.link = link;
        connection.changed.notify_waiters();
        let queued = if link == Link::Broken { VecDeque::new() } else { std::mem::take(&mut connection.queued) };
        state.interest.wake(self.number);
        drop(state);
        for message in queued.into_iter().filter(|_| link.hears_out()) {
            self.net.take(self.number, message);
        }
    }

    /// Kills the process for good.
    pub fn kill(&self) {
        self.set_link(Link::Dead);
    }

    /// Makes the link work again.
    pub fn heal(&self) {
        self.set_link(Link::Up);
    }

    fn with<T>(&self, look: impl FnOnce(&mut Connection) -> T) -> T {
        look(&mut self.net.state().processes[self.number])
    }

    /// Returns once `wanted` is true of the link; may never return.
    async fn until(&self, wanted: impl Fn(Link) -> bool) {
        let changed = self.with(|connection| connection.changed.clone());
        loop {
            // Subscribed before the check, so that no change is missed.
            let change = changed.notified();
            if wanted(self.link()) {
                return;
            }
            change.await;
        }
    }

    /// Returns once the process runs; never, if it is dead.
    pub(super) async fn runs(&self) {
        self.until(|link| !matches!(link, Link::Frozen | Link::Dead)).await;
    }

    /// Returns once its messages get out.
    pub(super) async fn gets_out(&self) {
        self.until(Link::hears_out).await;
    }

    /// Returns once messages to it get in.
    pub(super) async fn gets_in(&self) {
        self.until(Link::hears_in).await;
    }

    /// Whether its messages get out now.
    pub(super) fn gets_out_now(&self) -> bool {
        self.link().hears_out()
    }

    /// Returns once the link works.
    pub(super) async fn is_up(&self) {
        self.until(|link| link == Link::Up).await;
    }

    /// Returns once the link does not work.
    pub(super) async fn is_troubled(&self) {
        self.until(|link| link != Link::Up).await;
    }

    fn send(&self, message: Outgoing) {
        let link = self.link();
        if link == Link::Broken {
            return self.with(|connection| {
                if connection.queued.len() < QUEUED {
                    connection.queued.push_back(message);
                }
            });
        }
        if link.hears_out() {
            self.net.take(self.number, message);
        }
    }

    fn listen(&self, subject: &str, queue: Option<&str>) -> Received {
        let link = self.link();
        let mut state = self.net.state();
        let id = state.interest.add(self.number, subject, queue);
        match link {
            Link::Broken => state.interest.disconnect(self.number),
            Link::Dead => state.interest.remove(id),
            _ => {}
        }
        drop(state);
        Received::new(self.net.clone(), id)
    }

    fn next_inbox(&self, kind: &str) -> String {
        self.with(|connection| {
            connection.inboxes += 1;
            format!("_INBOX.{}{kind}{}", connection.name, connection.inboxes)
        })
    }
}

#[async_trait]
impl Wire for Process {
    async fn request(&self, request: Request) -> Result<Message, RequestError> {
        let Request { subject, headers, payload, timeout: patience } = request;
        self.runs().await;
        if self.net.is_too_large(headers.as_ref(), &payload) {
            return Err(RequestError::TooLarge("over max_payload".to_owned()));
        }
        // All requests of a connection have inboxes below one prefix.
        let inbox = self.next_inbox(".");
        let mut answers = self.listen(&inbox, None);
        self.send(Outgoing { subject, reply: Some(inbox.into()), headers, payload });
        let answer = timeout(patience, answers.next()).await;
        self.runs().await;
        match answer {
            Ok(Some(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => Err(RequestError::NoResponders),
            Ok(Some(message)) => Ok(message),
            Ok(None) | Err(_) => Err(RequestError::Unknown("timed out".to_owned())),
        }
    }

    async fn publish(&self, message: Outgoing) -> Result<(), PublishError> {
        self.runs().await;
        if self.net.is_too_large(message.headers.as_ref(), &message.payload) {
            return Err(PublishError::TooLarge("over max_payload".to_owned()));
        }
        self.send(message);
        Ok(())
    }

    async fn subscribe(&self, subject: Subject, queue: Option<&str>) -> Result<Subscription, WireError> {
        self.runs().await;
        Ok(Subscription::new(self.listen(&subject, queue)))
    }

    async fn flush(&self) -> Result<(), WireError> {
        self.until(|link| !matches!(link, Link::Broken | Link::Frozen | Link::Dead)).await;
        Ok(())
    }

    fn new_inbox(&self) -> String {
        self.next_inbox("-")
    }

    fn connects(&self) -> u64 {
        self.with(|connection| connection.connects)
    }
}
