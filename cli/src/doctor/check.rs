//! A finding, and how findings are shown. Does no I/O.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};

use crate::output::{plain, red};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// A promise of Holdfast does not hold, or a part does not work.
    Problem,
    /// It works, and could be better.
    Warning,
    /// It could not be checked.
    Unchecked,
    /// It is as it should be.
    Ok,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was checked.
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) fix: Option<String>,
}

impl Check {
    /// It is as it should be.
    pub(crate) fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Ok, found: found.into(), fix: None }
    }

    /// A promise does not hold.
    pub(crate) fn problem(name: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Problem, found: found.into(), fix: Some(fix.into()) }
    }

    /// It could be better.
    pub(crate) fn warning(name: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, ..Self::problem(name, found, fix) }
    }

    /// It could not be checked; `how` says how it could be.
    pub(crate) fn unchecked(name: impl Into<String>, found: impl Into<String>, how: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unchecked, ..Self::problem(name, found, how) }
    }
}

/// Whether all parts run one version.
pub(crate) fn versions<'a>(
    coordinators: impl Iterator<Item = &'a str>,
    workers: impl Iterator<Item = &'a str>,
) -> Check {
    let all: BTreeSet<&str> = coordinators.chain(workers).collect();
    let named = || all.iter().copied().collect::<Vec<_>>().join(", ");
    match all.len() {
        0 => Check::unchecked("versions", "no part runs", "start the parts"),
        1 => Check::ok("versions", format!("all parts run {}", named())),
        _ => {
            let fix = "finish the upgrade: restart the parts that run the older version";
            Check::warning("versions", format!("parts run different versions: {}", named()), fix)
        }
    }
}

/// The findings for a program.
pub(crate) fn report(checks: &[Check]) -> Value {
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    json!({
        "problems": count(Verdict::Problem),
        "warnings": count(Verdict::Warning),
        "unchecked": count(Verdict::Unchecked),
        "checks": checks,
    })
}

/// The findings for a person, the worst first.
pub(crate) fn text(checks: &[Check]) -> String {
    let mut sorted: Vec<&Check> = checks.iter().collect();
    sorted.sort_by_key(|check| check.verdict);
    let mut text = String::new();
    for check in &sorted {
        let mark = match check.verdict {
            Verdict::Ok => "ok       ".to_owned(),
            Verdict::Warning => "warning  ".to_owned(),
            Verdict::Unchecked => "unchecked".to_owned(),
            Verdict::Problem => red("PROBLEM  "),
        };
        text.push_str(&format!("{mark}  {:<22} {}\n", check.name, plain(&check.found)));
        if let Some(fix) = &check.fix {
            text.push_str(&format!("{:34} {}\n", "", plain(fix)));
        }
    }
    let count = |verdict| sorted.iter().filter(|check| check.verdict == verdict).count();
    let (problems, warnings) = (count(Verdict::Problem), count(Verdict::Warning));
    text.push_str(&format!("{problems} problems, {warnings} warnings, {} unchecked\n", count(Verdict::Unchecked)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_different_versions_are_a_warning() {
        let verdict = |coordinators: &[&str], workers: &[&str]| {
            versions(coordinators.iter().copied(), workers.iter().copied()).verdict
        };
        assert_eq!(verdict(&["1", "1"], &["1"]), Verdict::Ok);
        assert_eq!(verdict(&["1"], &["2"]), Verdict::Warning);
        assert_eq!(verdict(&[], &[]), Verdict::Unchecked);
    }

    #[test]
    fn the_worst_comes_first_and_says_what_to_do() {
        let text =
            text(&[Check::ok("a", "fine"), Check::warning("b", "so-so", "do b"), Check::problem("c", "bad", "do c")]);
        let places: Vec<usize> = ["bad", "do c", "so-so", "do b", "fine", "1 problems, 1 warnings"]
            .iter()
            .map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}")))
            .collect();
        assert!(places.is_sorted(), "{text}");
    }
}
