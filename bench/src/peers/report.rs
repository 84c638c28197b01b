//! What was measured, as lines while it runs, as a page and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::history::Verdict;
use super::machine::Machine;
use super::number::Number;
use super::system::System;
use super::work::Kind;
use crate::measure::{Measured, spread};

/// Above this load at the start, other programs had a share of the processors.
const IDLE: f64 = 0.5;

/// What a row is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Shape {
    /// Operations per second, and how long one takes.
    Rate,
    /// The same, and the longest time.
    RateAndLongest,
    /// Only how long one takes.
    Time,
}

impl From<Kind> for Shape {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Contended => Self::RateAndLongest,
            Kind::TakeOver | Kind::FanOut => Self::Time,
            _ => Self::Rate,
        }
    }
}

/// One round of one system.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// One system in one row.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Cell {
    pub(crate) rounds: Vec<Round>,
    /// Why it cannot do this.
    lacks: Option<String>,
    failed: Option<String>,
}

impl Cell {
    pub(crate) fn lacking(why: &str) -> Self {
        Self { lacks: Some(why.to_owned()), ..Self::default() }
    }

    /// Whether more rounds are to be measured.
    pub(crate) fn is_open(&self) -> bool {
        self.lacks.is_none() && self.failed.is_none()
    }

    pub(crate) fn add(&mut self, measured: &Measured) {
        let ms = |share| measured.quantile(share).as_secs_f64() * 1e3;
        self.rounds.push(Round { rate: measured.rate, p50_ms: ms(0.5), p99_ms: ms(0.99), max_ms: ms(1.0) });
    }

    pub(crate) fn fail(&mut self, error: &anyhow::Error) {
        self.failed = Some(format!("{error:#}"));
    }

    fn median(&self, value: impl Fn(&Round) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.rounds.iter().map(value).collect();
        (!values.is_empty()).then(|| spread(values).1)
    }

    pub(crate) fn rate(&self) -> Option<f64> {
        self.median(|round| round.rate)
    }

    /// The median of the rounds' ratios of rates.
    fn ratio(&self, raw: &Self) -> Option<f64> {
        let ratios: Vec<f64> = self.rounds.iter().zip(&raw.rounds).map(|(ours, raw)| ours.rate / raw.rate).collect();
        (!ratios.is_empty()).then(|| spread(ratios).1)
    }

    fn text(&self, shape: Shape, ratio: Option<f64>) -> String {
        if self.failed.is_some() {
            return "failed".to_owned();
        }
        let medians = (self.rate(), self.median(|round| round.p50_ms), self.median(|round| round.p99_ms));
        let (Some(rate), Some(p50), Some(p99)) = medians else { return "–".to_owned() };
        let longest = self.rounds.iter().map(|round| round.max_ms).fold(0.0, f64::max);
        let ratio = ratio.map(|ratio| format!(" ({ratio:.2})")).unwrap_or_default();
        match shape {
            Shape::Rate => format!("{}{ratio}; {} / {} ms", whole(rate), short(p50), short(p99)),
            Shape::RateAndLongest => {
                format!("{}{ratio}; {} / {} ms, longest {} ms", whole(rate), short(p50), short(p99), short(longest))
            }
            Shape::Time => format!("{} / {} ms", short(p50), short(p99)),
        }
    }
}

/// One work item with one number of clients.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) title: &'static str,
    unit: &'static str,
    pub(crate) clients: usize,
    shape: Shape,
    pub(crate) cells: BTreeMap<String, Cell>,
}

impl Row {
    pub(crate) fn new(title: &'static str, unit: &'static str, clients: usize, shape: Shape) -> Self {
        Self { title, unit, clients, shape, cells: BTreeMap::new() }
    }

    /// The raw JetStream on as many servers.
    fn raw_of(&self, label: &str) -> Option<&Cell> {
        let (name, servers) = label.rsplit_once('-')?;
        if name == "jetstream" {
            return None;
        }
        self.cells.get(&format!("jetstream-{servers}"))
    }

    fn text(&self, label: &str) -> String {
        let Some(cell) = self.cells.get(label) else { return "–".to_owned() };
        let ratio = self.raw_of(label).and_then(|raw| cell.ratio(raw));
        cell.text(self.shape, ratio)
    }

