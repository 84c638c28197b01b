//! Attributes that a save copies from the old file to the new one: owner, group, mode and extended attributes with
//! access control lists, as far as this process may set them.

use std::io::Result;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

use cap_std::fs::{File, Metadata, MetadataExt as _};
use rustix::fs::{Gid, Uid, fchown};

use crate::beneath::Spot;

/// Attributes that sign the content of a file or give it privileges. They must not pass to another content.
#[cfg(target_os = "linux")]
const OF_THE_TEXT: [&str; 3] = ["security.capability", "security.ima", "security.evm"];

/// All bits of a mode, and those without set-user-id and set-group-id.
const ALL: u32 = 0o7777;
const PLAIN: u32 = 0o1777;

/// The file that is to be replaced.
pub(super) struct Old {
    metadata: Metadata,
    /// `None` where this process may not read it.
    file: Option<File>,
}

impl Old {
    /// `None` where there is no regular file.
    pub(super) fn at(spot: &Spot) -> Option<Self> {
        let file = spot.open().ok().flatten();
        let opened = file.as_ref().and_then(|file| file.metadata().ok());
        let metadata = opened.or_else(|| spot.folder.symlink_metadata(&spot.name).ok())?;
        metadata.is_file().then_some(Self { metadata, file })
    }
}

/// Copies the attributes of `old` to `new`.
pub(super) fn keep(new: &std::fs::File, old: &Old) -> Result<()> {
    let metadata = &old.metadata;
    #[cfg(target_os = "linux")]
    if let Some(file) = &old.file {
        keep_extended(new, file);
    }
    let set = |mode: u32| new.set_permissions(std::fs::Permissions::from_mode(mode));
    // Before the owner changes, because afterwards this process may not set the mode; after the lists, which change the
    // mode.
    set(metadata.mode() & PLAIN)?;
    let wanted = (metadata.uid(), metadata.gid());
    let ids = || new.metadata().map(|metadata| (metadata.uid(), metadata.gid()));
    if ids()? != wanted && fchown(new, Some(Uid::from_raw(wanted.0)), Some(Gid::from_raw(wanted.1))).is_err() {
        // This process may be in the group. A save goes on where it can keep neither owner nor group.
        fchown(new, None, Some(Gid::from_raw(wanted.1))).ok();
    }
    let mode = mode_for(metadata.mode(), wanted, ids()?);
    if mode & !PLAIN != 0 {
        set(mode).ok();
    }
    Ok(())
}

/// The mode of the new file. It has the set-id bits of the old one only where owner and group are the same (`got` is
/// `wanted`).
pub(super) fn mode_for(mode: u32, wanted: (u32, u32), got: (u32, u32)) -> u32 {
    mode & if got == wanted { ALL } else { PLAIN }
}

/// Best effort: some file systems have no extended attributes, and only the system may set some of them.
#[cfg(target_os = "linux")]
fn keep_extended(new: &std::fs::File, old: &File) {
    use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
    /// The most that Linux has of names or of one value.
    const BYTES_MAX: usize = 64 * 1024;
    // Most files have none. `RANGE` says that there are names and that they do not fit.
    if flistxattr(old, &mut [0_u8; 1]) != Err(rustix::io::Errno::RANGE) {
        return;
    }
    let (mut names, mut value) = (vec![0_u8; BYTES_MAX], vec![0_u8; BYTES_MAX]);
    let Ok(length) = flistxattr(old, &mut names) else { return };
    let names = names[..length].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    for name in names.filter(|name| !name.is_empty() && !OF_THE_TEXT.contains(name)) {
        if let Ok(length) = fgetxattr(old, name, &mut value) {
            fsetxattr(new, name, &value[..length], XattrFlags::empty()).ok();
        }
    }
}
