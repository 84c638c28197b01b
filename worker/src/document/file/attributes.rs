//! What a file keeps when another takes its place: owner and group, mode, extended attributes (access control lists among
//! them), as far as this process may give them.

use std::io::Result;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

use cap_std::fs::{File, Metadata, MetadataExt as _};
use rustix::fs::{Gid, Uid, fchown};

use super::beneath::Spot;

/// Attributes that vouch for what a file has in it, or give it rights: nothing to be kept for another text.
#[cfg(target_os = "linux")]
const OF_THE_TEXT: [&str; 3] = ["security.capability", "security.ima", "security.evm"];

/// The bits of a mode that can be kept, and those among them that lend nobody's rights.
const ALL: u32 = 0o7777;
const PLAIN: u32 = 0o1777;

/// The file that another is to take the place of.
pub(super) struct Old {
    metadata: Metadata,
    /// `None` where it may not be read.
    file: Option<File>,
}

impl Old {
    /// `None` where there is none: whatever stands there instead of a file has nothing to keep.
    pub(super) fn at(spot: &Spot) -> Option<Self> {
        let file = spot.open().ok().flatten();
        let opened = file.as_ref().and_then(|file| file.metadata().ok());
        let metadata = opened.or_else(|| spot.folder.symlink_metadata(&spot.name).ok())?;
        metadata.is_file().then_some(Self { metadata, file })
    }
}

/// Gives `new` what `old` has.
pub(super) fn keep(new: &std::fs::File, old: &Old) -> Result<()> {
    let metadata = &old.metadata;
    #[cfg(target_os = "linux")]
    if let Some(file) = &old.file {
        keep_extended(new, file);
    }
    let set = |mode: u32| new.set_permissions(std::fs::Permissions::from_mode(mode));
    // Before it is given away, when it may no longer be changed; and after lists, which change the mode.
    set(metadata.mode() & PLAIN)?;
    let wanted = (metadata.uid(), metadata.gid());
    let ids = || new.metadata().map(|metadata| (metadata.uid(), metadata.gid()));
    if ids()? != wanted && fchown(new, Some(Uid::from_raw(wanted.0)), Some(Gid::from_raw(wanted.1))).is_err() {
        // The group alone may be one of ours. That neither can be kept is no reason not to save.
        fchown(new, None, Some(Gid::from_raw(wanted.1))).ok();
    }
    let mode = mode_for(metadata.mode(), wanted, ids()?);
    if mode & !PLAIN != 0 {
        set(mode).ok();
    }
    Ok(())
}

/// The mode that a file has whose owner and group are `got`, where they were `wanted`: rights that would be another's are not
/// given along.
pub(super) fn mode_for(mode: u32, wanted: (u32, u32), got: (u32, u32)) -> u32 {
    mode & if got == wanted { ALL } else { PLAIN }
}

/// Best effort: a file system that has none says so, and some are the system's alone.
#[cfg(target_os = "linux")]
fn keep_extended(new: &std::fs::File, old: &File) {
    use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
    /// The most that Linux has of names or of one value.
    const BYTES_MAX: usize = 64 * 1024;
    // Mostly there are none, and else they do not fit.
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
