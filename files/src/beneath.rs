//! Opens files beneath a workspace's folder, and finds real paths in it.
//!
//! Invariant: no open follows a symbolic link. A path is opened one name at a time, each relative to the handle of the
//! folder before it, so that a link that somebody creates between two steps is refused and not followed.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{Error as IoError, ErrorKind};
use std::path::{Component, Path, PathBuf};

use cap_fs_ext::{DirExt, FollowSymlinks, OpenOptionsFollowExt, OpenOptionsSyncExt};
use cap_std::fs::{Dir, File, Metadata, MetadataExt, OpenOptions};
use unicode_normalization::UnicodeNormalization;

use crate::{FileError, Mount, Result};

/// How many links one path may lead through, as in Linux.
const LINKS_MAX: usize = 40;

/// The folder that a file is in, and the file's name in it.
pub(super) struct Spot {
    pub(super) folder: Dir,
    pub(super) name: PathBuf,
}

/// What to do about folders that are missing.
pub(super) enum Missing<'a> {
    Leave,
    /// Makes them, and notes which.
    Make(&'a mut Made),
}

/// Folders that were made for one file, the outermost first: where each is, its name there, and itself.
#[derive(Default)]
pub(super) struct Made(Vec<(Dir, PathBuf, Dir)>);

impl Made {
    /// Removes those that are still there and empty, after the save failed. Best effort.
    pub(super) fn remove(self) {
        let id = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        for (above, name, folder) in self.0.into_iter().rev() {
            let (own, there) = (folder.dir_metadata(), above.symlink_metadata(&name));
            // Another folder may have the name now. The system refuses to remove a folder that is not empty.
            if !matches!((own, there), (Ok(own), Ok(there)) if id(&own) == id(&there))
                || above.remove_dir(&name).is_err()
            {
                return;
            }
        }
    }
}

/// Where `path` is; `None` when a folder of it is not there.
pub(super) fn spot(mount: &Mount, path: &str, mut missing: Missing<'_>) -> Result<Option<Spot>> {
    let path = Path::new(path);
    let name = path.file_name().ok_or_else(|| IoError::other("the path has no file name"))?;
    // Records have canonical paths only. This check does not rely on that.
    if path.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(IoError::other("the path is not canonical").into());
    }
    mount.check()?;
    let mut folder = mount.folder.try_clone()?;
    for part in path.parent().into_iter().flat_map(Path::iter) {
        let part = Path::new(&on_disk(&folder, part)?).to_owned();
        folder = match folder.open_dir_nofollow(&part) {
            Ok(inner) => inner,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let Missing::Make(made) = &mut missing else { return Ok(None) };
                make_folder(&folder, &part, made)?
            }
            Err(error) => {
                let (is_file, error) = (error.kind() == ErrorKind::NotADirectory, explained(&folder, &part, error));
                // A file is in place of the folder, so there is nothing at the path.
                if is_file && matches!((&missing, &error), (Missing::Leave, FileError::Io(_))) {
                    return Ok(None);
                }
                return Err(error);
            }
        };
    }
    let name = on_disk(&folder, name)?.into();
    Ok(Some(Spot { folder, name }))
}

/// `name` as `folder` has it. Paths are in normal form C; names that other systems made may be in another form.
fn on_disk(folder: &Dir, name: &OsStr) -> Result<OsString> {
    if name.is_ascii() || folder.symlink_metadata(name).is_ok() {
        return Ok(name.to_owned());
    }
    for entry in folder.entries()? {
        let found = entry?.file_name();
        if found.to_str().is_some_and(|found| found.nfc().eq(name.to_str().into_iter().flat_map(str::chars))) {
            return Ok(found);
        }
    }
    Ok(name.to_owned())
}

fn make_folder(folder: &Dir, name: &Path, made: &mut Made) -> Result<Dir> {
    let is_new = match folder.create_dir(name) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        created => created.is_ok(),
    };
    let inner = folder.open_dir_nofollow(name).map_err(|error| explained(folder, name, error))?;
    if is_new {
        made.0.push((folder.try_clone()?, name.to_owned(), inner.try_clone()?));
    }
    sync(folder)?;
    Ok(inner)
}

/// Makes what was created and renamed in `folder` durable.
pub(super) fn sync(folder: &Dir) -> Result<()> {
    Ok(folder.open(".")?.sync_all()?)
}

impl Spot {
    /// The file itself; `None` when it is not there.
    pub(super) fn open(&self) -> Result<Option<File>> {
        match self.folder.symlink_metadata(&self.name) {
            Ok(found) if found.is_file() || found.is_symlink() => {}
            // Opening a device or a pipe can have effects.
            Ok(_) => return Err(FileError::Irregular),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // It may have been replaced since. `nonblock`: the open of a pipe must not block this thread.
        let mut options = OpenOptions::new();
        options.read(true).follow(FollowSymlinks::No).nonblock(true);
        let file = match self.folder.open_with(&self.name, &options) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(explained(&self.folder, &self.name, error)),
        };
        if file.metadata()?.is_file() { Ok(Some(file)) } else { Err(FileError::Irregular) }
    }