    /// For the terminal.
    pub(crate) fn line(&self) -> String {
        let mut text = format!("{}, {}", self.title, self.clients);
        for (label, cell) in &self.cells {
            let why = cell.failed.as_deref().or(cell.lacks.as_deref()).unwrap_or_default();
            let _ = write!(text, "\n  {label:<12} {}", format!("{} {why}", self.text(label)).trim_end());
        }
        text
    }
}

/// A system that took part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Taking {
    pub(crate) label: &'static str,
    version: String,
    settings: &'static str,
}

impl Taking {
    pub(crate) fn of(system: &dyn System) -> Self {
        Self { label: system.label(), version: system.version().to_owned(), settings: system.settings() }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rounds: u32,
    span_s: f64,
    pub(crate) taking: Vec<Taking>,
    /// Systems that were asked for, and what was not installed.
    pub(crate) missing: BTreeMap<String, String>,
    pub(crate) rows: Vec<Row>,
    pub(crate) numbers: Vec<Number>,
    histories: BTreeMap<String, Verdict>,
}

impl Report {
    pub(crate) fn new(machine: Machine, rounds: u32, span: Duration) -> Self {
        Self {
            machine,
            rounds,
            span_s: span.as_secs_f64(),
            taking: Vec::new(),
            missing: BTreeMap::new(),
            rows: Vec::new(),
            numbers: Vec::new(),
            histories: BTreeMap::new(),
        }
    }

    pub(crate) fn is_missing(&self, label: &str) -> bool {
        self.missing.contains_key(label)
    }

    /// Keeps the outcome of a history's check.
    pub(crate) fn check(&mut self, label: &str, verdict: Result<Verdict>) {
        let failed = |error| Verdict { faults: vec![format!("could not be checked: {error:#}")], ..Verdict::default() };
        self.histories.insert(label.to_owned(), verdict.unwrap_or_else(failed));
    }

    /// Everything that is wrong: failed measurements and what the histories show.
    pub(crate) fn faults(&self) -> Vec<String> {
        let failed = self.rows.iter().flat_map(|row| {
            let failed = row.cells.iter().filter_map(|(label, cell)| Some((label, cell.failed.as_ref()?)));
            failed.map(move |(label, why)| format!("{label}: {}, {}: {why}", row.title, row.clients))
        });
        let seen = self
            .histories
            .iter()
            .flat_map(|(label, verdict)| verdict.faults.iter().map(move |fault| format!("{label}: history: {fault}")));
        failed.chain(seen).collect()
    }

    pub(crate) fn headline(&self) -> String {
        let machine = &self.machine;
        format!(
            "{}, {} cores, {} MiB, Linux {}, {}; write + fdatasync p50 {:.2} ms, p99 {:.2} ms; load {} at the start\n{} \
             rounds of {} s a system; rate (ratio to raw JetStream); p50 / p99",
            machine.cpu,
            machine.cores,
            machine.memory_mib,
            machine.kernel,
            machine.file_system,
            machine.flush_p50_ms,
            machine.flush_p99_ms,
            machine.load,
            self.rounds,
            self.span_s,
        )
    }

