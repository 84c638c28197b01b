//! `holdfast why`: the story of one session from its record, its log and its kept signals, and who may write now.
//!
//! Invariant: it asks no coordinator and no worker, so it works while they are down. What it reads is bounded:
//! the 64 revisions of the record, the log, and the newest [`SIGNALS`] kept signals of the session.

pub(crate) mod phrase;
mod present;
pub(crate) mod story;
#[cfg(test)]
mod tests;

use clap::Args;
use holdfast_client::protocol::record::SessionRecord;
use holdfast_client::protocol::signal::Signal;
use holdfast_client::protocol::{Error as Contract, Reason, Revision, SessionKey};
use holdfast_store::{Begin, Storage, Stored};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::archive::{Archive, PAGE, failure};
use crate::connect::Connection;
use crate::exit::Failure;
use crate::output::{self, Format, plain};
use crate::session::Of;
use crate::span::Since;
use present::{Liveness, Present, present};
use story::{Found, Line, tell};

/// How many kept signals of the session are read at most.
const SIGNALS: usize = 20_000;

/// What nobody can tell afterwards.
const NOT_STORED: &str = "not stored, so not told: renewals of a lease, and who waits for the lock now; of refused requests at \
                          most 10 a second are kept";

/// The session to explain.
#[derive(Args, Debug)]
pub(crate) struct Why {
    #[command(flatten)]
    session: Of,
    /// Only what happened since: 30m, 2h, 7d, or a time like 2026-11-22T12:00:00Z [default: all that is kept]
    #[arg(long, value_name = "TIME", value_parser = Since::parse)]
    since: Option<Since>,
    /// At most this many lines, the newest
    #[arg(long, value_name = "N", default_value_t = 200)]
    limit: usize,
}

impl Why {
    /// Reads and tells.
    pub(crate) async fn run(self, connection: &Connection, format: Format) -> Result<(), Failure> {
        let archive = Archive::open(connection).await?;
        let key = archive.key(&self.session.id);
        let since = self.since.map(|since| since.before(Timestamp::now()));
        let told = archive.permitted(read(&archive, &key, since, self.limit)).await?;
        let written = match format {
            Format::Json => output::line(told.json().to_string().as_bytes()),
            Format::People => output::text(&told.text()),
        };
        written.map_err(Failure::Output)
    }
}

/// A session's story and present.
pub(super) struct Told {
    key: SessionKey,
    lines: Vec<Line>,
    present: Present,
    notes: Vec<String>,
}

/// Reads all sources and tells the story.
async fn read(archive: &Archive, key: &SessionKey, since: Option<Timestamp>, limit: usize) -> Result<Told, Failure> {
    let stream = archive.root.sessions_stream();
    // The signals first: what happens meanwhile is in the record and the log.
    let (subject, kept_in) = (archive.root.signals(key, None), archive.root.signals_stream());
    let begin = since.map_or(Begin::Sequence(1), Begin::Time);
    let (kept, left_out) = archive.newest(&kept_in, &subject, begin, SIGNALS).await?;
    let signals: Vec<Signal> =
        kept.iter().filter_map(|message| serde_json::from_slice(&message.payload).ok()).collect();
    let last = archive.store.read(key).await.map_err(failure)?;
    let at_least = last.as_ref().map_or(Revision(0), |stored| stored.revision);
    let revisions = if last.is_some() { archive.revisions(key, at_least).await? } else { Vec::new() };
    let log = archive.store.kept(&stream, &archive.root.log(key), Begin::Sequence(1), PAGE).await.map_err(failure)?;
    let liveness = liveness(archive, revisions.last()).await?;
    if revisions.is_empty() && signals.is_empty() {
        let message = format!("nothing is stored of session {} in namespace {}", key.id, key.namespace);
        return Err(Contract::new(Reason::NoSession, message).detail("session_id", key.id.as_str()).into());
    }
    let found = Found { key: key.clone(), stream, revisions, log: log.messages, signals };
    let mut notes = notes(&found, left_out);
    let mut lines = tell(&found);
    if let Some(since) = since {
        lines.retain(|line| line.time >= since);
    }
    let excess = lines.len().saturating_sub(limit);
    if excess > 0 {
        lines.drain(..excess);
        notes.insert(0, format!("{excess} earlier lines are left out: --limit {limit}"));
    }
    let present = present(found.revisions.last(), liveness, Timestamp::now());
    Ok(Told { key: found.key, lines, present, notes })
}

/// Whether the process that owns the session has its worker's lease.
async fn liveness(archive: &Archive, last: Option<&Stored>) -> Result<Liveness, Failure> {
    let record = last.and_then(|stored| SessionRecord::from_json(stored.value.as_ref()?, &stored.key).ok());
    let Some(owner) = record.and_then(|record| record.owner) else { return Ok(Liveness::Unknown) };
    let slot = archive.store.lease(&owner.worker).await.map_err(failure)?;
    let is_its = slot.lease.is_some_and(|lease| lease.boot == owner.boot);
    Ok(if is_its { Liveness::Lease } else { Liveness::None })
}

/// What the reader must know about the sources.
fn notes(found: &Found, left_out: u64) -> Vec<String> {
    let mut notes = Vec::new();
    if left_out > 0 {
        notes.push(format!("{left_out} older kept signals were not read: only the newest {SIGNALS} are; use --since"));
    }
    if let Some(first) = found.log.first()
        && let Some(revision) = story::snapshot_at(first, &found.key)
        && revision > 0
    {
        notes.push(format!(
            "changes of the document up to revision {revision} are in a snapshot of {:.3} and not told one by one",
            first.time
        ));
    }
    notes.push(NOT_STORED.to_owned());
    notes
}

impl Told {
    fn text(&self) -> String {
        let mut text = format!("session    {} in namespace {}\n", self.key.id, self.key.namespace);
        let width = self.lines.iter().map(|line| line.place().len()).max().unwrap_or(0);
        for line in &self.lines {
            text.push_str(&format!("{:.3}  {:<width$}  {}\n", line.time, line.place(), plain(&line.text)));
        }
        for line in &self.present.lines {
            text.push_str(&format!("{}\n", plain(line)));
        }
        for note in &self.notes {
            text.push_str(&format!("note       {note}\n"));
        }
        text
    }

    fn json(&self) -> Value {
        let event = |line: &Line| {
            json!({"time": line.time.to_string(), "sequence": line.sequence, "last_sequence": line.last,
                "event": line.event, "text": line.text, "data": line.data})
        };
        json!({"session_id": self.key.id.as_str(), "namespace": self.key.namespace.as_str(),
            "events": self.lines.iter().map(event).collect::<Vec<_>>(), "now": self.present.json, "notes": self.notes})
    }
}

impl Line {
    /// The revision, or the range of the stream that the line is about.
    fn place(&self) -> String {
        if self.last > self.sequence { format!("{}-{}", self.sequence, self.last) } else { self.sequence.to_string() }
    }
}
