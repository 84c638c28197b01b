//! Teeth: each rule that is broken on purpose must be seen, and a table says by what.
//!
//! `cargo test -p holdfast-sim --features mutants --test teeth -- --nocapture`; `HOLDFAST_MUTANT=ReplyBeforeAck` takes
//! one of them, and says what was seen in full.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use holdfast_sim::scenario;
use holdfast_store::mutant::{Mutant, plant};

/// How many seeds a scenario is given.
const SEEDS: u64 = 12;

/// How a mutant was seen.
struct Caught {
    by: &'static str,
    seed: u64,
    runs: usize,
    why: String,
}

/// What became of one mutant.
struct Row {
    mutant: Mutant,
    caught: Option<Caught>,
    took: Duration,
}

fn hunt(mutant: Mutant) -> Row {
    let begun = Instant::now();
    let mut runs = 0;
    let wanted = std::env::var("HOLDFAST_SCENARIO").unwrap_or_default();
    let _planted = plant(mutant);
    let mut try_all = || {
        for seed in 1..=SEEDS {
            for scenario in scenario::ALL.iter().filter(|scenario| scenario.name.contains(&wanted)) {
                runs += 1;
                if let Some(why) = fault(|| scenario.run(seed)) {
                    return Some(Caught { by: scenario.name, seed, runs, why });
                }
            }
        }
        None
    };
    let caught = try_all();
    Row { mutant, caught, took: begun.elapsed() }
}

/// What is wrong, if something is; a panic is.
fn fault(run: impl FnOnce() -> anyhow::Result<()>) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome.err().map(|error| format!("{error:#}")),
        Err(panic) => Some(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".to_owned())),
    }
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![format!("{:<24} {:>4} {:>5} {:>7}  {}", "mutant", "seed", "runs", "time", "caught by")];
    for Row { mutant, caught, took } in rows {
        let name = format!("{mutant:?}");
        let took = format!("{:.1} s", took.as_secs_f64());
        lines.push(match caught {
            Some(Caught { by, seed, runs, .. }) => format!("{name:<24} {seed:>4} {runs:>5} {took:>7}  {by}"),
            None => format!("{name:<24} {:>4} {:>5} {took:>7}  NOTHING: {}", "", "", mutant.what()),
        });
    }
    lines.join("\n")
}

#[test]
fn every_mutant_is_caught() {
    let wanted = std::env::var("HOLDFAST_MUTANT").ok();
    let is_wanted = |mutant: &&Mutant| wanted.as_ref().is_none_or(|wanted| *wanted == format!("{mutant:?}"));
    let mutants: Vec<Mutant> = Mutant::ALL.iter().filter(is_wanted).copied().collect();
    assert!(!mutants.is_empty(), "there is no mutant {wanted:?}");
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = hunt(*mutant);
                    rows.lock().unwrap().push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|row| Mutant::ALL.iter().position(|mutant| *mutant == row.mutant));
    eprintln!("{}", table(&rows));
    for Row { mutant, caught, .. } in rows.iter().filter(|_| wanted.is_some()) {
        eprintln!("{mutant:?}: {}", caught.as_ref().map_or("nothing", |caught| &caught.why));
    }
    let missed: Vec<Mutant> = rows.iter().filter(|row| row.caught.is_none()).map(|row| row.mutant).collect();
    assert!(missed.is_empty(), "nothing saw {missed:?}");
}
