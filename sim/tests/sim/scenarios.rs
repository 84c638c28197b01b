//! Each scenario holds on its seeds.

use holdfast_sim::scenario;

/// How many seeds each of them runs.
const SEEDS: u64 = 5;

#[test]
fn every_scenario_holds() {
    let seeds = std::env::var("HOLDFAST_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let wanted = std::env::var("HOLDFAST_SCENARIO").unwrap_or_default();
    for scenario in scenario::ALL.iter().filter(|scenario| scenario.name.contains(&wanted)) {
        let begun = std::time::Instant::now();
        for seed in 1..=seeds {
            scenario.run(seed).unwrap_or_else(|error| panic!("{} on seed {seed}: {error:#}", scenario.name));
        }
        eprintln!("{:>8.1?} {}", begun.elapsed(), scenario.name);
    }
}
