//! A folder whose files sessions may be about, held open from the worker's start.
//!
//! Invariant: whatever happens to the folder's name later (another folder there, a file system unmounted), files are opened
//! beneath the folder that the operator meant.

use std::io::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use crate::watch::Watch;

/// A workspace as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its folder.
    pub dir: PathBuf,
    /// Whether files in it may be written.
    pub writable: bool,
}

/// A workspace that is there.
pub struct Mount {
    pub(crate) folder: Dir,
    /// What its folder is called, as configured and without symbolic links: absolute links may lead back here.
    pub(crate) names: [PathBuf; 2],
    pub(crate) writable: bool,
    /// What tells of changes in it.
    pub(crate) watch: Option<Arc<Watch>>,
}

impl Mount {
    /// The folder without symbolic links, which is what the system calls it.
    pub(crate) fn real_name(&self) -> &Path {
        &self.names[1]
    }

    /// Opens a workspace's folder.
    ///
    /// # Errors
    /// As opening a folder does.
    pub(crate) fn open(workspace: &Workspace, watch: Option<Arc<Watch>>) -> Result<Self> {
        let folder = Dir::open_ambient_dir(&workspace.dir, ambient_authority())?;
        let names = [workspace.dir.clone(), workspace.dir.canonicalize()?];
        Ok(Self { folder, names, writable: workspace.writable, watch })
    }
}
