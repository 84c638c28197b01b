//! What must hold of each run, whatever happened. Each rule is a file of its own.
//!
//! Invariant: a rule judges only what clients saw and what was written, so that it holds of any build of Holdfast.

use std::fmt;

use crate::run::Run;

mod edits;
mod fold;

/// A rule that a run broke.
#[derive(Clone, Debug)]
pub struct Broken {
    /// The rule.
    pub rule: &'static str,
    /// How.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.how)
    }
}

/// What a rule comes to.
pub type Verdict = Result<(), Broken>;

/// A rule and its name.
pub type Rule = (&'static str, fn(&Run) -> Result<(), String>);

/// All rules.
pub const RULES: &[Rule] = &[("edits once and in order", edits::once_and_in_order)];

/// Holds a run against all rules.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(run: &Run) -> Verdict {
    for (rule, holds) in RULES {
        holds(run).map_err(|how| Broken { rule, how })?;
    }
    Ok(())
}
