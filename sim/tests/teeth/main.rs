//! Teeth: each rule that is broken on purpose must be seen, and a table says by what: by which rule of the model on
//! which random run, and by which scenario.
//!
//! `cargo test -p holdfast-sim --features mutants --test teeth -- --nocapture`; `HOLDFAST_MUTANT=ReplyBeforeAck` takes
//! one of them, and says what was seen in full. `HOLDFAST_SEEDS=200` gives each more random runs.
//!
//! Invariant: what is seen is seen because of the mutant: a random run that breaks a rule without one does not count.

mod hunt;
mod table;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use holdfast_store::mutant::Mutant;

use hunt::{Row, hunt, random_run};
use table::table;

/// How many random runs a mutant is given.
const SEEDS: u64 = 24;

/// Does `work` for each of `items`, on all cores. The order of what it comes to is not theirs.
fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = work(item);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_mutant_is_caught() {
    let wanted = std::env::var("HOLDFAST_MUTANT").ok();
    let is_wanted = |mutant: &&Mutant| wanted.as_ref().is_none_or(|wanted| *wanted == format!("{mutant:?}"));
    let mutants: Vec<Mutant> = Mutant::ALL.iter().filter(is_wanted).copied().collect();
    assert!(!mutants.is_empty(), "there is no mutant {wanted:?}");
    let count = std::env::var("HOLDFAST_SEEDS").ok().map_or(SEEDS, |count| count.parse().expect("a number"));
    let all: Vec<u64> = (1..=count).collect();
    let mut seeds: Vec<u64> =
        each(&all, |seed| random_run(*seed).is_none().then_some(*seed)).into_iter().flatten().collect();
    seeds.sort_unstable();
    assert!(!seeds.is_empty(), "every random run breaks a rule without a mutant");
    let mut rows: Vec<Row> = each(&mutants, |mutant| hunt(*mutant, &seeds));
    rows.sort_by_key(|row| Mutant::ALL.iter().position(|mutant| *mutant == row.mutant));
    eprintln!("{} of {count} random runs break no rule without a mutant\n{}", seeds.len(), table(&rows));
    if wanted.is_some() {
        rows.iter().for_each(|row| eprintln!("{}", row.in_full()));
    }
    let missed: Vec<Mutant> = rows.iter().filter(|row| !row.is_caught()).map(|row| row.mutant).collect();
    assert!(missed.is_empty(), "nothing saw {missed:?}");
}
