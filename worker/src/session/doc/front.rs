//! Front matter under the contract: its limits, and its refusals as the contract's errors.

use holdfast_frontmatter as frontmatter;
use holdfast_protocol::error::Reason;
use holdfast_protocol::{Error, Limits};
use serde_json::{Map, Value};

fn bounds(limits: &Limits) -> frontmatter::Limits {
    frontmatter::Limits { bytes: limits.fields_bytes, levels: limits.fields_levels }
}

/// How many bytes of text a front matter may have.
pub(super) fn text_bytes(limits: &Limits) -> usize {
    bounds(limits).text_bytes()
}

/// The fields of a front matter.
///
/// # Errors
/// `bad_frontmatter` with line and column in the file; `fields_too_large`.
pub(super) fn read(front: &str, limits: &Limits) -> Result<Map<String, Value>, Error> {
    frontmatter::read(front, &bounds(limits)).map_err(|error| refusal(&error))
}

/// A front matter with exactly `fields`, before `body`.
///
/// # Errors
/// `bad_frontmatter` for what its language cannot say, as TOML cannot say null; `fields_too_large`.
pub(super) fn rewrite(front: &str, fields: &Map<String, Value>, body: &str, limits: &Limits) -> Result<String, Error> {
    frontmatter::rewrite(front, fields, body, &bounds(limits)).map_err(|error| refusal(&error))
}

fn refusal(error: &frontmatter::Error) -> Error {
    let (reason, at) = match error {
        frontmatter::Error::Bad { at, .. } => (Reason::BadFrontmatter, at),
        frontmatter::Error::TooLarge { at, .. } => (Reason::FieldsTooLarge, at),
        frontmatter::Error::TooLong { limit, .. } => {
            return Error::new(Reason::FieldsTooLarge, error.to_string()).detail("limit", *limit);
        }
    };
    Error::new(reason, error.to_string()).detail("line", at.line).detail("column", at.column)
}
