//! Opening what is beneath a workspace's folder, and finding real paths in it.
//!
//! Invariant: nothing here follows a symbolic link. A path is taken one name at a time, each relative to the handle of the
//! folder before it, so that a link that is put in the way between two steps leads nowhere.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{Error, ErrorKind, Result};
use std::path::{Component, Path};

use cap_fs_ext::{DirExt, FollowSymlinks, OpenOptionsFollowExt, OpenOptionsSyncExt};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions};

use crate::config::Workspace;

/// How many links one path may lead through, as in Linux.
const LINKS_MAX: usize = 40;

/// A symbolic link stands where a session's real path was.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is a symbolic link")]
pub(super) struct Linked(OsString);

/// Whether `error` is about a link.
pub(super) fn is_linked(error: &Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Linked>())
}

/// The folder that a file is in, and the file's name in it.
pub(super) struct Spot<'a> {
    pub(super) folder: Dir,
    pub(super) name: &'a Path,
}

/// What to do about folders that are missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Leave,
    Make,
}

/// The folder of a workspace.
pub(super) fn root(workspace: &Workspace) -> Result<Dir> {
    Dir::open_ambient_dir(&workspace.dir, ambient_authority())
}

/// Where `path` is; `None` when a folder of it is not there.
pub(super) fn spot<'a>(workspace: &Workspace, path: &'a str, missing: Missing) -> Result<Option<Spot<'a>>> {
    let path = Path::new(path);
    let name = path.file_name().map(Path::new).ok_or_else(|| Error::other("the path has no file name"))?;
    // Records have canonical paths only; this is the second lock on that door.
    if path.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(Error::other("the path is not canonical"));
    }
    let mut folder = root(workspace)?;
    for part in path.parent().into_iter().flat_map(Path::iter) {
        let part = Path::new(part);
        folder = match folder.open_dir_nofollow(part) {
            Ok(inner) => inner,
            Err(error) if error.kind() == ErrorKind::NotFound && missing == Missing::Make => {
                make_folder(&folder, part)?;
                folder.open_dir_nofollow(part).map_err(|error| explained(&folder, part, error))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(explained(&folder, part, error)),
        };
    }
    Ok(Some(Spot { folder, name }))
}

fn make_folder(folder: &Dir, name: &Path) -> Result<()> {
    match folder.create_dir(name) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => sync(folder),
    }
}

/// Makes what was created and renamed in `folder` durable.
pub(super) fn sync(folder: &Dir) -> Result<()> {
    folder.open(".")?.sync_all()
}

impl Spot<'_> {
    /// The file itself; `None` when it is not there.
    pub(super) fn open(&self) -> Result<Option<File>> {
        // Without waiting: a pipe of that name must not hold a thread.
        let mut options = OpenOptions::new();
        options.read(true).follow(FollowSymlinks::No).nonblock(true);
        let file = match self.folder.open_with(self.name, &options) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(explained(&self.folder, self.name, error)),
        };
        if file.metadata()?.is_file() { Ok(Some(file)) } else { Err(Error::other("not a regular file")) }
    }
}

/// `error`, or that a link is its cause.
fn explained(folder: &Dir, name: &Path, error: Error) -> Error {
    match folder.symlink_metadata(name) {
        Ok(found) if found.is_symlink() => Error::other(Linked(name.into())),
        _ => error,
    }
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Real {
    /// To this path, without a link in it. What is not there yet keeps its name.
    Path(String),
    /// Out of the workspace.
    Outside,
    /// To the workspace's folder itself, or to names that are not UTF-8.
    Nameless,
}

/// Follows the links of `path` by name. Whoever opens the result follows none, so that it need not stay true.
pub(super) fn real_path(workspace: &Workspace, path: &str) -> Result<Real> {
    let mut folders = vec![root(workspace)?];
    let mut real: Vec<OsString> = Vec::new();
    let mut ahead: VecDeque<OsString> = Path::new(path).components().map(owned).collect();
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            if real.pop().is_none() {
                return Ok(Real::Outside);
            }
            folders.truncate(real.len() + 1);
            continue;
        }
        // Behind a name that is not there, nothing is.
        let found = match folders.get(real.len()) {
            Some(folder) => match folder.symlink_metadata(&part) {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
                found => Some((folder, found?)),
            },
            None => None,
        };
        match found {
            Some((folder, found)) if found.is_symlink() => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Error::other("too many symbolic links"));
                }
                let target = folder.read_link_contents(&part)?;
                let target = match within(workspace, &target) {
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
            Some((folder, found)) => {
                if found.is_dir() && !ahead.is_empty() {
                    let inner =
                        folder.open_dir_nofollow(&part).map_err(|error| explained(folder, part.as_ref(), error))?;
                    folders.push(inner);
                }
                real.push(part);
            }
            None => real.push(part),
        }
    }
    let names: Option<Vec<&str>> = real.iter().map(|part| part.to_str()).collect();
    Ok(names.filter(|names| !names.is_empty()).map_or(Real::Nameless, |names| Real::Path(names.join("/"))))
}

fn owned(part: Component<'_>) -> OsString {
    part.as_os_str().to_owned()
}

/// A link's target as a path relative to the link, or to the workspace where it is absolute.
fn within(workspace: &Workspace, target: &Path) -> Option<std::path::PathBuf> {
    if !target.is_absolute() {
        return Some(target.to_owned());
    }
    let inside = target.strip_prefix(&workspace.dir).ok().map(Path::to_owned);
    inside.or_else(|| target.strip_prefix(workspace.dir.canonicalize().ok()?).ok().map(Path::to_owned))
}
