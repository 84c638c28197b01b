//! Standard output: a table for people, and the unchanged reply for programs.
//!
//! Invariant: a closed output is an error value, never a panic; so nothing here uses `println!`.

use std::io::{self, IsTerminal, Write};

/// The reader of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A person.
    People,
    /// A program.
    Json,
}

/// Writes one line.
///
/// # Errors
/// The error of the operating system; `BrokenPipe` when the reader closed the pipe.
pub(crate) fn line(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes text that has its own line ends.
///
/// # Errors
/// As [`line()`].
pub(crate) fn text(text: &str) -> io::Result<()> {
    bytes(text.as_bytes())
}

/// Writes bytes as they are.
///
/// # Errors
/// As [`line()`].
pub(crate) fn bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes a note for a person on standard error.
pub(crate) fn note(text: &str) {
    if let Err(error) = writeln!(io::stderr().lock(), "{text}") {
        tracing::debug!(%error, "nobody reads standard error");
    }
}

/// `text` in red, if standard output is a terminal that wants colours.
pub(crate) fn red(text: &str) -> String {
    let wants_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if io::stdout().is_terminal() && wants_colours { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
}

/// `text` without control characters: names and reasons come from others, and a terminal executes control sequences.
pub(crate) fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(plain("ann\u{1b}[2J\n\u{9b}x é"), "ann\\u{1b}[2J\\n\\u{9b}x é");
    }
}
