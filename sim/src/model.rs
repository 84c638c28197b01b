//! What must hold of each run, whatever happened. Each rule is a file of its own.
//!
//! Invariant: a rule judges only what clients saw and what was written, so that it holds of any build of Holdfast.

use std::fmt;

use crate::run::Run;

mod acts;
mod answers;
mod closing;
mod copies;
mod edits;
mod facts;
mod fold;
mod leases;
mod locks;
mod reads;
mod refusals;
mod signals;
mod waiters;

use facts::Facts;

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

/// Says how a run breaks a rule, if it does.
type Rule = fn(&Facts<'_>) -> Result<(), String>;

/// The rule that the log itself keeps, before any other is looked at.
const LOG: &str = "each frame is by the owner, with tokens that are good, and in order";

/// All other rules, by name.
const RULES: &[(&str, Rule)] = &[
    ("acknowledged edits are there once and in order", edits::once_and_in_order),
    ("late copies have no second effect", copies::no_second_effect),
    ("copies are answered as the first one was", copies::same_answer),
    ("one holder at a time", locks::one_holder),
    ("a token proves one grant", locks::one_grant_a_token),
    ("grants only to who is there", waiters::only_to_who_is_there),
    ("who waits keeps its place", waiters::keeps_its_place),
    ("a lease is as long as asked", leases::as_long_as_asked),
    ("nothing closes but close and idleness", closing::only_close_and_idleness),
    ("every commit is announced, in order", signals::announced_in_order),
    ("HF_SIGNALS is complete", signals::kept),
    ("acts of operators are kept once", acts::kept_once),
    ("reads are current", reads::current),
    ("a coordinator never goes back", reads::never_back),
    ("refusals are true", refusals::true_ones),
    ("every request is answered", answers::all),
    ("in the end all works", answers::at_the_end),
];

/// The names of all rules.
pub fn rules() -> impl Iterator<Item = &'static str> {
    std::iter::once(LOG).chain(RULES.iter().map(|(rule, _)| *rule))
}

/// Holds a run against all rules.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(run: &Run) -> Result<(), Broken> {
    let facts = Facts::of(run).map_err(|how| Broken { rule: LOG, how })?;
    for (rule, holds) in RULES {
        holds(&facts).map_err(|how| Broken { rule, how })?;
    }
    Ok(())
}
