//! Holdfast beside its peers: the same work from the same driver, on systems that this program starts itself and that
//! all flush to the disk before they answer.
//!
//! All systems that take part run at the same time, and each round measures them one after the other, so that a drift
//! of the disk hits all. The order turns from round to round.

mod faults;
mod history;
mod machine;
mod number;
mod plot;
mod process;
mod report;
mod stage;
mod system;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::measure::Measured;
use crate::say;
use machine::Machine;
use process::Missing;
use report::{Cell, Report, Row, Taking};
use stage::Stage;
use system::{Ability, SYSTEMS};
use work::{Kind, WORKS};

const KILLED: &str = "gap in the edits of a session whose worker is killed";
const EXPIRED: &str = "a waiter's time behind a dead holder with a TTL of 2 s";
const NUMBER: &str = "sessions in number";

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Rounds of each measurement, after one that warms up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each system runs in a round
    #[arg(long, default_value = "1.5s", value_name = "TIME", value_parser = span)]
    span: Duration,
    /// Run only the work items that have this word in their name
    #[arg(long, default_value = "", value_name = "WORD")]
    only: String,
    /// Systems, by name or by the beginning of it: holdfast, jetstream-3, etcd, redis, zookeeper-1
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    systems: Vec<String>,
    /// Numbers of clients; they share 8 connections
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,256", value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: Vec<u32>,
    /// How many times an owner is killed and a holder dies
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    kills: u32,
    /// Numbers of sessions for the item about them
    #[arg(long, value_delimiter = ',', default_value = "1000,100000", value_name = "N,…",
        value_parser = clap::value_parser!(u32).range(number::SAMPLES as i64..=10_000_000))]
    sessions: Vec<u32>,
    /// Also with 1,000,000 sessions: takes long, and gigabytes
    #[arg(long)]
    million: bool,
    /// Write results.md, results.json and plots into this folder
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// List the systems and the work items, and end
    #[arg(long)]
    list: bool,
}

