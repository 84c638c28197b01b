//! `holdfast audit`: what operators did to sessions, and hand edits, from the kept signals of all namespaces.
//!
//! Invariant: it reads only the signals of the events that can be an operator's, so its cost is that of those and not
//! of everything that was kept.

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
        match until(stop, archive.permitted(self.show(&archive, format))).await {
            Err(Failure::Interrupted) if self.follow => Ok(()),
            outcome => outcome,
        }
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.all || entry.doer == Doer::Person
    }

    async fn show(&self, archive: &Archive, format: Format) -> Result<(), Failure> {
        let namespace = self.is_namespace_given.then_some(&archive.namespace);
        let subject = |(group, event): &(&str, &str)| archive.root.signals_of_all(namespace, Some(group), Some(event));
        let subjects = entry::EVENTS.iter().map(subject).collect();
        let mut feed = Feed::new(archive, subjects, self.since.before(Timestamp::now()));
        let (mut past, mut left_out) = (VecDeque::new(), 0_u64);
        let kept = feed.kept(|signal| {
            past.extend(Entry::of(signal).filter(|entry| self.wants(entry)));
            if past.len() > self.limit {
                past.pop_front();
                left_out += 1;
            }
            Ok(Flow::Continue(()))
        });
        let _: Flow = kept.await?;
        if left_out > 0 {
            note(&format!("{left_out} earlier entries are left out: --limit {}", self.limit));
        }
        show(past.make_contiguous(), format)?;
        if !self.follow {
            return Ok(());
        }
        let live = archive.root.signals_of_all(namespace, None, None);
        feed.live(live, |signal| {
            let entry = Entry::of(signal).filter(|entry| self.wants(entry));
            entry.map_or(Ok(()), |entry| show(&[entry], format))?;
            Ok(Flow::Continue(()))
        })
        .await
    }
}

fn show(entries: &[Entry], format: Format) -> Result<(), Failure> {
    let lines: Vec<String> = match format {
        Format::Json => entries.iter().map(|entry| entry.json().to_string()).collect(),
        Format::People => Group::all(entries).iter().map(|group| plain(&group.text())).collect(),
    };
    lines.iter().try_for_each(|line| output::line(line.as_bytes())).map_err(Failure::Output)
}
