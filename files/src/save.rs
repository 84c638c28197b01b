//! One save: writes a temporary file beside the real one, makes it durable, then puts it in the real one's place.
//!
//! Invariant: a reader sees the whole old file or the whole new one, at whatever moment this process or the machine
//! ends. The last step exchanges the two files atomically, then checks the one that was taken out. If the save may not
//! replace that, it exchanges them back. So there is no moment in which another program's file can be lost.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::time::SystemTime;

use cap_std::fs::{Metadata, MetadataExt as _};
use holdfast_protocol::SessionKey;

use crate::attributes::{self, Old};
use crate::beneath::{self, Made, Missing, Spot};
use crate::failpoint::reached;
use crate::temporary::{self, Exchange, Kind, Temporary};
use crate::{Baseline, Found, Known, Mount, Over, Seen};

/// How often the exchange is undone while another program keeps replacing the file.
const PUT_BACK_MAX: usize = 16;

/// The outcome of a save, or of its first half.
pub enum Save<T> {
    /// It is done.
    Done(T),
    /// This was found, and the save may not replace it.
    Diverged(Found),
    /// The file is what the session knows, but this process may not write it.
    Protected(Protected),
    /// The new file is in its place, and may not be there after a power failure.
    Unsure(Error),
}

/// A file that this process may not write.
#[derive(Debug)]
pub struct Protected {
    pub mode: u32,
    pub uid: u32,
    /// What the kernel says.
    pub error: Error,
}

