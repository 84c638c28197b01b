//! `holdfast audit`: what operators did. To sessions, and hand edits, from the kept signals of all namespaces; to
//! workers and to the secret of tokens, from the stream of acts.
//!
//! Invariant: it reads only the signals of the events that can be an operator's, so its cost is that of those and not
//! of everything that was kept.

mod acts;
mod entry;

use std::collections::VecDeque;

use clap::Args;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::ask::until;
use crate::connect::Connection;
use crate::exit::Failure;
use crate::output::{self, Format, note, plain};
use crate::signals::feed::{Feed, Flow};
use crate::span::Since;
use acts::{Acts, Presence};
use entry::{Doer, Entry, Group};

/// What to show.
#[derive(Args, Debug)]
pub(crate) struct Audit {
    /// Only what was done since: 30m, 2h, 7d, or a time like 2026-11-22T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = Since::parse, default_value = "24h")]
    since: Since,
    /// Also what Holdfast did by itself: failovers, and moves by workers that ended
    #[arg(long)]
    all: bool,
    /// At most this many entries from the past, the newest
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    limit: usize,
    /// Go on with what is done from now on
    #[arg(long)]
    follow: bool,
    /// Whether the command line names a namespace; otherwise all are shown.
    #[arg(skip)]
    pub(crate) is_namespace_given: bool,
}

impl Audit {
    /// Shows what is kept, and goes on if asked to.
    pub(crate) async fn run(
        self,
        connection: &Connection,
        format: Format,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let archive = Archive::open(connection).await?;
        match until(stop, self.show(&archive, format)).await {
            Err(Failure::Interrupted) if self.follow => Ok(()),
            outcome => outcome,
        }
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.all || entry.doer == Doer::Person
    }

    async fn show(&self, archive: &Archive, format: Format) -> Result<(), Failure> {
        let since = self.since.before(Timestamp::now());
        let (mut of_workers, mut of_sessions) = (Newest::of(self.limit), Newest::of(self.limit));
        let mut acts = Acts::since(archive, since);
        // Workers and the secret are of no namespace.
        let presence = match self.is_namespace_given {
            true => Presence::Missing,
            false => acts.kept(|entry| of_workers.push(entry)).await?,
        };
        let namespace = self.is_namespace_given.then_some(&archive.namespace);
        let subject = |(group, event): &(&str, &str)| archive.root.signals_of_all(namespace, Some(group), Some(event));
        let mut feed = Feed::new(archive, entry::EVENTS.iter().map(subject).collect(), since);
        let kept = feed.kept(|signal| {
            Entry::of(signal).filter(|entry| self.wants(entry)).into_iter().for_each(|entry| of_sessions.push(entry));
            Ok(Flow::Continue(()))
        });
        let _: Flow = archive.permitted(kept).await?;
        let Newest { mut entries, left_out, .. } = of_sessions.merged(of_workers);
        if left_out > 0 {
            note(&format!("{left_out} earlier entries are left out: --limit {}", self.limit));
        }
        show(entries.make_contiguous(), format)?;
        if !self.follow {
            return Ok(());
        }
        let live = archive.root.signals_of_all(namespace, None, None);
        let signals = feed.live(live, |signal| {
            let entry = Entry::of(signal).filter(|entry| self.wants(entry));
            entry.map_or(Ok(()), |entry| show(&[entry], format))?;
            Ok(Flow::Continue(()))
        });
        let acts = async {
            match presence {
                Presence::There => acts.follow(|entry| show(std::slice::from_ref(entry), format)).await,
                Presence::Missing => std::future::pending().await,
            }
        };
        archive.permitted(async { tokio::try_join!(signals, acts).map(|_| ()) }).await
    }
}

/// The newest entries, at most so many, oldest first.
struct Newest {
    limit: usize,
    entries: VecDeque<Entry>,
    left_out: u64,
}

impl Newest {
    fn of(limit: usize) -> Self {
        Self { limit, entries: VecDeque::new(), left_out: 0 }
    }

    fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
        if self.entries.len() > self.limit {
            self.entries.pop_front();
            self.left_out += 1;
        }
    }

    /// Both together by time. The entries of each stay in their order, whatever their times are.
    fn merged(mut self, mut other: Self) -> Self {
        let mut all = Self { left_out: self.left_out + other.left_out, ..Self::of(self.limit) };
        loop {
            let is_first = match (self.entries.front(), other.entries.front()) {
                (Some(mine), Some(theirs)) => mine.time < theirs.time,
                (mine, _) => mine.is_some(),
            };
            let next = if is_first { self.entries.pop_front() } else { other.entries.pop_front() };
            let Some(next) = next else { return all };
            all.push(next);
        }
    }
}

fn show(entries: &[Entry], format: Format) -> Result<(), Failure> {
    let lines: Vec<String> = match format {
        Format::Json => entries.iter().map(|entry| entry.json().to_string()).collect(),
        Format::People => Group::all(entries).iter().map(|group| plain(&group.text())).collect(),
    };
    lines.iter().try_for_each(|line| output::line(line.as_bytes())).map_err(Failure::Output)
}
