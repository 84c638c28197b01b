//! The file of a document, beneath the folder of its workspace.
//!
//! Invariant: nothing outside of the folder is read or written, whatever links are in it. A save is atomic. Without
//! `overwrite` it replaces only what the session knows and may write.
//! Deliberately absent: detection of hard links and of file systems that ignore case. There two paths can be two
//! sessions of one file, and the second save is `disk_diverged`.

mod attributes;
mod beneath;
mod failpoint;
pub mod save;
mod temporary;
#[cfg(test)]
mod tests;
mod watch;
mod workspace;

use serde::{Deserialize, Serialize};

pub use beneath::{Real, is_linked, real_path};
#[cfg(feature = "failpoints")]
pub use failpoint::STEPS;
pub use save::{Order, Placed, Prepared, Protected, Save};
pub use watch::{Watch, Watched};
pub use workspace::{Mount, Workspace, is_displaced};

/// Facts of a file when the session last read or wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// blake3, hex.
    pub digest: String,
    /// Size.
    pub bytes: u64,
    /// Its modification time then, by the clock of its file system. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<String>,
}

impl Baseline {
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: blake3::hash(bytes).to_hex().to_string(), bytes: bytes.len() as u64, mtime: None }
    }
}

/// A regular file that was found.
#[derive(Clone, Debug)]
pub struct Seen {
    /// blake3, hex; `None`: the file is larger than a document's file may be.
    pub digest: Option<String>,
    pub bytes: u64,
    pub mtime: Option<String>,
    /// Who owns it.
    pub uid: u32,
}

/// What was found at the file's path.
#[derive(Clone, Debug)]
pub enum Found {
    Nothing,
    File(Seen),
    /// A symbolic link, at the path itself or in place of one of its folders. The session never writes one.
    Link,
    /// A folder, a pipe, a device.
    Irregular,
    /// A file that this worker may not read.
    Unreadable,
}

impl Found {
    pub fn digest(&self) -> Option<&str> {
        match self {
            Self::File(seen) => seen.digest.as_deref(),
            Self::Nothing | Self::Link | Self::Irregular | Self::Unreadable => None,
        }
    }
}

/// What a save may replace.
pub enum Over {
    Anything,
    /// Only what the session knows.
    Known(Known),
}

/// What a session knows of its file.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Digest of what was last read or written; `None`: there was none.
    pub baseline: Option<String>,
    /// Digests of saves that may have reached the file, although the log has no outcome of them.
    pub begun: Vec<String>,
}

impl Over {
    fn allows(&self, found: &Found) -> bool {
        match self {
            Self::Anything => true,
            Self::Known(known) => known.has(found),
        }
    }
}

impl Known {
    /// Whether `found` is what this session last read, or what one of its own saves wrote.
    pub fn has(&self, found: &Found) -> bool {
        match found {
            Found::Nothing => self.baseline.is_none(),
            Found::File(Seen { digest: Some(digest), .. }) => {
                self.begun.contains(digest) || self.baseline.as_ref() == Some(digest)
            }
            Found::File(_) | Found::Link | Found::Irregular | Found::Unreadable => false,
        }
    }
}