/// Parses `1.5s` or `500ms`. A lock must outlive a span.
fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').ok_or("a time ends in `s` or `ms`")?, 1.0),
    };
    let seconds = number.parse::<f64>().map_err(|error| error.to_string())? * unit;
    // Written so that NaN is refused too.
    if !(0.05..=10.0).contains(&seconds) {
        return Err("a span is between 50ms and 10s".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// The pause of a client that tries again: 1 to 4 ms, so that clients do not try in step.
async fn pause() {
    let millis = 1 + u64::from(uuid::Uuid::new_v4().as_bytes()[0] % 4);
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let wanted = wanted(&args.systems)?;
    let titles: Vec<&str> = WORKS.iter().map(|work| work.title).chain([KILLED, EXPIRED, NUMBER]).collect();
    if args.list {
        return say(&format!("systems: {}\nwork items:\n  {}", wanted.join(", "), titles.join("\n  ")));
    }
    ensure!(
        titles.iter().any(|title| title.contains(&args.only)),
        "no work item has {:?} in its name; `peers --list` lists them",
        args.only
    );
    if let Some(folder) = &args.write {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // In the current folder, because a folder for temporary files may be in memory.
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(".")?;
    let mut report = Report::new(Machine::look(folder.path())?, args.rounds, args.span);
    say(&report.headline())?;

    let needs_stage = titles.iter().any(|title| *title != NUMBER && title.contains(&args.only));
    let mut stages = Vec::new();
    for label in wanted {
        if needs_stage && let Some(stage) = begin(label, &folder.path().join(label), &mut report).await? {
            stages.push(stage);
        }
    }
    let measured = measure(&args, &stages, &mut report).await;
    for stage in stages {
        report.check(stage.system.label(), stage.history.check(&*stage.system).await);
        stage.system.stop().await;
    }
    measured?;
    if NUMBER.contains(&args.only) {
        let labels: Vec<&'static str> = wanted_present(&args.systems, &report)?;
        let sizes = args.sessions.iter().map(|&size| size as usize).chain(args.million.then_some(1_000_000));
        for size in sizes {
            for &label in &labels {
                in_number(label, size, folder.path(), &mut report).await?;
            }
            write(&args, &report)?;
        }
    }
    write(&args, &report)?;
    say(&report.verdicts())?;
    let faults = report.faults();
    ensure!(faults.is_empty(), "not all is well:\n{}", faults.join("\n"));
    Ok(())
}

/// The systems with one of these names or beginnings; all if none is given.
fn wanted(names: &[String]) -> Result<Vec<&'static str>> {
    for name in names {
        let is_known = !name.is_empty() && SYSTEMS.iter().any(|label| label.starts_with(name.as_str()));
        ensure!(is_known, "there is no system {name:?}; there are {}", SYSTEMS.join(", "));
    }
    let is_wanted = |label: &str| names.is_empty() || names.iter().any(|name| label.starts_with(name.as_str()));
    Ok(SYSTEMS.into_iter().filter(|label| is_wanted(label)).collect())
}

/// Those of them whose programs are installed, as far as is known.
fn wanted_present(names: &[String], report: &Report) -> Result<Vec<&'static str>> {
    Ok(wanted(names)?.into_iter().filter(|label| !report.is_missing(label)).collect())
}

/// Starts a system; `None` if something is not installed, which the report says.
async fn begin(label: &'static str, folder: &Path, report: &mut Report) -> Result<Option<Stage>> {
    match system::start(label, folder).await {
        Ok(system) => {
            report.taking.push(Taking::of(&*system));
            Ok(Some(Stage::new(system)))
        }
        Err(error) => match error.downcast::<Missing>() {
            Ok(missing) => {
                say(&format!("{label} is left out: {missing}"))?;
                report.missing.insert(label.to_owned(), missing.to_string());
                Ok(None)
            }
            Err(error) => Err(error.context(format!("{label} did not start"))),
        },
    }
}

async fn measure(args: &Args, stages: &[Stage], report: &mut Report) -> Result<()> {
    let clients: Vec<usize> = args.clients.iter().map(|&count| count as usize).collect();
    for work in WORKS.iter().filter(|work| work.title.contains(&args.only)) {
        for count in work.counts(&clients) {
            let mut row = Row::new(work.title, work.unit, count, work.kind.into());
            let mut cells = cells(stages, work.needs);
            for round in 0..=args.rounds as usize {
                for turn in 0..stages.len() {
                    // Each round begins with another system.
                    let stage = &stages[(turn + round) % stages.len()];
                    let Some(cell) = cells.get_mut(stage.system.label()) else { continue };
                    if !cell.is_open() {
                        continue;
                    }
                    match work::run(work, stage, count, args.span).await {
                        // The first round warms up.
                        Ok(_) if round == 0 => {}
                        Ok(measured) => cell.add(&measured),
                        Err(error) => cell.fail(&error),
                    }
                }
            }
            row.cells = cells;
            say(&row.line())?;
            report.rows.push(row);
            write(args, report)?;
            if work.kind == Kind::FanOut {
                for stage in stages {
                    stage.dismiss().await;
                }
            }
        }
    }
    for (title, needs) in [(KILLED, Ability::KillOwner), (EXPIRED, Ability::Expire)] {
        if !title.contains(&args.only) {
            continue;
        }
        let mut row = Row::new(title, "times", 1, report::Shape::Time);
        row.cells = cells(stages, needs);
        let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for round in 0..args.kills as usize {
            for stage in stages {
                let Some(cell) = row.cells.get_mut(stage.system.label()) else { continue };
                if !cell.is_open() {
                    continue;
                }
                let outcome = match needs {
                    Ability::KillOwner => faults::kill_owner(stage, round).await,
                    _ => faults::expire(stage, round).await,
                };
                match outcome {
                    Ok(time) => times.entry(stage.system.label()).or_default().push(time),
                    Err(error) => cell.fail(&error),
                }
            }
        }
        for (label, times) in times {
            let total = times.iter().sum();
            if let Some(cell) = row.cells.get_mut(label) {
                cell.add(&Measured::of(times, total)?);
            }
        }
        say(&row.line())?;
        report.rows.push(row);
        write(args, report)?;
    }
    Ok(())
}

fn cells(stages: &[Stage], needs: Ability) -> BTreeMap<String, Cell> {
    let cell = |stage: &Stage| match stage.system.lacks(needs) {
        Some(why) => Cell::lacking(why),
        None => Cell::default(),
    };
    stages.iter().map(|stage| (stage.system.label().to_owned(), cell(stage))).collect()
}

async fn in_number(label: &'static str, size: usize, folder: &Path, report: &mut Report) -> Result<()> {
    let folder = folder.join(format!("{label}-{size}"));
    match number::run(label, size, &folder).await {
        Ok(number) => {
            say(&report::number_line(&number))?;
            report.numbers.push(number);
        }
        Err(error) if error.is::<Missing>() => {
            say(&format!("{label} is left out: {error}"))?;
            report.missing.insert(label.to_owned(), error.to_string());
        }
        Err(error) => {
            say(&format!("{label} with {size} sessions: failed: {error:#}"))?;
            report.check(&format!("{label} with {size} sessions"), Err(error));
        }
    }
    // The next system needs the disk.
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

fn write(args: &Args, report: &Report) -> Result<()> {
    let Some(folder) = &args.write else { return Ok(()) };
    let save = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let mut plots = Vec::new();
    for (title, rows) in report.plotted() {
        let (name, picture) = plot::rates(title, &rows)?;
        save(&name, picture)?;
        plots.push((title, name));
    }
    save("results.md", report.markdown(&plots))?;
    save("results.json", serde_json::to_string_pretty(report)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_with_their_unit() {
        assert_eq!(span("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "1", "s", "-1s", "11s", "1ms", "NaNs", "infs"] {
            assert!(span(bad).is_err(), "{bad:?} is read as a span");
        }
    }

    #[test]
    fn systems_are_chosen_by_the_beginning_of_their_names() {
        let chosen = |names: &[&str]| wanted(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(chosen(&["etcd", "redis-1"]).unwrap(), ["etcd-1", "etcd-3", "redis-1"]);
        assert_eq!(chosen(&[]).unwrap().len(), SYSTEMS.len());
        for bad in ["", "consul"] {
            assert!(chosen(&[bad]).unwrap_err().to_string().starts_with("there is no system"));
        }
    }
}
