//! The table of what saw what.

use super::hunt::{Caught, Row};

/// One line for each mutant.
pub(crate) fn table(rows: &[Row]) -> String {
    let head = format!("{:<24} {:>4} {:>4}  {:<66} seed and scenario", "mutant", "seed", "runs", "rule of the model");
    let lines = rows.iter().map(|Row { mutant, by_model, by_scenario, took }| {
        let (name, took) = (format!("{mutant:?}"), took.as_secs_f64());
        let model = match by_model {
            Some(Caught { by, seed, runs, .. }) => format!("{seed:>4} {runs:>4}  {by:<66}"),
            None => format!("{:>4} {:>4}  {:<66}", "-", "-", "-"),
        };
        let scenario = by_scenario.as_ref().map_or("-".to_owned(), |Caught { by, seed, .. }| format!("{seed} {by}"));
        let missed = if by_model.is_none() && by_scenario.is_none() { mutant.what() } else { "" };
        format!("{name:<24} {model} {scenario} ({took:.1} s) {missed}").trim_end().to_owned()
    });
    std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
}