/// The new file, in its place.
#[derive(Debug)]
pub struct Placed {
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
        Err(error) if beneath::is_linked(&error) => return Ok(Found::Link),
        Err(error) if beneath::is_irregular(&error) => return Ok(Found::Irregular),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(Found::Unreadable),
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

/// Whether a save may replace what is at the file's path.
enum Checked {
    /// It may.
    Free(Found),
    Diverged(Found),
    Protected(Protected),
}

fn check(spot: &Spot, over: &Over, max: u64) -> Result<Checked> {
    let found = look_at(spot, max)?;
    if !over.allows(&found) {
        return Ok(Checked::Diverged(found));
    }
    // Renaming over a file takes the right to write its folder only. A save asks for the right to write the file as
    // well.
    if let (Over::Known(_), Found::File(_)) = (over, &found)
        && let Some(error) = spot.refuses_writing()
    {
        let metadata = spot.folder.symlink_metadata(&spot.name)?;
        return Ok(Checked::Protected(Protected { mode: metadata.mode() & 0o7777, uid: metadata.uid(), error }));
    }
    Ok(Checked::Free(found))
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

/// What to write, where, for which session, and what it may replace.
pub struct Order {
    pub session: SessionKey,
    pub path: String,
    pub text: String,
    /// Digest and size of `text`.
    pub baseline: Baseline,
    pub over: Over,
    /// How many bytes a document's file may have.
    pub max: u64,
}

/// Writes the temporary file and makes it durable, if the save may replace what is there.
pub fn prepare(mount: &Mount, order: Order) -> Result<Save<Prepared>> {
    let mut made = Made::default();
    let mut prepared = prepare_in(mount, order, &mut made);
    match &mut prepared {
        Ok(Save::Done(prepared)) => prepared.made = made,
        _ => made.remove(),
    }
    prepared
}

fn prepare_in(mount: &Mount, order: Order, made: &mut Made) -> Result<Save<Prepared>> {
    let Order { session, path, text, baseline, over, max } = order;
    // Before any folder is made. The last step checks again.
    let checked = match beneath::spot(mount, &path, Missing::Leave)? {
        Some(spot) => check(&spot, &over, max)?,
        None if over.allows(&Found::Nothing) => Checked::Free(Found::Nothing),
        None => Checked::Diverged(Found::Nothing),
    };
    match checked {
        Checked::Free(_) => {}
        Checked::Diverged(found) => return Ok(Save::Diverged(found)),
        Checked::Protected(protected) => return Ok(Save::Protected(protected)),
    }
    reached("checked");
    let spot = beneath::spot(mount, &path, Missing::Make(made))?.ok_or_else(|| Error::from(ErrorKind::NotFound))?;
    reached("folders");
    let old = Old::at(&spot);
    let kind = if old.is_some() { Kind::Replacement } else { Kind::New };
    let mut temporary = Temporary::create(&spot.folder, &session, kind)?;
    reached("created");
    let metadata = write(temporary.file(), text.as_bytes(), old.as_ref())?;
    let baseline = Baseline { mtime: metadata.modified().ok().and_then(when), ..baseline };
    Ok(Save::Done(Prepared { spot, temporary, baseline, over, max, made: Made::default() }))
}

fn write(file: &mut std::fs::File, bytes: &[u8], old: Option<&Old>) -> Result<std::fs::Metadata> {
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

/// The outcome of the last step.
enum Put {
    Placed {
        links_cut: u64,
    },
    /// This was found in the last moment. It is at the path.
    Diverged(Found),
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
    pub fn finish(mut self) -> Result<Save<Placed>> {
        let made = std::mem::take(&mut self.made);
        let finished = self.place();
        if !matches!(finished, Ok(Save::Done(_) | Save::Unsure(_))) {
            made.remove();
        }
        finished
    }

    fn place(mut self) -> Result<Save<Placed>> {
        reached("proven");
        let found = match check(&self.spot, &self.over, self.max)? {
            Checked::Free(found) => found,
            Checked::Diverged(found) => return Ok(Save::Diverged(found)),
            Checked::Protected(protected) => return Ok(Save::Protected(protected)),
        };
        let links_cut = match self.put(&found)? {
            Put::Placed { links_cut } => links_cut,
            Put::Diverged(found) => return Ok(Save::Diverged(found)),
        };
        reached("placed");
        // The replaced file is removed before the folder is made durable, so that it is not back after a power failure.
        let Self { spot, temporary, baseline, .. } = self;
        drop(temporary);
        reached("removed");
        if let Err(error) = beneath::sync(&spot.folder) {
            return Ok(Save::Unsure(error));
        }
        reached("durable");
        Ok(Save::Done(Placed { baseline, links_cut }))
    }

    /// Puts the temporary file at the path, where `found` is.
    fn put(&mut self, found: &Found) -> Result<Put> {
        let Self { spot, temporary, over, max, .. } = self;
        if matches!(found, Found::Nothing) {
            if temporary.put(&spot.name)? {
                return Ok(Put::Placed { links_cut: 0 });
            }
            let found = look_at(spot, *max)?;
            if !over.allows(&found) {
                return Ok(Put::Diverged(found));
            }
        }
        let links_cut = other_names(spot);
        if matches!(over, Over::Anything) {
            return temporary.replace(&spot.name).map(|()| Put::Placed { links_cut });
        }
        let beside = Spot { folder: spot.folder.try_clone()?, name: temporary.name()?.to_owned() };
        match temporary.exchange(&spot.name)? {
            Exchange::Done => {}
            // This file system cannot exchange, so the check before must do.
            Exchange::Unknown => return temporary.replace(&spot.name).map(|()| Put::Placed { links_cut }),
            Exchange::Nothing => return Ok(Put::Diverged(Found::Nothing)),
        }
        reached("exchanged");
        let taken = match look_at(&beside, *max) {
            Ok(taken) if over.allows(&taken) => return Ok(Put::Placed { links_cut: other_names(&beside) }),
            taken => taken.unwrap_or(Found::Unreadable),
        };
        // Another program replaced the file between check and exchange.
        let found = self.put_back(&beside, taken);
        if found.is_err() {
            // The file at the temporary name may be another program's, so it is not removed here.
            self.temporary.leave();
        }
        beneath::sync(&self.spot.folder)?;
        found.map(Put::Diverged)
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

/// Removes temporary files that a crash left of saves of this session, and makes the folder durable. After a crash
/// right behind the exchange, the temporary name can have a file that another program put at the path in the last
/// moment: that goes back.
pub fn tidy(mount: &Mount, session: &SessionKey, path: &str, known: &Known, max: u64) -> Result<()> {
    let Some(spot) = beneath::spot(mount, path, Missing::Leave)? else { return Ok(()) };
    for name in temporary::left(&spot.folder, session)? {
        let left = Spot { folder: spot.folder.try_clone()?, name };
        if !temporary::is_half_written(&left.name) && !known.has(&look_at(&left, max)?) {
            let is_ours =
                look_at(&spot, max)?.digest().is_some_and(|digest| known.begun.iter().any(|own| own == digest));
            if is_ours {
                tracing::warn!(%session, path, "another program's file, which an interrupted save took out, goes back");
                temporary::exchange(&left.folder, &left.name, &spot.name)?;
            }
        }
        temporary::remove(&left.folder, &left.name)?;
    }
    beneath::sync(&spot.folder)
}
