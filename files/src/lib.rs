//! Files beneath the folder of a workspace: read, saved and watched.
//!
//! Invariant: nothing outside of the folder is read or written, whatever links are in it. A save is atomic. Without
//! [`Over::Anything`] it replaces only what the caller knows and may write.
//! Deliberately absent: sessions and their contract. So is detection of hard links and of file systems that ignore
//! case: there two paths can be one file, and the second save finds that it diverged.

mod attributes;
mod beneath;
mod failpoint;
pub mod save;
mod temporary;
#[cfg(test)]
mod tests;
mod watch;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use beneath::{Real, real_path};
#[cfg(feature = "failpoints")]
pub use failpoint::STEPS;
pub use save::{Order, Placed, Prepared};
pub use watch::{Watch, Watched};
pub use workspace::{Mount, Usability, Workspace};

/// Whose a file is, in words of the caller's: names of temporary files begin with it, and a watch tells of it.
pub type Tag = Arc<str>;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, FileError>;

/// Why a file is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The workspace's folder was moved or unmounted.
    #[error("the folder of the workspace is not at {} any more, or is another one", .0.display())]
    Displaced(PathBuf),
    /// A symbolic link is in a path that had none.
    #[error("{0:?} is a symbolic link")]
    Linked(OsString),
    /// There is a folder, a pipe or a device at the path of a file.
    #[error("not a regular file")]
    Irregular,
    /// This was found, and the save may not replace it.
    #[error("another file is there")]
    Diverged(Found),
    /// The file is what the caller knows, but this process may not write it.
    #[error("{source}")]
    Protected {
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// The new file is in its place, and may not be there after a power failure.
    #[error(transparent)]
    Unsure(Box<FileError>),
    /// What the system says.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

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
    /// The facts of a file of these bytes, but for its time.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: blake3::hash(bytes).to_hex().to_string(), bytes: bytes.len() as u64, mtime: None }
    }
}

/// A regular file that was found.
#[derive(Clone, Debug)]
pub struct Seen {
    /// blake3, hex; `None`: the file is larger than a document's file may be.
    pub digest: Option<String>,
    /// Size.
    pub bytes: u64,
    /// Its modification time, by the clock of its file system. For people.
    pub mtime: Option<String>,
    /// Who owns it.
    pub uid: u32,
}

/// What was found at the file's path.
#[derive(Clone, Debug)]
pub enum Found {
    /// There is no file.
    Nothing,
    /// A regular file.
    File(Seen),
    /// A symbolic link, at the path itself or in place of one of its folders. The session never writes one.
    Link,
    /// A folder, a pipe, a device.
    Irregular,
    /// A file that this worker may not read.
    Unreadable,
}

impl Found {
    /// Of a regular file that is not too large.
    pub fn digest(&self) -> Option<&str> {
        match self {
            Self::File(seen) => seen.digest.as_deref(),
            Self::Nothing | Self::Link | Self::Irregular | Self::Unreadable => None,
        }
    }
}

/// What a save may replace.
pub enum Over {
    /// Whatever is there.
    Anything,
    /// Only what the session knows.
    Expected(Expected),
}

/// What a session knows of its file.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Digest of what was last read or written; `None`: there was none.
    pub baseline: Option<String>,
    /// Digests of saves that may have reached the file, although the log has no outcome of them.
    pub begun: Vec<String>,
}

impl Over {
    fn allows(&self, found: &Found) -> bool {
        match self {
            Self::Anything => true,
            Self::Expected(known) => known.has(found),
        }
    }
}

impl Expected {
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
