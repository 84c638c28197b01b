//! One save: writes a temporary file beside the real one, makes it durable, then puts it in the real one's place.
//!
//! Invariant: a reader sees the whole old file or the whole new one, at whatever moment this process or the machine
//! ends. The last step exchanges the two files atomically, then checks the one that was taken out. If the save may not
//! replace that, it exchanges them back. So there is no moment in which another program's file can be lost.

use std::io::{Error, ErrorKind, Read, Write};
use std::time::SystemTime;

use cap_std::fs::{Metadata, MetadataExt as _};

use crate::attributes::{self, Old};
use crate::beneath::{self, Made, Missing, Spot};
use crate::failpoint::reached;
use crate::temporary::{self, Exchange, Temporary};
use crate::{Baseline, Expected, FileError, Found, Mount, Over, Result, Seen, Tag};

/// How often the exchange is undone while another program keeps replacing the file.
const PUT_BACK_MAX: usize = 16;

/// The new file, in its place.
#[derive(Debug)]
pub struct Placed {
    /// What it is.
    pub baseline: Baseline,
    /// How many other names the file had that it replaced: they keep the old content.
    pub links_cut: u64,
}

/// A save whose temporary file is durable. Only the last step is missing.
pub struct Prepared {
    spot: Spot,
    temporary: Temporary,
    baseline: Baseline,
    over: Over,
    max: u64,
    /// Folders to remove if the last step fails. They stay if the save is dropped before: another worker may own the
    /// session then, and save into them.
    made: Made,
}

/// Reads at most `max` + 1 bytes; `None` where there is no file.
pub fn read(mount: &Mount, path: &str, max: u64) -> Result<Option<(Vec<u8>, Metadata)>> {
    let Some(spot) = beneath::spot(mount, path, Missing::Leave)? else { return Ok(None) };
    let Some(file) = spot.open()? else { return Ok(None) };
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some((bytes, metadata)))
}

/// What is at the path, with the digest of a file of at most `max` bytes.
pub fn look(mount: &Mount, path: &str, max: u64) -> Result<Found> {
    let Some(spot) = beneath::spot(mount, path, Missing::Leave)? else { return Ok(Found::Nothing) };
    look_at(&spot, max)
}

fn look_at(spot: &Spot, max: u64) -> Result<Found> {
    let file = match spot.open() {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Found::Nothing),
        Err(FileError::Linked(_)) => return Ok(Found::Link),
        Err(FileError::Irregular) => return Ok(Found::Irregular),
        Err(FileError::Io(error)) if error.kind() == ErrorKind::PermissionDenied => return Ok(Found::Unreadable),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    // No document's file is larger, and a file that another program is writing may have no end.
    let mut hasher = blake3::Hasher::new();
    let bytes = std::io::copy(&mut file.take(max.saturating_add(1)), &mut hasher)?;
    let digest = (bytes <= max).then(|| hasher.finalize().to_hex().to_string());
    let bytes = bytes.max(metadata.len());
    Ok(Found::File(Seen { digest, bytes, mtime: mtime(&metadata), uid: metadata.uid() }))
}

/// What is at the path, where a save may replace it.
fn check(spot: &Spot, over: &Over, max: u64) -> Result<Found> {
    let found = allowed(look_at(spot, max)?, over)?;
    // Renaming over a file takes the right to write its folder only. A save asks for the right to write the file as
    // well.
    if let (Over::Expected(_), Found::File(_)) = (over, &found)
        && let Some(source) = spot.refuses_writing()
    {
        let metadata = spot.folder.symlink_metadata(&spot.name)?;
        return Err(FileError::Protected { mode: metadata.mode() & 0o7777, uid: metadata.uid(), source });
    }
    Ok(found)
}

fn allowed(found: Found, over: &Over) -> Result<Found> {
    if over.allows(&found) { Ok(found) } else { Err(FileError::Diverged(found)) }
}

/// How many other hard links the file has.
fn other_names(spot: &Spot) -> u64 {
    let metadata = spot.folder.symlink_metadata(&spot.name).ok().filter(Metadata::is_file);
    metadata.map_or(0, |metadata| metadata.nlink().saturating_sub(1))
}

/// The modification time of a file, for people.
pub fn mtime(metadata: &Metadata) -> Option<String> {
    metadata.modified().ok().and_then(|time| when(time.into_std()))
}

fn when(time: SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(time).ok().map(|time| time.to_string())
}

/// What to write, where, and what it may replace.
pub struct Order {
    /// What names of temporary files begin with.
    pub tag: Tag,
    /// Where, beneath the workspace's folder.
    pub path: String,
    /// The whole new file.
    pub text: String,
    /// Digest and size of `text`.
    pub baseline: Baseline,
    /// What it may replace.
    pub over: Over,
    /// How many bytes a document's file may have.
    pub max: u64,
}

/// Writes the temporary file and makes it durable, if the save may replace what is there.
///
/// # Errors
/// [`FileError`]; nothing is left behind then.
pub fn prepare(mount: &Mount, order: Order) -> Result<Prepared> {
    let mut made = Made::default();
    match prepare_in(mount, order, &mut made) {
        Ok(prepared) => Ok(Prepared { made, ..prepared }),
        Err(error) => {
            made.remove();
            Err(error)
        }
    }
}

