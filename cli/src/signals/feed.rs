//! Kept signals, then live ones, without a gap and without one twice.
//!
//! Invariant: the subscription begins before the last reading of the stream, and that reading begins a second later,
//! because the stream may have a signal up to a second later than subscribers. A signal is known by its id. Signals of
//! the group `doc` are not kept, so of those only live ones come.

use std::collections::{HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use holdfast_client::protocol::signal::Signal;
use holdfast_store::Begin;
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use crate::archive::{Archive, PAGE, failure};
use crate::exit::Failure;
use crate::why::story::place;

/// How long after subscribing the stream is read for the last time.
const SETTLE: Duration = Duration::from_millis(1_200);
/// How often the connection is checked for a reconnection.
const LOOK: Duration = Duration::from_millis(500);
/// How far before the last signal the stream is read again after a reconnection.
const OVERLAP: Duration = Duration::from_secs(10);
/// How many ids are remembered.
const REMEMBERED: usize = 65_536;

/// Whether to go on after a signal.
pub(crate) type Flow = ControlFlow<()>;

/// Signals of some subjects.
pub(crate) struct Feed<'a> {
    archive: &'a Archive,
    cursors: Vec<Cursor>,
    seen: Seen,
    last: Timestamp,
}

impl<'a> Feed<'a> {
    /// The kept signals of `subjects` since a time.
    pub(crate) fn new(archive: &'a Archive, subjects: Vec<String>, since: Timestamp) -> Self {
        let cursor = |subject| Cursor { subject, begin: Begin::Time(since), buffer: VecDeque::new(), is_at_end: false };
        Self { archive, cursors: subjects.into_iter().map(cursor).collect(), seen: Seen::default(), last: since }
    }

    /// Shows the kept signals in the order in which they were kept, up to the end of the stream.
    pub(crate) async fn kept(
        &mut self,
        mut show: impl FnMut(&Signal) -> Result<Flow, Failure>,
    ) -> Result<Flow, Failure> {
        while let Some(signal) = self.next_kept().await? {
            if self.shows(&signal, &mut show)?.is_break() {
                return Ok(Flow::Break(()));
            }
        }
        Ok(Flow::Continue(()))
    }

    async fn next_kept(&mut self) -> Result<Option<Signal>, Failure> {
        loop {
            for cursor in &mut self.cursors {
                cursor.fill(self.archive).await?;
            }
            let ready = self.cursors.iter_mut().filter(|cursor| !cursor.buffer.is_empty());
            let first = ready.min_by_key(|cursor| cursor.buffer.front().map(|(at, _)| *at));
            let Some(first) = first else { return Ok(None) };
            if let Some((_, Some(signal))) = first.buffer.pop_front() {
                return Ok(Some(signal));
            }
        }
    }

    fn shows(
        &mut self,
        signal: &Signal,
        show: &mut impl FnMut(&Signal) -> Result<Flow, Failure>,
    ) -> Result<Flow, Failure> {
        if !self.seen.is_new(&signal.id) {
            return Ok(Flow::Continue(()));
        }
        self.last = self.last.max(signal.time.parse().unwrap_or(self.last));
        show(signal)
    }

