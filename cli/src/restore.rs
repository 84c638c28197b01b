//! `holdfast restore`: after a backup of the streams was put back.
//!
//! Fences, revisions and the ids of signals come from the sequence of the sessions' stream. A stream from a backup goes
//! on with sequences that were used before, and its records have locks whose tokens were given up since. `check` finds
//! that, `repair` moves the sequence beyond all that anybody may have seen, and then writes every record again without
//! its lock.
//!
//! Invariant: while a part of Holdfast runs, nothing is repaired, because an agent may have more in memory than the
//! stream. A repair that was cut off is found by the note that it begins with, and is done again as a whole.
//!
//! Deliberately absent: making and putting back backups, which is nats-server's work.

mod judge;
mod repair;

use std::time::Duration;

use clap::{Args, Subcommand};
use holdfast_client::protocol::signal::Signal;
use holdfast_store::{Begin, Storage};
use serde::{Deserialize, Serialize};

use crate::archive::{Archive, PAGE, failure};
use crate::connect::Connection;
use crate::doctor::check::{self, Verdict};
use crate::exit::Failure;
use crate::output::{self, Format};
use crate::probe::{Probe, Unread};
use crate::record::Why;
use judge::Evidence;

/// Exit status when there is a problem.
const PROBLEM: u8 = 1;
/// How many of the last kept signals are read. Signals of commits are kept in the order of the stream; those of
/// conflicts name the revision that they were decided on.
const SIGNALS: u64 = 2_000;
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What to do after a backup was put back.
#[derive(Subcommand, Debug)]
pub(crate) enum Restore {
    /// Check whether fences that were given before could be given again; exit status 1 for a problem
    Check {
        #[command(flatten)]
        seen: Seen,
    },
    /// Make every fence and token from before useless: moves the stream's sequence on, and frees all locks. All
    /// coordinators and workers must be stopped; asks first
    Repair {
        #[command(flatten)]
        seen: Seen,
        /// How far beyond the greatest sequence that is known, for grants that nobody announced
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        margin: u64,
        #[command(flatten)]
        why: Why,
    },
}

/// What is known from outside of the streams.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// The greatest fence, revision or signal sequence that anybody has seen: of all databases that store fences, and
    /// of the logs of programs that follow signals
    #[arg(long, value_name = "N")]
    at_least: Option<u64>,
}

/// What a repair leaves in the bucket of sessions, under the key `restored`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Note {
    v: u32,
    /// The sequence beyond which everything new is.
    beyond: u64,
    /// Whether all records were written again.
    done: bool,
}

impl Note {
    fn of(beyond: u64, done: bool) -> Self {
        Self { v: 1, beyond, done }
    }

    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a note is numbers")
    }
}

impl Restore {
    /// Does it.
    pub(crate) async fn run(self, connection: &Connection, format: Format) -> Result<(), Failure> {
        let archive = Archive::open(connection).await?;
        match self {
            Self::Check { seen } => {
                let evidence = archive.permitted(evidence(&archive, seen)).await?;
                let checks = judge::checks(&evidence);
                let shown = match format {
                    Format::Json => {
                        output::line(&serde_json::to_vec(&check::report(&checks)).map_err(anyhow::Error::from)?)
                    }
                    Format::People => output::text(&check::text(&checks)),
                };
                shown.map_err(Failure::Output)?;
                let has_problem = checks.iter().any(|check| check.verdict == Verdict::Problem);
                if has_problem { Err(Failure::Status(PROBLEM)) } else { Ok(()) }
            }
            Self::Repair { seen, margin, why } => {
                let evidence = archive.permitted(evidence(&archive, seen)).await?;
                archive.permitted(repair::run(&archive, &evidence, margin, &why, format)).await
            }
        }
    }
}

/// Reads what tells how far the stream has been before.
async fn evidence(archive: &Archive, seen: Seen) -> Result<Evidence, Failure> {
    let probe = Probe { nats: archive.nats.clone(), root: archive.root.clone(), patience: PATIENCE };
    let (relay, coordinators, workers) = tokio::join!(probe.relay(), probe.coordinators(), workers(&probe));
    let relay = match relay {
        Ok(relay) => Some(relay.delivered.stream_sequence.max(relay.ack_floor.stream_sequence)),
        Err(Unread::Missing) => None,
        Err(why) => return Err(Failure::Other(anyhow::anyhow!("the relay's consumer {why}"))),
    };
    let note = archive.store.last_note().await.map_err(failure)?;
    Ok(Evidence {
        last: archive.store.last().await.map_err(failure)?,
        signals: signals(archive, &probe).await?,
        relay,
        at_least: seen.at_least,
        note: note.and_then(|json| serde_json::from_slice(&json).ok()),
        coordinators: coordinators.into_iter().map(|coordinator| coordinator.metadata.coordinator).collect(),
        workers: workers?,
    })
}

/// The workers with a lease. On new servers there is no bucket of leases yet.
async fn workers(probe: &Probe) -> Result<Vec<String>, Failure> {
    let bucket = format!("KV_{}", probe.root.workers_bucket());
    let leases = match probe.stream(&bucket).await {
        Err(Unread::Missing) => return Ok(Vec::new()),
        Err(why) => Err(why),
        Ok(_) => probe.leases().await,
    };
    let leases = leases.map_err(|why| Failure::Other(anyhow::anyhow!("the stream {bucket} {why}")))?;
    Ok(leases.into_iter().map(|lease| lease.worker.worker.to_string()).collect())
}

/// The greatest stream sequence that the last kept signals name.
async fn signals(archive: &Archive, probe: &Probe) -> Result<Option<u64>, Failure> {
    let stream = archive.root.signals_stream();
    let last = match probe.stream(&stream).await {
        Ok(seen) => seen.state.last_sequence,
        Err(Unread::Missing) => return Ok(None),
        Err(why) => return Err(Failure::Other(anyhow::anyhow!("the stream {stream} {why}"))),
    };
    let subject = archive.root.signals_of_all(None, None, None);
    let (mut from, mut greatest) = (last.saturating_sub(SIGNALS) + 1, None);
    loop {
        let page = archive.store.kept(&stream, &subject, Begin::Sequence(from), PAGE).await.map_err(failure)?;
        let named = page.messages.iter().filter_map(|message| sequence_in(&message.payload));
        greatest = greatest.max(named.max());
        match page.messages.last() {
            Some(message) if page.pending > 0 => from = message.sequence + 1,
            _ => return Ok(greatest),
        }
    }
}

/// The stream sequence that a signal names.
fn sequence_in(signal: &[u8]) -> Option<u64> {
    let signal: Signal = serde_json::from_slice(signal).ok()?;
    signal.sequence.parse().ok()
}
