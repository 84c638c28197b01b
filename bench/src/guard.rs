//! Notices when Holdfast becomes slower: the ratios against raw NATS on three servers, compared with those on record in
//! `bench/record.json`.
//!
//! Ratios are compared and not rates, because rates are those of the machine. A busy machine makes a ratio worse too,
//! so a fall is measured a second time before it counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::measure::spread;
use crate::raw::Raw;
use crate::setup::Installation;
use crate::{say, short};

/// By how much a ratio may be below the one on record.
const ALLOWED_FALL: f64 = 0.25;
const SERVERS: usize = 3;
const ROUNDS: usize = 13;
const SPAN: Duration = Duration::from_millis(500);
const COUNTS: [usize; 2] = [1, 64];

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Put what is measured on record
    #[arg(long)]
    write: bool,
    /// The file of the record
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/record.json"))]
    record: PathBuf,
}

/// Medians of the ratios, by measurement.
type Ratios = BTreeMap<String, f64>;

/// What is on record.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Holdfast's rate as a part of raw NATS's.
    ratios: Ratios,
    /// The version of the nats-servers.
    nats_server: String,
    /// How busy the machine was at the start, as the average number of processes that ran or waited in the last minute.
    load: Option<f64>,
    cores: usize,
}

/// Measures, and compares or records.
pub(crate) async fn run(args: Args) -> Result<()> {
    // A record that cannot be read is told before a minute is spent.
    let record = if args.write { None } else { Some(read(&args.record)?) };
    let load = load_average();
    let (ratios, nats_server) = measure().await?;
    let Some(record) = record else {
        let cores = std::thread::available_parallelism()?.get();
        let record = Record { ratios, nats_server, load, cores };
        let text = serde_json::to_string_pretty(&record)? + "\n";
        std::fs::write(&args.record, text).with_context(|| format!("cannot write {}", args.record.display()))?;
        return say(&format!("written to {}", args.record.display()));
    };
    let fallen = fallen(&record.ratios, &ratios);
    if fallen.is_empty() {
        return say("no ratio is more than 25 % below the one on record");
    }
    say(&format!("measured again, because of a fall:\n{}", fallen.join("\n")))?;
    let again = self::fallen(&record.ratios, &measure().await?.0);
    // What is seen once only is the machine's.
    let twice: Vec<String> =
        again.into_iter().filter(|now| fallen.iter().any(|then| name(then) == name(now))).collect();
    if twice.is_empty() {
        return say("no ratio is more than 25 % below the one on record twice");
    }
    bail!("Holdfast has become slower:\n{}", twice.join("\n"))
}

/// The measurement that a line of [`fallen`] is about.
fn name(line: &str) -> &str {
    line.split(": ").next().unwrap_or(line)
}

fn read(path: &std::path::Path) -> Result<Record> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the record {}; `guard --write` makes one", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a record of `guard --write`", path.display()))
}

/// A line for each measurement whose ratio is too far below the one on record, or that is only on one side.
fn fallen(record: &Ratios, now: &Ratios) -> Vec<String> {
    let missing = now.keys().filter(|what| !record.contains_key(*what));
    let missing = missing.map(|what| format!("{what}: not on record; `guard --write` makes a new one"));
    let lower = record.iter().filter_map(|(what, &before)| match now.get(what) {
        None => Some(format!("{what}: on record, but not measured any more")),
        Some(&ratio) if ratio < before * (1.0 - ALLOWED_FALL) => {
            Some(format!("{what}: {ratio:.2} of raw NATS, and {before:.2} is on record"))
        }
        Some(_) => None,
    });
    missing.chain(lower).collect()
}

/// The ratios, and the version of nats-server.
async fn measure() -> Result<(Ratios, String)> {
    let installation = Installation::start(SERVERS).await?;
    let raw = Raw::start(&installation).await?;
    let most = COUNTS[COUNTS.len() - 1];
    let clients = installation.clients(most).await?;
    let sessions = short::open_sessions(&installation, &clients).await?;
    let mut ratios = Ratios::new();
    for count in COUNTS {
        let cycles = short::in_turn(
            ROUNDS,
            count,
            SPAN,
            async |n| short::lock_cycle(&installation, &clients[n], &sessions[n]).await,
            async |n| short::raw_lock_cycle(&raw, &clients[n], n).await,
        );
        keep(&mut ratios, "lock.acquire + lock.release", count, &short::ratios(&cycles.await?))?;
        let edits = short::in_turn(
            ROUNDS,
            count,
            SPAN,
            async |n| short::edit(&installation, &clients[n], &sessions[n]).await,
            async |n| short::raw_edit(&raw, &clients[n], n).await,
        );
        keep(&mut ratios, "doc.edit", count, &short::ratios(&edits.await?))?;
    }
    let version = installation.version();
    installation.stop().await;
    Ok((ratios, version))
}

fn keep(ratios: &mut Ratios, what: &str, count: usize, of_rounds: &[f64]) -> Result<()> {
    let what = format!("{what}, clients {count}");
    let (low, median, high) = spread(of_rounds.to_vec());
    say(&format!("{what:<45} {median:.2} of raw NATS ({low:.2} .. {high:.2})"))?;
    ratios.insert(what, (median * 1000.0).round() / 1000.0);
    Ok(())
}

fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratios(values: &[(&str, f64)]) -> Ratios {
        values.iter().map(|&(what, ratio)| (what.to_owned(), ratio)).collect()
    }

    #[test]
    fn only_a_fall_of_more_than_a_quarter_is_reported() {
        let record = ratios(&[("lock", 0.8), ("edit", 0.8)]);
        assert_eq!(fallen(&record, &ratios(&[("lock", 0.61), ("edit", 1.3)])), Vec::<String>::new());
        assert_eq!(
            fallen(&record, &ratios(&[("lock", 0.59), ("edit", 0.8)])),
            ["lock: 0.59 of raw NATS, and 0.80 is on record"]
        );
    }

    #[test]
    fn a_measurement_that_has_no_partner_is_reported() {
        let lines = fallen(&ratios(&[("lock", 0.8)]), &ratios(&[("edit", 0.8)]));
        assert_eq!(lines.iter().map(|line| name(line)).collect::<Vec<_>>(), ["edit", "lock"]);
    }

    #[test]
    fn a_record_that_is_missing_or_broken_says_how_to_make_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("`guard --write` makes one"));
        std::fs::write(&path, "{\"ratios\": 3}").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("is not a record of `guard --write`"));
    }
}