    /// Shows live signals of `subject` as well, until `show` breaks or the connection is closed for good.
    pub(crate) async fn live(
        &mut self,
        subject: String,
        mut show: impl FnMut(&Signal) -> Result<Flow, Failure>,
    ) -> Result<(), Failure> {
        let archive = self.archive;
        let nats = &archive.nats;
        let connects = || nats.statistics().connects.load(Ordering::Relaxed);
        let mut connected = connects();
        let subscribed = nats.subscribe(subject).await;
        let mut messages = subscribed.map_err(|error| Failure::Connect(error.into()))?;
        nats.flush().await.map_err(|error| Failure::Connect(error.into()))?;
        let mut heard = Vec::new();
        let settled = Instant::now() + SETTLE;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(settled) => break,
                message = messages.next() => heard.push(parsed(&message.ok_or_else(closed)?)),
            }
        }
        let heard = heard.into_iter().flatten().collect();
        if self.catch_up(heard, &mut show).await?.is_break() {
            return Ok(());
        }
        let mut look = tokio::time::interval(LOOK);
        loop {
            let message = tokio::select! {
                biased;
                message = messages.next() => message.ok_or_else(closed)?,
                _ = look.tick() => {
                    if connects() == connected {
                        continue;
                    }
                    connected = connects();
                    tracing::warn!("the connection was lost: kept signals are read again, those of documents may be missing");
                    let begin = Begin::Time(self.last.checked_sub(OVERLAP).unwrap_or(self.last));
                    self.cursors.iter_mut().for_each(|cursor| cursor.begin = begin);
                    match self.catch_up(Vec::new(), &mut show).await? {
                        Flow::Continue(()) => continue,
                        Flow::Break(()) => return Ok(()),
                    }
                }
            };
            if let Some(signal) = parsed(&message)
                && self.shows(&signal, &mut show)?.is_break()
            {
                return Ok(());
            }
        }
    }

    /// Shows what was kept since the last reading together with what was `heard`, in commit order.
    async fn catch_up(
        &mut self,
        heard: Vec<Signal>,
        show: &mut impl FnMut(&Signal) -> Result<Flow, Failure>,
    ) -> Result<Flow, Failure> {
        self.cursors.iter_mut().for_each(|cursor| cursor.is_at_end = false);
        let mut signals = heard;
        while let Some(signal) = self.next_kept().await? {
            signals.push(signal);
        }
        let stream = self.archive.root.sessions_stream();
        signals.sort_by_cached_key(|signal| order(signal, &stream));
        for signal in &signals {
            if self.shows(signal, show)?.is_break() {
                return Ok(Flow::Break(()));
            }
        }
        Ok(Flow::Continue(()))
    }
}

/// Commit order; a signal that is no commit comes after the revision that it was decided on.
fn order(signal: &Signal, stream: &str) -> (u64, u32) {
    place(&signal.id, stream).unwrap_or((signal.sequence.parse().unwrap_or(u64::MAX), u32::MAX))
}

fn closed() -> Failure {
    Failure::Connect(anyhow::anyhow!("the connection to NATS was closed"))
}

fn parsed(message: &async_nats::Message) -> Option<Signal> {
    let signal = serde_json::from_slice(&message.payload);
    signal.inspect_err(|error| tracing::warn!(subject = %message.subject, %error, "a signal does not parse")).ok()
}

/// A place in the kept signals of one subject.
struct Cursor {
    subject: String,
    begin: Begin,
    /// The next signals with their sequences in the stream; `None` where one does not parse.
    buffer: VecDeque<(u64, Option<Signal>)>,
    is_at_end: bool,
}

impl Cursor {
    async fn fill(&mut self, archive: &Archive) -> Result<(), Failure> {
        if !self.buffer.is_empty() || self.is_at_end {
            return Ok(());
        }
        let stream = archive.root.signals_stream();
        let page = archive.store.kept(&stream, &self.subject, self.begin, PAGE).await.map_err(failure)?;
        if let Some(last) = page.messages.last() {
            self.begin = Begin::Sequence(last.sequence + 1);
        }
        self.is_at_end = page.pending == 0;
        let read = page.messages.into_iter();
        self.buffer.extend(read.map(|kept| (kept.sequence, serde_json::from_slice(&kept.payload).ok())));
        Ok(())
    }
}

/// The ids of the last signals.
#[derive(Default)]
struct Seen {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    fn is_new(&mut self, id: &str) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_shown_once_while_it_is_remembered() {
        let mut seen = Seen::default();
        assert!(seen.is_new("a") && !seen.is_new("a"));
        (0..REMEMBERED).for_each(|n| assert!(seen.is_new(&n.to_string())));
        assert!(seen.is_new("a"), "the memory is bounded");
        assert_eq!((seen.ids.len(), seen.order.len()), (REMEMBERED, REMEMBERED));
    }
}
