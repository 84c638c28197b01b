//! One save: a temporary file beside the real one, made durable, then renamed over it.
//!
//! Invariant: whoever reads the file, at whatever moment this process or the machine dies, sees the old one or the new one,
//! whole. A temporary file is named after its session, so that the session's next agent can remove what a crash left.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::path::Path;

use cap_std::fs::{Dir, Metadata, MetadataExt, OpenOptions, OpenOptionsExt, PermissionsExt};
use holdfast_protocol::SessionId;

use super::beneath::{self, Missing, Spot};
use super::failpoint::reached;
use super::{Baseline, Found, Over, Seen};
use crate::config::Workspace;

/// Who may read what is not yet in its place: nobody else, before it has the mode of the file that it replaces.
const PRIVATE: u32 = 0o600;

/// What became of a save.
pub(super) enum Save {
    /// The file has it.
    Done(Baseline),
    /// This was found instead of what the save may write over.
    Diverged(Found),
}

/// At most one byte more than `max`.
pub(super) fn read(workspace: &Workspace, path: &str, max: u64) -> Result<Option<(Vec<u8>, Metadata)>> {
    let Some(spot) = beneath::spot(workspace, path, Missing::Leave)? else { return Ok(None) };
    let Some(file) = spot.open()? else { return Ok(None) };
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some((bytes, metadata)))
}

/// What stands there, without its text.
pub(super) fn look(workspace: &Workspace, path: &str) -> Result<Found> {
    let Some(spot) = beneath::spot(workspace, path, Missing::Leave)? else { return Ok(Found::Nothing) };
    look_at(&spot)
}

fn look_at(spot: &Spot<'_>) -> Result<Found> {
    let mut file = match spot.open() {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Found::Nothing),
        Err(error) if beneath::is_linked(&error) => return Ok(Found::Link),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let mut hasher = blake3::Hasher::new();
    let bytes = std::io::copy(&mut file, &mut hasher)?;
    let digest = hasher.finalize().to_hex().to_string();
    Ok(Found::File(Seen { digest, bytes, mtime: mtime(&metadata), uid: metadata.uid() }))
}

/// When a file was changed last, for people.
pub(super) fn mtime(metadata: &Metadata) -> Option<String> {
    let nanos = i32::try_from(metadata.mtime_nsec()).ok()?;
    jiff::Timestamp::new(metadata.mtime(), nanos).ok().map(|time| time.to_string())
}

/// Writes `bytes`, if what is there is what `over` says.
pub(super) fn save(workspace: &Workspace, session: &SessionId, path: &str, bytes: &[u8], over: &Over) -> Result<Save> {
    reached("intended");
    // Before any folder is made. The same is asked again in the last moment.
    let found = look(workspace, path)?;
    if !over.allows(&found) {
        return Ok(Save::Diverged(found));
    }
    reached("checked");
    let spot = beneath::spot(workspace, path, Missing::Make)?.ok_or_else(|| Error::from(ErrorKind::NotFound))?;
    reached("folders");
    let temporary = format!("{}{}", prefix(session), uuid::Uuid::now_v7());
    let saved = replace(&spot, temporary.as_ref(), bytes, over);
    if !matches!(saved, Ok(Save::Done(_))) {
        // What is left of a failed save is nobody's file; that it cannot be removed either changes nothing for the caller.
        spot.folder.remove_file(&temporary).ok();
    }
    saved
}

pub(super) fn replace(spot: &Spot<'_>, temporary: &Path, bytes: &[u8], over: &Over) -> Result<Save> {
    let old = spot.folder.symlink_metadata(spot.name).ok().filter(Metadata::is_file);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    if old.is_some() {
        options.mode(PRIVATE);
    }
    let mut file = spot.folder.open_with(temporary, &options)?;
    reached("created");
    let (begin, end) = bytes.split_at(bytes.len() / 2);
    file.write_all(begin)?;
    reached("half-written");
    file.write_all(end)?;
    reached("written");
    if let Some(old) = &old {
        keep_owner_and_mode(&file, old)?;
    }
    reached("owned");
    file.sync_all()?;
    reached("synced");
    let metadata = file.metadata()?;
    let found = look_at(spot)?;
    if !over.allows(&found) {
        return Ok(Save::Diverged(found));
    }
    if !rename(spot, temporary, matches!(found, Found::Nothing))? {
        return Ok(Save::Diverged(look_at(spot)?));
    }
    reached("renamed");
    // The rename itself is durable only once the folder is.
    beneath::sync(&spot.folder)?;
    reached("durable");
    Ok(Save::Done(Baseline::of(bytes, mtime(&metadata))))
}

/// `false`: where there was nothing, there is something now.
pub(super) fn rename(spot: &Spot<'_>, temporary: &Path, is_new: bool) -> Result<bool> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    if is_new {
        use rustix::fs::{RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(&spot.folder, temporary, &spot.folder, spot.name, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => return Ok(false),
            // A file system that cannot; the check a moment ago must do.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    spot.folder.rename(temporary, &spot.folder, spot.name).map(|()| true)
}

/// Owner and group where this process may give files away; the mode always.
fn keep_owner_and_mode(file: &cap_std::fs::File, old: &Metadata) -> Result<()> {
    use rustix::fs::{Gid, Uid, fchown};
    let new = file.metadata()?;
    let (uid, gid) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) && fchown(file, Some(uid), Some(gid)).is_err() {
        // The group alone may be one of ours. That neither can be kept is no reason not to save.
        fchown(file, None, Some(gid)).ok();
    }
    file.set_permissions(cap_std::fs::Permissions::from_mode(old.mode() & 0o7777))
}

fn prefix(session: &SessionId) -> String {
    format!(".holdfast-{session}-")
}

/// Removes what saves of this session left when their process died. Only a session's owner may: the save of a worker that
/// lost the session and does not know it yet then ends without its file.
pub(super) fn sweep(workspace: &Workspace, session: &SessionId, path: &str) -> Result<()> {
    let Some(spot) = beneath::spot(workspace, path, Missing::Leave)? else { return Ok(()) };
    let prefix = prefix(session);
    for entry in spot.folder.entries()? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(&prefix)) {
            remove(&spot.folder, name.as_ref())?;
        }
    }
    Ok(())
}

fn remove(folder: &Dir, name: &Path) -> Result<()> {
    match folder.remove_file(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
