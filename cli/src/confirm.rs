//! Asks before something that cannot be taken back.

use std::io::{self, BufRead, IsTerminal};

use crate::exit::Failure;
use crate::output::note;

/// Whether the command line agreed in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    /// It did: `--yes`.
    Given,
    /// The person at the terminal is asked.
    Ask,
}

impl Consent {
    /// The value of an option `--yes`.
    pub(crate) fn of(is_given: bool) -> Self {
        if is_given { Self::Given } else { Self::Ask }
    }

    /// Whether to go on. `question` is asked on standard error, and only "y" and "yes" agree.
    ///
    /// # Errors
    /// [`Failure::Usage`] when there is no terminal to ask on.
    pub(crate) async fn obtain(self, question: &str) -> Result<bool, Failure> {
        if self == Self::Given {
            return Ok(true);
        }
        if !io::stdin().is_terminal() {
            let message = "nothing was changed: there is no terminal to ask on; give --yes if this is what you want";
            return Err(Failure::Usage(message.to_owned()));
        }
        note(&format!("{question} [y/N]"));
        // Not on this thread, so that Ctrl-C ends the command while it waits.
        let reading = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            io::stdin().lock().read_line(&mut answer).map(|_| answer)
        });
        let answer = reading.await.map_err(io::Error::other).flatten();
        Ok(is_yes(&answer.map_err(|error| Failure::Other(error.into()))?))
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_agrees() {
        assert!(is_yes("y\n") && is_yes(" YES \n"));
        assert!(!is_yes("\n") && !is_yes("no\n") && !is_yes("yep\n"));
    }
}
