//! Canonical paths of files within a workspace, and the session ids that are derived from them.
//!
//! Invariant: equivalent spellings have one canonical form, on every node; canonicalising twice changes nothing.
//! Deliberately absent: the file system. Only a worker can see symbolic links.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::error::{Error, Reason};
use crate::id::{SessionId, WorkspaceName};

/// The prefix of the temporary files that workers write beside a document's file. No session may have such a file.
pub const TEMPORARY_PREFIX: &str = ".holdfast-";

/// How many hex digits of blake3 a file's session id has.
const ID_DIGITS: usize = 20;

/// A path relative to its workspace's root: no `.`, `..`, empty part or trailing slash; Unicode NFC.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct CanonicalPath(Box<str>);

impl CanonicalPath {
    /// Canonicalises `path`, which may have at most `max_chars` characters.
    ///
    /// # Errors
    /// `invalid_path` when it is empty, too long, has control characters, names the root itself or a file of Holdfast's
    /// own; `path_escape` when it is absolute or leaves the workspace.
    pub fn parse(path: &str, max_chars: usize) -> Result<Self, Error> {
        let invalid = |why: &str| Error::invalid(Reason::InvalidPath, format!("path {why}"));
        if path.is_empty() || path.chars().count() > max_chars {
            return Err(invalid(&format!("must have 1 to {max_chars} characters")));
        }
        if path.chars().any(char::is_control) {
            return Err(invalid("has control characters"));
        }
        if path.starts_with('/') {
            return Err(Error::invalid(Reason::PathEscape, "path is absolute; it must be relative to its workspace"));
        }
        let mut parts: Vec<String> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(|| Error::invalid(Reason::PathEscape, "path leaves its workspace"))?;
                }
                name => parts.push(name.nfc().collect()),
            }
        }
        if parts.is_empty() {
            return Err(invalid("names the workspace itself, not a file in it"));
        }
        if parts.last().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX)) {
            return Err(invalid(&format!("names a file of Holdfast's own: none may begin with {TEMPORARY_PREFIX}")));
        }
        let canonical = parts.join("/");
        if canonical.chars().count() > max_chars {
            return Err(invalid(&format!("must have 1 to {max_chars} characters")));
        }
        Ok(Self(canonical.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The session of this file in `workspace`: `file-` and 20 hex digits of blake3 over `<workspace> NUL <path>`.
    pub fn session_id(&self, workspace: &WorkspaceName) -> SessionId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(workspace.as_str().as_bytes()).update(&[0]).update(self.0.as_bytes());
        let digits = hasher.finalize().to_hex();
        SessionId::parse(&format!("file-{}", &digits[..ID_DIGITS])).expect("hex digits are within the alphabet of ids")
    }
}

impl SessionId {
    /// Whether it has the form of an id that is derived from a path.
    pub fn is_of_a_file(&self) -> bool {
        let is_digit = |char: char| matches!(char, '0'..='9' | 'a'..='f');
        self.as_str()
            .strip_prefix("file-")
            .is_some_and(|digits| digits.len() == ID_DIGITS && digits.chars().all(is_digit))
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CanonicalPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let canonical = Self::parse(&text, usize::MAX).map_err(|error| serde::de::Error::custom(error.message))?;
        if canonical.as_str() != text {
            return Err(serde::de::Error::custom(format!("path {text:?} is not canonical, {canonical:?} would be")));
        }
        Ok(canonical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(path: &str) -> Result<String, Reason> {
        CanonicalPath::parse(path, 1024).map(|path| path.to_string()).map_err(|error| error.reason)
    }

    #[test]
    fn equivalent_spellings_are_one_path() {
        for path in ["a/b.md", "./a//b.md", "x/../a/b.md", "a/b.md/", "a/./b.md"] {
            assert_eq!(canonical(path), Ok("a/b.md".to_owned()), "{path}");
        }
        assert_eq!(canonical("cafe\u{301}.md"), canonical("caf\u{e9}.md"));
        assert_ne!(canonical("CAF\u{c9}.md"), canonical("caf\u{e9}.md"), "upper and lower case are two");
    }

    #[test]
    fn paths_that_leave_the_workspace_are_refused() {
        for path in ["/etc/passwd", "..", "a/../..", "../a", "a/../../b", "//a"] {
            assert_eq!(canonical(path), Err(Reason::PathEscape), "{path}");
        }
        for path in ["", ".", "a/..", "a\0b", "a\nb"] {
            assert_eq!(canonical(path), Err(Reason::InvalidPath), "{path:?}");
        }
    }

    #[test]
    fn the_id_of_a_file_is_the_contracts() {
        let workspace = WorkspaceName::parse("main").unwrap();
        let id = CanonicalPath::parse("notes/plan.md", 1024).unwrap().session_id(&workspace);
        let whole = blake3::hash(b"main\0notes/plan.md").to_hex();
        assert_eq!(id.as_str(), format!("file-{}", &whole[..20]));
        assert!(id.is_of_a_file());
        for other in ["file-", "file-1", "file-0123456789abcdef012g", "file-0123456789abcdef01234", "s1"] {
            assert!(!SessionId::parse(other).unwrap().is_of_a_file(), "{other}");
        }
    }
}