    /// Why this process may not write the file, in the kernel's words; `None`: it may, or there is none any more. The
    /// kernel knows more than mode and owner: access control lists, attributes, and what root may do.
    pub(super) fn refuses_writing(&self) -> Option<IoError> {
        use rustix::fs::{Access, AtFlags, accessat};
        let flags = AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW;
        if accessat(&self.folder, &self.name, Access::WRITE_OK, flags).is_ok() {
            return None;
        }
        // Not every system supports that call. Opening proves it; it comes second because it notifies those who watch
        // the file.
        let mut options = OpenOptions::new();
        options.write(true).follow(FollowSymlinks::No).nonblock(true);
        self.folder.open_with(&self.name, &options).err().filter(|error| error.kind() != ErrorKind::NotFound)
    }
}

/// `error`, or [`FileError::Linked`] where a symbolic link caused it.
fn explained(folder: &Dir, name: &Path, error: IoError) -> FileError {
    match folder.symlink_metadata(name) {
        Ok(found) if found.is_symlink() => FileError::Linked(name.into()),
        _ => error.into(),
    }
}

/// The target of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Real {
    /// This path, which has no link in it. Names that do not exist yet are kept.
    Path(String),
    /// It is outside of the workspace.
    Outside,
    /// It is the workspace's folder itself, or has names that are not UTF-8.
    Nameless,
}

/// Follows the links of `path` by name. The result may be outdated at once: whoever opens it follows no links.
pub fn real_path(mount: &Mount, path: &str) -> Result<Real> {
    mount.check()?;
    let mut folders = vec![mount.folder.try_clone()?];
    let mut real: Vec<OsString> = Vec::new();
    let mut ahead: VecDeque<OsString> = Path::new(path).components().map(owned).collect();
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            if real.pop().is_none() && !comes_back(mount, &mut ahead) {
                return Ok(Real::Outside);
            }
            folders.truncate(real.len() + 1);
            continue;
        }
        // Below a name that does not exist, nothing exists.
        let found = match folders.get(real.len()) {
            Some(folder) => look_up(folder, &part)?.map(|(name, found)| (folder, name, found)),
            None => None,
        };
        match found {
            Some((folder, name, found)) if found.is_symlink() => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(IoError::other("too many symbolic links").into());
                }
                let target = folder.read_link_contents(&name)?;
                let target = match within(mount, &target) {
                    Some(inside) if target.is_absolute() => {
                        real.clear();
                        folders.truncate(1);
                        inside
                    }
                    Some(relative) => relative,
                    None => return Ok(Real::Outside),
                };
                let parts = target.components().filter(|part| *part != Component::CurDir).map(owned);
                for (place, part) in parts.enumerate() {
                    ahead.insert(place, part);
                }
            }
            Some((folder, name, found)) => {
                if found.is_dir() && !ahead.is_empty() {
                    let inner =
                        folder.open_dir_nofollow(&name).map_err(|error| explained(folder, name.as_ref(), error))?;
                    folders.push(inner);
                }
                real.push(composed(part));
            }
            None => real.push(composed(part)),
        }
    }
    let names: Option<Vec<&str>> = real.iter().map(|part| part.to_str()).collect();
    Ok(names.filter(|names| !names.is_empty()).map_or(Real::Nameless, |names| Real::Path(names.join("/"))))
}

/// Whether the rest of a path, which has left the workspace through `..`, enters it again by the workspace's real name.
/// Then those names are taken from `ahead`.
fn comes_back(mount: &Mount, ahead: &mut VecDeque<OsString>) -> bool {
    let name = mount.real_name();
    let mut above = name.to_owned();
    above.pop();
    while above != name {
        match ahead.pop_front() {
            None => return false,
            Some(part) if part == ".." => drop(above.pop()),
            Some(part) => above.push(part),
        }
        if !name.starts_with(&above) {
            return false;
        }
    }
    true
}

fn owned(part: Component<'_>) -> OsString {
    part.as_os_str().to_owned()
}

/// The entry of this name in `folder`, and the name as `folder` has it.
fn look_up(folder: &Dir, part: &OsStr) -> Result<Option<(OsString, Metadata)>> {
    let name = on_disk(folder, part)?;
    match folder.symlink_metadata(&name) {
        Ok(found) => Ok(Some((name, found))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A name in normal form C, as paths have it.
fn composed(name: OsString) -> OsString {
    match name.to_str() {
        Some(text) if !text.is_ascii() => text.nfc().collect::<String>().into(),
        _ => name,
    }
}

/// A link's target as a path relative to the link, or to the workspace where it is absolute.
fn within(mount: &Mount, target: &Path) -> Option<PathBuf> {
    if !target.is_absolute() {
        return Some(target.to_owned());
    }
    mount.names.iter().find_map(|name| target.strip_prefix(name).ok()).map(Path::to_owned)
}
