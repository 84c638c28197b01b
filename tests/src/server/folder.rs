//! Folders for the servers of tests: removed when a test passes, kept when it fails.
//!
//! A shared server's folder is in use until its process ends, so later processes remove it: of the folders whose
//! process is gone, only the newest few are kept, for their logs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::process::{Pid, test_kill_process};

/// How many folders of ended processes are kept.
const KEPT: usize = 40;

/// A folder of this process; removed when dropped, unless the thread panics.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Creates `<temporary folder>/holdfast-tests/<process id>-<number>-<what>`.
    pub(super) fn create(what: &str) -> Result<Self> {
        static CLEARED: Once = Once::new();
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let all = std::env::temp_dir().join("holdfast-tests");
        CLEARED.call_once(|| clear(&all));
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let folder = all.join(format!("{}-{number}-{what}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(Self(folder))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            remove(&self.0);
        }
    }
}

/// Removes all but the newest folders of processes that are gone.
fn clear(all: &Path) {
    let folders = fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut left: Vec<PathBuf> = folders.filter(|folder| !is_in_use(folder)).collect();
    left.sort_by_key(|folder| folder.metadata().and_then(|found| found.modified()).ok());
    let too_many = left.len().saturating_sub(KEPT);
    left.iter().take(too_many).for_each(|folder| remove(folder));
}

/// Whether the process that created the folder still runs, or another process has its id now.
fn is_in_use(folder: &Path) -> bool {
    folder
        .file_name()
        .and_then(|name| name.to_str()?.split_once('-')?.0.parse().ok())
        .and_then(Pid::from_raw)
        .is_some_and(|pid| test_kill_process(pid).is_ok())
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        // Another process may remove it at the same time.
        tracing::debug!(%error, folder = %folder.display(), "cannot remove");
    }
}
