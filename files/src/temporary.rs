//! The temporary file of a save. It is unnamed (`O_TMPFILE`) where the file system supports that, so that a crash
//! leaves nothing. Else its name begins with the caller's tag, so that whoever has the tag next can remove it after a
//! crash.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};

use crate::failpoint::reached;

/// Mode of a temporary file that is to replace another: nobody else may read it before it has that one's mode.
pub(super) const PRIVATE: u32 = 0o600;
/// Mode of a new file, less the umask.
pub(super) const USUAL: u32 = 0o666;

/// A temporary file in the folder of the real one. Dropping it removes its name, if it has one.
pub(super) struct Temporary {
    folder: Dir,
    file: File,
    name: String,
    has_name: bool,
}

/// The outcome of an exchange.
pub(super) enum Exchange {
    Done,
    /// There is no other file.
    Nothing,
    /// This file system does not support it.
    Unknown,
}

impl Temporary {
    pub(super) fn create(folder: &Dir, tag: &str, mode: u32) -> Result<Self> {
        let whole = format!("{tag}-{}", uuid::Uuid::now_v7());
        let (file, name, has_name) = match nameless(folder, mode)? {
            Some(file) => (file, whole, false),
            None => {
                let part = whole + PART;
                (named(folder, part.as_ref(), mode)?, part, true)
            }
        };
        Ok(Self { folder: folder.try_clone()?, file, name, has_name })
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// The name of the complete file. It gets one if it has none.
    pub(super) fn name(&mut self) -> Result<&Path> {
        if let Some(whole) = self.name.strip_suffix(PART).filter(|_| self.has_name) {
            self.folder.rename(&self.name, &self.folder, whole)?;
            self.name = whole.to_owned();
        }
        if !self.has_name {
            link(&self.file, &self.folder, self.name.as_ref())?;
            self.has_name = true;
            reached("named");
        }
        Ok(self.name.as_ref())
    }

    /// Puts it at `target` if nothing is there; `false`: something is.
    pub(super) fn put(&mut self, target: &Path) -> Result<bool> {
        let put = if self.has_name { self.rename_over_nothing(target) } else { link(&self.file, &self.folder, target) };
        match put {
            Ok(()) => {
                self.has_name = false;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rename_over_nothing(&self, target: &Path) -> Result<()> {
        #[cfg(any(target_os = "linux", target_vendor = "apple"))]
        {
            use rustix::fs::{RenameFlags, renameat_with};
            match renameat_with(&self.folder, &self.name, &self.folder, target, RenameFlags::NOREPLACE) {
                Err(error) if cannot(error) => {}
                done => return Ok(done?),
            }
        }
        // Without `NOREPLACE`: a hard link also fails where something is. Without hard links either, the look below
        // must do.
        match self.folder.hard_link(&self.name, &self.folder, target) {
            Ok(()) => self.folder.remove_file(&self.name),
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
                match self.folder.symlink_metadata(target) {
                    Ok(_) => Err(ErrorKind::AlreadyExists.into()),
                    Err(_) => self.folder.rename(&self.name, &self.folder, target),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Puts it at `target`, replacing whatever is there.
    pub(super) fn replace(&mut self, target: &Path) -> Result<()> {
        self.name()?;
        self.folder.rename(&self.name, &self.folder, target)?;
        self.has_name = false;
        Ok(())
    }

    /// Exchanges it with the file at `target`, atomically.
    pub(super) fn exchange(&mut self, target: &Path) -> Result<Exchange> {
        self.name()?;
        exchange(&self.folder, self.name.as_ref(), target)
    }
}

impl Temporary {
    /// Keeps the file at the temporary name when this is dropped.
    pub(super) fn leave(&mut self) {
        self.has_name = false;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.has_name {
            // Best effort: a file that stays is removed by the next `tidy`, and the outcome of the save is the same.
            self.folder.remove_file(&self.name).ok();
        }
    }
}

/// Whether `error` says that the file system does not support the call.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn cannot(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    error == Errno::INVAL || error == Errno::NOSYS || error == Errno::OPNOTSUPP || error == Errno::NOTSUP
}

fn named(folder: &Dir, name: &Path, mode: u32) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    Ok(folder.open_with(name, &options)?.into_std())
}

/// An unnamed file in `folder`; `None` where that is not supported, or where it could not be given a name later.
#[cfg(target_os = "linux")]
fn nameless(folder: &Dir, mode: u32) -> Result<Option<File>> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;
    if !Path::new(OPEN_FILES).is_dir() {
        return Ok(None);
    }
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, ".", flags, Mode::from_raw_mode(mode)) {
        Ok(file) => Ok(Some(file.into())),
        // The errors of file systems and kernels without support for it.
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::ISDIR | Errno::NOSYS | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn nameless(_: &Dir, _: u32) -> Result<Option<File>> {
    Ok(None)
}

/// Where Linux shows a process its open files.
#[cfg(target_os = "linux")]
const OPEN_FILES: &str = "/proc/self/fd";

/// Gives an unnamed file a name that nothing has.
#[cfg(target_os = "linux")]
fn link(file: &File, folder: &Dir, name: &Path) -> Result<()> {
    use std::os::fd::AsRawFd;
    let open = format!("{OPEN_FILES}/{}", file.as_raw_fd());
    // As open(2) describes it: the followed link is the kernel's own link to the open file.
    Ok(rustix::fs::linkat(rustix::fs::CWD, open, folder, name, rustix::fs::AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn link(_: &File, _: &Dir, _: &Path) -> Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// The end of the name of an incomplete file.
const PART: &str = ".part";

/// Temporary files with this tag in `folder`. Only who has the tag now may remove them: who had it before, and does not
/// know that yet, then cannot finish its save.
pub(super) fn left(folder: &Dir, tag: &str) -> Result<Vec<PathBuf>> {
    let prefix = format!("{tag}-");
    let mut left = Vec::new();
    for entry in folder.entries()? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(&prefix)) {
            left.push(name.into());
        }
    }
    Ok(left)
}

/// Whether the file of that name is incomplete, so that it cannot be another program's.
pub(super) fn is_half_written(name: &Path) -> bool {
    name.to_str().is_some_and(|name| name.ends_with(PART))
}

pub(super) fn remove(folder: &Dir, name: &Path) -> Result<()> {
    match folder.remove_file(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Exchanges two files atomically.
pub(super) fn exchange(folder: &Dir, name: &Path, target: &Path) -> Result<Exchange> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        use rustix::fs::{RenameFlags, renameat_with};
        match renameat_with(folder, name, folder, target, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(Exchange::Done),
            Err(rustix::io::Errno::NOENT) => return Ok(Exchange::Nothing),
            Err(error) if cannot(error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Exchange::Unknown)
}
