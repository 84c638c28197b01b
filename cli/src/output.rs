//! Standard output: a table for people, and for programs the reply as it came.
//!
//! Invariant: a reader that goes away is an error value, never a panic; so nothing here uses `println!`.

use std::io::{self, Write};

/// Who reads.
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
/// What the operating system says, `BrokenPipe` for a reader that went away.
pub(crate) fn line(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes text that ends its own lines.
///
/// # Errors
/// As [`line()`].
pub(crate) fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Tells a person how things stand, beside the output: on standard error.
pub(crate) fn note(text: &str) {
    if let Err(error) = writeln!(io::stderr().lock(), "{text}") {
        tracing::debug!(%error, "nobody reads standard error");
    }
}

/// `text` without control characters: names and reasons come from others, and a terminal obeys what it is shown.
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