    /// What the histories say, for the terminal.
    pub(crate) fn verdicts(&self) -> String {
        let line = |(label, verdict): (&String, &Verdict)| {
            let Verdict { grants, edits, faults } = verdict;
            format!("{label}: history of {grants} grants and {edits} edits: {} faults", faults.len())
        };
        self.histories.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The work items that have rates for several numbers of clients.
    pub(crate) fn plotted(&self) -> Vec<(&'static str, Vec<&Row>)> {
        let rated = self.tables().into_iter().filter(|(_, rows)| rows.len() > 1);
        rated.filter(|(_, rows)| rows.iter().all(|row| row.shape != Shape::Time)).collect()
    }

    /// The rows of each work item, in the order in which they were measured.
    fn tables(&self) -> Vec<(&'static str, Vec<&Row>)> {
        let mut tables: Vec<(&'static str, Vec<&Row>)> = Vec::new();
        for row in &self.rows {
            match tables.iter_mut().find(|(title, _)| *title == row.title) {
                Some((_, rows)) => rows.push(row),
                None => tables.push((row.title, vec![row])),
            }
        }
        tables
    }

    /// The page, with the plots of these names.
    pub(crate) fn markdown(&self, plots: &[(&str, String)]) -> String {
        let mut page =
            "# Results\n\nWritten by `holdfast-bench peers --write`; do not edit. [README.md](README.md) says \
                        what is measured and how to read it.\n\n"
                .to_owned();
        if self.machine.load.parse().is_ok_and(|load: f64| load > IDLE) {
            let _ = writeln!(page, "**Preliminary:** other programs used this machine (load {}).\n", self.machine.load);
        }
        self.machine_table(&mut page);
        self.systems_table(&mut page);
        for (title, rows) in self.tables() {
            work_table(&mut page, title, &rows);
            if let Some((_, name)) = plots.iter().find(|(of, _)| *of == title) {
                let _ = writeln!(page, "![{title}]({name})\n");
            }
        }
        self.number_table(&mut page);
        self.history_table(&mut page);
        page.trim_end().to_owned() + "\n"
    }

    fn machine_table(&self, page: &mut String) {
        let machine = &self.machine;
        let lines = [
            ("processor", format!("{}, {} cores", machine.cpu, machine.cores)),
            ("memory", format!("{} MiB", machine.memory_mib)),
            ("kernel, file system", format!("Linux {}, {}", machine.kernel, machine.file_system)),
            (
                "write of 700 bytes + `fdatasync`",
                format!("p50 {:.2} ms, p99 {:.2} ms", machine.flush_p50_ms, machine.flush_p99_ms),
            ),
            ("load at the start", machine.load.clone()),
            ("rounds", format!("{} of {} s a system, after one that warms up", self.rounds, self.span_s)),
        ];
        let _ = writeln!(page, "| machine | |\n|---|---|");
        for (name, value) in lines {
            let _ = writeln!(page, "| {name} | {value} |");
        }
        page.push('\n');
    }

    fn systems_table(&self, page: &mut String) {
        let _ = writeln!(page, "| system | version | settings |\n|---|---|---|");
        for taking in &self.taking {
            let _ = writeln!(page, "| {} | {} | {} |", taking.label, taking.version, taking.settings);
        }
        for (label, why) in &self.missing {
            let _ = writeln!(page, "| {label} | not measured | {why} |");
        }
        page.push('\n');
    }

    fn number_table(&self, page: &mut String) {
        if self.numbers.is_empty() {
            return;
        }
        let _ = writeln!(
            page,
            "## sessions in number\n\nMedians of one client in ms; opens per second of 64 clients; memory is resident.\n\n\
             | system | sessions | opens/s | open | lock | edit | page of 10 | restart | memory by process |\n\
             |---|---|---|---|---|---|---|---|---|"
        );
        for number in &self.numbers {
            let memory: Vec<String> =
                number.memory.iter().map(|(name, bytes)| format!("{name} {}", mib(*bytes))).collect();
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} | {} | {:.1} s | {} |",
                number.system,
                whole(number.sessions as f64),
                whole(number.open_rate),
                short(number.open_p50_ms),
                short(number.lock_p50_ms),
                short(number.edit_p50_ms),
                number.list_p50_ms.map_or_else(|| "–".to_owned(), short),
                number.restart_s,
                memory.join(", "),
            );
        }
        page.push('\n');
    }

