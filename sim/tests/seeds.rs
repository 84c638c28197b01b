//! Random runs of whole fleets, each of them held against the model.
//!
//! `HOLDFAST_SEED=17` replays one run and prints its history; `HOLDFAST_SEEDS=5000` runs more of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_sim::model::check;
use holdfast_sim::run::run;
use holdfast_sim::tell::tell;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// What is wrong with the run of `seed`.
fn judge(seed: u64) -> Result<(), String> {
    let ended = std::panic::catch_unwind(|| run(seed).map_err(|error| format!("the run ended early: {error:#}")));
    let run = ended.unwrap_or_else(|_| Err("the run panicked".to_owned()))?;
    check(&run).map_err(|broken| broken.to_string())
}

#[test]
#[allow(clippy::print_stdout, reason = "a history is for a person who asked for it")]
fn a_fleet_keeps_its_promises_on_every_seed() {
    if let Some(seed) = number("HOLDFAST_SEED") {
        let run = run(seed).unwrap();
        println!("{}", tell(&run));
        check(&run).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        return;
    }
    let (first, count) = (number("HOLDFAST_FIRST_SEED").unwrap_or(1), number("HOLDFAST_SEEDS").unwrap_or(200));
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    if let Err(how) = judge(seed) {
                        eprintln!("seed {seed}: {how}");
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    assert!(
        failed.is_empty(),
        "{} of {count} seeds failed; HOLDFAST_SEED={} cargo test -p holdfast-sim --test seeds -- --nocapture \
         replays the first: {failed:?}",
        failed.len(),
        failed[0],
    );
}

#[test]
fn a_seed_tells_the_same_history_each_time() {
    for seed in 1..=5 {
        let (one, other) = (tell(&run(seed).unwrap()), tell(&run(seed).unwrap()));
        let differs = one.lines().zip(other.lines()).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one.lines().count(), other.lines().count(), "seed {seed}");
    }
    assert_ne!(tell(&run(1).unwrap()), tell(&run(2).unwrap()));
}
