//! The folder of one nats-server: its streams, settings, log, process id, and the lock that keeps a
//! second server out.
//!
//! The server's own process holds the lock (see `lifeline.rs`), so the lock exists exactly while a server runs, and no
//! stale lock stays after a crash. Without it two nats-servers could open the same folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::StartError;

/// A log of this size is replaced by a new one at the next start.
const LOG_LIMIT: u64 = 16 * 1024 * 1024;

/// How many lines of the log's end an error has.
const LINES_KEPT: usize = 12;

/// How long to wait for the folder: a server whose starter was killed needs a moment to stop.
const LOCK_DEADLINE: Duration = Duration::from_secs(2);

const POLL: Duration = Duration::from_millis(20);

/// One server's folder, which exists.
#[derive(Debug)]
pub(crate) struct DataFolder(PathBuf);

impl DataFolder {
    pub(crate) fn create(folder: &Path) -> Result<Self, StartError> {
        fs::create_dir_all(folder).map_err(|e| StartError::io("create", folder, e))?;
        let absolute = fs::canonicalize(folder).map_err(|e| StartError::io("open", folder, e))?;
        Ok(Self(absolute))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("nats-server.log")
    }

    pub(crate) fn pid(&self) -> PathBuf {
        self.0.join("nats-server.pid")
    }

    /// Locks the folder for one server. The lock ends when every copy of the file is closed.
    pub(crate) async fn lock(&self) -> Result<File, StartError> {
        let path = self.0.join("nats-server.lock");
        let failed = |e| StartError::io("lock", &path, e);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        let deadline = Instant::now() + LOCK_DEADLINE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(StartError::DataInUse { data: self.0.clone(), pid: self.running_pid() });
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(POLL).await,
            }
        }
    }

    fn running_pid(&self) -> Option<u32> {
        fs::read_to_string(self.pid()).ok()?.trim().parse().ok()
    }

    /// Opens the log for one more run. Also returns the offset at which that run begins.
    pub(crate) fn open_log(&self) -> Result<(File, u64), StartError> {
        let path = self.log();
        let failed = |e| StartError::io("open", &path, e);
        let log = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        let mut begin = log.metadata().map_err(failed)?.len();
        if begin > LOG_LIMIT {
            log.set_len(0).map_err(failed)?;
            begin = 0;
        }
        Ok((log, begin))
    }

    /// The last lines that the run which began at `begin` has logged.
    pub(crate) fn last_lines(&self, begin: u64) -> String {
        let text = self.read_log(begin).unwrap_or_else(|e| format!("(unreadable: {e})"));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_KEPT)..].join("\n")
    }

    fn read_log(&self, begin: u64) -> io::Result<String> {
        let mut log = File::open(self.log())?;
        log.seek(SeekFrom::Start(begin))?;
        let mut text = Vec::new();
        log.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Whether the server with this process id has written its ports file, which it does when it is ready for
    /// connections.
    pub(crate) fn has_ports(&self, pid: u32) -> bool {
        let ending = format!("_{pid}.ports");
        self.ports_files().any(|file| file.to_string_lossy().ends_with(&ending))
    }

    /// Removes the ports files of servers that crashed, because process ids are reused.
    pub(crate) fn forget_ports(&self) -> Result<(), StartError> {
        self.ports_files().try_for_each(|file| fs::remove_file(&file).map_err(|e| StartError::io("remove", &file, e)))
    }

    fn ports_files(&self) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| file.extension().is_some_and(|ending| ending == "ports"))
    }
}