fn prepare_in(mount: &Mount, order: Order, made: &mut Made) -> Result<Prepared> {
    let Order { tag, path, text, baseline, over, max } = order;
    // Before any folder is made. The last step checks again.
    match beneath::spot(mount, &path, Missing::Leave)? {
        Some(spot) => check(&spot, &over, max)?,
        None => allowed(Found::Nothing, &over)?,
    };
    reached("checked");
    let spot = beneath::spot(mount, &path, Missing::Make(made))?.ok_or_else(|| Error::from(ErrorKind::NotFound))?;
    reached("folders");
    let old = Old::at(&spot);
    let mode = if old.is_some() { temporary::PRIVATE } else { temporary::USUAL };
    let mut temporary = Temporary::create(&spot.folder, &tag, mode)?;
    reached("created");
    let metadata = write(temporary.file(), text.as_bytes(), old.as_ref())?;
    let baseline = Baseline { mtime: metadata.modified().ok().and_then(when), ..baseline };
    Ok(Prepared { spot, temporary, baseline, over, max, made: Made::default() })
}

fn write(file: &mut std::fs::File, bytes: &[u8], old: Option<&Old>) -> std::io::Result<std::fs::Metadata> {
    let (begin, end) = bytes.split_at(bytes.len() / 2);
    file.write_all(begin)?;
    reached("half-written");
    file.write_all(end)?;
    reached("written");
    if let Some(old) = old {
        attributes::keep(file, old)?;
    }
    reached("owned");
    file.sync_all()?;
    reached("synced");
    file.metadata()
}

impl Prepared {
    /// Behaves as on a file system without unnamed files.
    #[cfg(test)]
    pub fn make_named(&mut self, is_named: bool) {
        if is_named {
            self.temporary.name().unwrap();
        }
    }

    /// Puts the temporary file in the real one's place.
    ///
    /// # Errors
    /// [`FileError::Unsure`] where it is in its place and may not be durable; with any other, nothing was changed.
    pub fn finish(mut self) -> Result<Placed> {
        let made = std::mem::take(&mut self.made);
        let placed = self.place();
        if !matches!(placed, Ok(_) | Err(FileError::Unsure(_))) {
            made.remove();
        }
        placed
    }

    fn place(mut self) -> Result<Placed> {
        reached("proven");
        let found = check(&self.spot, &self.over, self.max)?;
        let links_cut = self.put(&found)?;
        reached("placed");
        // The replaced file is removed before the folder is made durable, so that it is not back after a power failure.
        let Self { spot, temporary, baseline, .. } = self;
        drop(temporary);
        reached("removed");
        beneath::sync(&spot.folder).map_err(|error| FileError::Unsure(Box::new(error)))?;
        reached("durable");
        Ok(Placed { baseline, links_cut })
    }

    /// Puts the temporary file at the path, where `found` is. Returns how many links that cut.
    fn put(&mut self, found: &Found) -> Result<u64> {
        let Self { spot, temporary, over, max, .. } = self;
        if matches!(found, Found::Nothing) {
            if temporary.put(&spot.name)? {
                return Ok(0);
            }
            allowed(look_at(spot, *max)?, over)?;
        }
        let links_cut = other_names(spot);
        if matches!(over, Over::Anything) {
            temporary.replace(&spot.name)?;
            return Ok(links_cut);
        }
        let beside = Spot { folder: spot.folder.try_clone()?, name: temporary.name()?.to_owned() };
        match temporary.exchange(&spot.name)? {
            Exchange::Done => {}
            // This file system cannot exchange, so the check before must do.
            Exchange::Unknown => {
                temporary.replace(&spot.name)?;
                return Ok(links_cut);
            }
            Exchange::Nothing => return Err(FileError::Diverged(Found::Nothing)),
        }
        reached("exchanged");
        let taken = match look_at(&beside, *max) {
            Ok(taken) if over.allows(&taken) => return Ok(other_names(&beside)),
            taken => taken.unwrap_or(Found::Unreadable),
        };
        // Another program replaced the file between check and exchange.
        let found = self.put_back(&beside, taken);
        if found.is_err() {
            // The file at the temporary name may be another program's, so it is not removed here.
            self.temporary.leave();
        }
        beneath::sync(&self.spot.folder)?;
        Err(FileError::Diverged(found?))
    }

    /// Exchanges back the file that was taken from the path. If that takes out the file that was put there, it is done.
    /// Else another program has replaced the file meanwhile, and the exchange is undone in turn.
    fn put_back(&mut self, beside: &Spot, mut taken: Found) -> Result<Found> {
        let mut placed = Some(self.baseline.digest.clone());
        for _ in 0..PUT_BACK_MAX {
            if !matches!(self.temporary.exchange(&self.spot.name)?, Exchange::Done) {
                // Somebody removed the file since.
                return Ok(Found::Nothing);
            }
            let away = look_at(beside, self.max)?;
            if away.digest() == placed.as_deref() {
                return Ok(taken);
            }
            placed = taken.digest().map(str::to_owned);
            taken = away;
        }
        // The other program keeps replacing the file. The last one taken out stays beside it, for `tidy` to decide.
        self.temporary.leave();
        look_at(&self.spot, self.max)
    }
}

/// Removes temporary files that a crash left of saves with this tag, and makes the folder durable. After a crash
/// right behind the exchange, the temporary name can have a file that another program put at the path in the last
/// moment: that goes back.
pub fn tidy(mount: &Mount, tag: &str, path: &str, known: &Expected, max: u64) -> Result<()> {
    let Some(spot) = beneath::spot(mount, path, Missing::Leave)? else { return Ok(()) };
    for name in temporary::left(&spot.folder, tag)? {
        let left = Spot { folder: spot.folder.try_clone()?, name };
        if !temporary::is_half_written(&left.name) && !known.has(&look_at(&left, max)?) {
            let is_ours =
                look_at(&spot, max)?.digest().is_some_and(|digest| known.begun.iter().any(|own| own == digest));
            if is_ours {
                tracing::warn!(tag, path, "another program's file, which an interrupted save took out, goes back");
                temporary::exchange(&left.folder, &left.name, &spot.name)?;
            }
        }
        temporary::remove(&left.folder, &left.name)?;
    }
    beneath::sync(&spot.folder)
}
