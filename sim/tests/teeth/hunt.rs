//! Looking for what sees one mutant.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use holdfast_sim::model::check;
use holdfast_sim::run::run;
use holdfast_sim::scenario;
use holdfast_sim::tell::tell;
use holdfast_store::mutant::{Mutant, plant};

/// How many seeds a scenario is given.
const SEEDS: u64 = 30;

/// What saw a mutant.
pub(crate) struct Caught {
    /// A rule of the model, or a scenario.
    pub(crate) by: String,
    pub(crate) seed: u64,
    /// How many runs it took, this one included.
    pub(crate) runs: usize,
    pub(crate) how: String,
}

/// What became of one mutant.
pub(crate) struct Row {
    pub(crate) mutant: Mutant,
    pub(crate) by_model: Option<Caught>,
    pub(crate) by_scenario: Option<Caught>,
    pub(crate) took: Duration,
}

impl Row {
    pub(crate) fn is_caught(&self) -> bool {
        self.by_model.is_some() || self.by_scenario.is_some()
    }

    pub(crate) fn in_full(&self) -> String {
        let told = |caught: &Option<Caught>| {
            caught.as_ref().map_or_else(|| "nothing".to_owned(), |caught| format!("{}: {}", caught.by, caught.how))
        };
        format!("{:?}\nthe model: {}\na scenario: {}", self.mutant, told(&self.by_model), told(&self.by_scenario))
    }
}

/// A rule, and how it was broken.
type Fault = (String, String);

/// Whether histories are wanted.
fn is_told() -> bool {
    std::env::var_os("HOLDFAST_TELL").is_some()
}

/// The rule of the model that the random run of `seed` breaks.
pub(crate) fn random_run(seed: u64) -> Option<Fault> {
    let judged = || match run(seed) {
        Ok(run) => check(&run).err().map(|broken| {
            if is_told() {
                eprintln!("{}", tell(&run));
            }
            (broken.rule.to_owned(), broken.how)
        }),
        Err(error) => Some(("a run comes to its end".to_owned(), format!("{error:#}"))),
    };
    catch_unwind(AssertUnwindSafe(judged)).unwrap_or_else(|panic| Some(("nothing panics".to_owned(), said(&*panic))))
}

fn scenario(scenario: &scenario::Scenario, seed: u64) -> Option<Fault> {
    let how = match catch_unwind(AssertUnwindSafe(|| scenario.run(seed))) {
        Ok(outcome) => format!("{:#}", outcome.err()?),
        Err(panic) => said(&*panic),
    };
    Some((scenario.name.to_owned(), how))
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".to_owned())
}

/// The first of `runs` that sees something.
fn first(runs: impl Iterator<Item = (u64, Option<Fault>)>) -> Option<Caught> {
    runs.zip(1..).find_map(|((seed, fault), runs)| fault.map(|(by, how)| Caught { by, seed, runs, how }))
}

/// Plants `mutant`, and has scenarios and the random runs of `seeds` look for it.
pub(crate) fn hunt(mutant: Mutant, seeds: &[u64]) -> Row {
    let begun = Instant::now();
    let _planted = plant(mutant);
    let by_model = first(seeds.iter().map(|seed| (*seed, random_run(*seed))));
    let scenarios = (1..=SEEDS).flat_map(|seed| scenario::ALL.iter().map(move |one| (seed, one)));
    let by_scenario = first(scenarios.map(|(seed, one)| (seed, scenario(one, seed))));
    Row { mutant, by_model, by_scenario, took: begun.elapsed() }
}
