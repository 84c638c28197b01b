//! A folder whose files sessions may be about, held open from the worker's start.
//!
//! Invariant: files are opened beneath the folder that the operator meant, or not at all: where its name leads to
//! another one by now (it was moved, or a file system unmounted), what is written would be where nobody looks for it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, MetadataExt as _};
use rustix::fs::{Access, AtFlags};

use crate::{FileError, Result, Watch};

/// A workspace as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its folder.
    pub dir: PathBuf,
    /// Whether files in it may be written.
    pub writable: bool,
}

/// Whether a workspace may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usability {
    /// Yes.
    Usable,
    /// No, for this reason.
    Unusable(String),
}

/// A workspace that is there.
pub struct Mount {
    pub(crate) folder: Dir,
    /// What its folder is called, as configured and without symbolic links: absolute links may lead back here.
    pub(crate) names: [PathBuf; 2],
    /// Whether files in it may be written.
    pub writable: bool,
    /// What tells of changes in it.
    pub watch: Option<Arc<Watch>>,
}

impl Mount {
    /// Sees to it that the folder is still where it was.
    ///
    /// # Errors
    /// [`FileError::Displaced`] where it is not.
    pub fn check(&self) -> Result<()> {
        let held = self.folder.dir_metadata()?;
        let is_it = |there: std::fs::Metadata| (there.dev(), there.ino()) == (held.dev(), held.ino());
        if std::fs::metadata(self.real_name()).is_ok_and(is_it) {
            return Ok(());
        }
        Err(FileError::Displaced(self.real_name().to_owned()))
    }

    /// Whether the folder may be used as it was declared: it is where it was, can be read and, unless it was declared
    /// read-only, can be written. Changes nothing. Blocks on the disk.
    pub fn usability(&self) -> Usability {
        let access = if self.writable { Access::READ_OK | Access::WRITE_OK } else { Access::READ_OK };
        let looked = self.check().map_err(|error| error.to_string()).and_then(|()| {
            // By the user that opens files: the kernel says whether the file system is read-only, to root as well.
            let asked = rustix::fs::accessat(&self.folder, ".", access, AtFlags::EACCESS);
            asked.map_err(|error| {
                let how = if self.writable { "written" } else { "read" };
                format!("{} cannot be {how}: {}", self.real_name().display(), std::io::Error::from(error))
            })
        });
        looked.map_or_else(Usability::Unusable, |()| Usability::Usable)
    }

    /// The folder without symbolic links, which is what the system calls it.
    pub fn real_name(&self) -> &Path {
        &self.names[1]
    }

    /// Opens a workspace's folder.
    ///
    /// # Errors
    /// As opening a folder does.
    pub fn open(workspace: &Workspace, watch: Option<Arc<Watch>>) -> std::io::Result<Self> {
        let folder = Dir::open_ambient_dir(&workspace.dir, ambient_authority())?;
        let names = [workspace.dir.clone(), workspace.dir.canonicalize()?];
        Ok(Self { folder, names, writable: workspace.writable, watch })
    }
}