    fn history_table(&self, page: &mut String) {
        if self.histories.is_empty() {
            return;
        }
        let _ = writeln!(
            page,
            "## The driver's history\n\nNo two holders of a key at once; fences only grow; a former holder's edit is \
             refused; each acknowledged edit is there at the end.\n\n| system | grants | edits | faults |\n|---|---|---|---|"
        );
        for (label, Verdict { grants, edits, faults }) in &self.histories {
            let faults = if faults.is_empty() { "none".to_owned() } else { faults.join("; ") };
            let _ = writeln!(page, "| {label} | {} | {} | {faults} |", whole(*grants as f64), whole(*edits as f64));
        }
        page.push('\n');
    }
}

fn work_table(page: &mut String, title: &str, rows: &[&Row]) {
    let Some(first) = rows.first() else { return };
    let _ = writeln!(page, "## {title}\n");
    let _ = writeln!(
        page,
        "{}\n",
        match first.shape {
            Shape::Rate => format!("{} per second (ratio to raw JetStream); p50 / p99.", first.unit),
            Shape::RateAndLongest => format!(
                "{} per second (ratio to raw JetStream); waiting for the lock p50 / p99, and the longest wait.",
                first.unit
            ),
            Shape::Time => "p50 / p99.".to_owned(),
        }
    );
    let who = if title.starts_with("signal") { "subscribers" } else { "clients" };
    let heads: Vec<String> = rows.iter().map(|row| format!("{} {who}", row.clients)).collect();
    let _ = writeln!(page, "| system | {} |\n|---|{}", heads.join(" | "), "---|".repeat(rows.len()));
    let labels: BTreeSet<&String> = rows.iter().flat_map(|row| row.cells.keys()).collect();
    let mut notes = BTreeSet::new();
    for label in labels {
        let cells: Vec<String> = rows.iter().map(|row| row.text(label)).collect();
        let _ = writeln!(page, "| {label} | {} |", cells.join(" | "));
        for cell in rows.iter().filter_map(|row| row.cells.get(label)) {
            if let Some(why) = cell.failed.as_ref().or(cell.lacks.as_ref()) {
                notes.insert(format!("{label}: {why}"));
            }
        }
    }
    page.push('\n');
    for note in &notes {
        let _ = writeln!(page, "- {note}");
    }
    if !notes.is_empty() {
        page.push('\n');
    }
}

/// For the terminal.
pub(crate) fn number_line(number: &Number) -> String {
    let memory: Vec<String> = number.memory.iter().map(|(name, bytes)| format!("{name} {}", mib(*bytes))).collect();
    format!(
        "{} with {} sessions: {} opens/s; open {} ms, lock {} ms, edit {} ms, page {} ms; restart {:.1} s; {}",
        number.system,
        whole(number.sessions as f64),
        whole(number.open_rate),
        short(number.open_p50_ms),
        short(number.lock_p50_ms),
        short(number.edit_p50_ms),
        number.list_p50_ms.map_or_else(|| "–".to_owned(), short),
        number.restart_s,
        memory.join(", "),
    )
}

/// A whole number with separators.
fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with two or three digits that count.
fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => whole(value),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", whole(bytes as f64 / 1024.0 / 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rate: f64) -> Measured {
        Measured { rate, times: vec![Duration::from_millis(2)] }
    }

    fn row() -> Row {
        let mut row = Row::new("a work", "edits", 8, Shape::Rate);
        let mut add = |label: &str, rates: &[f64]| {
            let mut cell = Cell::default();
            rates.iter().for_each(|&rate| cell.add(&measured(rate)));
            row.cells.insert(label.to_owned(), cell);
        };
        add("holdfast-3", &[500.0, 900.0, 800.0]);
        add("jetstream-3", &[1000.0, 1000.0, 2000.0]);
        row.cells.insert("redis-1".to_owned(), Cell::lacking("has none"));
        row
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_ratios() {
        assert_eq!(row().text("holdfast-3"), "800 (0.50); 2.00 / 2.00 ms");
        assert_eq!(row().text("jetstream-3"), "1,000; 2.00 / 2.00 ms");
        assert_eq!(row().text("redis-1"), "–");
    }

    #[test]
    fn a_failed_measurement_is_a_fault_and_a_missing_ability_is_none() {
        let machine = Machine {
            cpu: "c".to_owned(),
            cores: 2,
            memory_mib: 1,
            kernel: "6".to_owned(),
            file_system: "ext4".to_owned(),
            flush_p50_ms: 1.0,
            flush_p99_ms: 2.0,
            load: "1.5".to_owned(),
        };
        let mut report = Report::new(machine, 3, Duration::from_secs(1));
        report.rows.push(row());
        assert_eq!(report.faults(), Vec::<String>::new());
        let page = report.markdown(&[]);
        assert!(page.contains("**Preliminary:**") && page.contains("- redis-1: has none"), "{page}");

        let cell = report.rows[0].cells.get_mut("holdfast-3").unwrap();
        cell.fail(&anyhow::anyhow!("no answer"));
        report.check("etcd-1", Ok(Verdict { faults: vec!["two holders".to_owned()], ..Verdict::default() }));
        assert_eq!(report.faults(), ["holdfast-3: a work, 8: no answer", "etcd-1: history: two holders"]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([whole(1234567.0), whole(999.6), whole(12.0)], ["1,234,567", "1,000", "12"]);
        assert_eq!([short(1234.5), short(12.34), short(0.126)], ["1,234", "12.3", "0.13"]);
    }
}
