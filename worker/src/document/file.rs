//! The file of a document, beneath the folder of its workspace.
//!
//! Invariant: nothing outside of the folder is read or written, whatever links are in it: every path is resolved by cap-std
//! relative to the folder's handle. A save is atomic: a reader sees the old file or the new one, whole.
//! Deliberately absent: front matter. The body is the whole file.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use holdfast_protocol::document::body_too_large;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::OpEvent;
use holdfast_protocol::{Error, Limits, SessionRecord};
use serde::{Deserialize, Serialize};

use crate::config::Workspace;

/// A file as it was last read or written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    /// blake3, hex.
    pub(super) digest: String,
    /// Size.
    pub(super) bytes: u64,
}

/// A file's content.
pub(super) struct Found {
    pub(super) text: String,
    pub(super) baseline: Baseline,
}

/// What a save may write over.
pub(super) enum Written {
    /// Whatever is there.
    Anything,
    /// Only this; `None`: only where no file is.
    Only(Option<Baseline>),
}

/// Where a document's file is.
pub(super) struct File {
    workspace: String,
    path: String,
    folder: Option<Arc<Workspace>>,
}

impl File {
    pub(super) fn of(record: &SessionRecord, folder: Option<Arc<Workspace>>) -> Option<Self> {
        let (workspace, path) = (record.workspace.as_ref()?.to_string(), record.path.as_ref()?.to_string());
        Some(Self { workspace, path, folder })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn workspace(&self) -> &str {
        &self.workspace
    }

    pub(super) fn event(
        &self,
        kind: &str,
        before: u64,
        after: u64,
        changed: Vec<String>,
        actor: Option<String>,
    ) -> OpEvent {
        let (kind, path) = (kind.to_owned(), Some(self.path.clone()));
        OpEvent { kind, revision: after, previous_revision: before, changed, actor, path }
    }

    pub(super) fn missing(&self) -> Error {
        self.describe(Error::new(Reason::NoFile, format!("{} is not in workspace {}", self.path, self.workspace)))
    }

    fn describe(&self, error: Error) -> Error {
        error.detail("path", self.path.as_str()).detail("workspace", self.workspace.as_str())
    }

    fn folder(&self) -> Result<Arc<Workspace>, Error> {
        self.folder.clone().ok_or_else(|| {
            self.describe(Error::new(Reason::NoWorkspace, format!("this worker has no workspace {}", self.workspace)))
        })
    }

    /// The file's content; `None` where there is no file.
    ///
    /// # Errors
    /// `no_workspace`, `io`, `not_utf8`, `path_escape`, `body_too_large`.
    pub(super) async fn read(&self, limits: &Limits) -> Result<Option<Found>, Error> {
        let (folder, path, max) = (self.folder()?, self.path.clone(), limits.body_bytes as u64);
        let read = blocking(move || read(&folder, &path, max)).await;
        let Some(bytes) = read.map_err(|error| self.io("read", &error))? else { return Ok(None) };
        if bytes.len() as u64 > max {
            return Err(self.describe(body_too_large(limits)));
        }
        let baseline = baseline(&bytes);
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            self.describe(Error::new(Reason::NotUtf8, format!("{} is not UTF-8 at byte {at}", self.path)))
        })?;
        Ok(Some(Found { text, baseline }))
    }

    /// Writes the file, its folders included.
    ///
    /// # Errors
    /// `no_workspace`, `workspace_denied`, `io`, `path_escape`, `disk_diverged`.
    pub(super) async fn write(&self, text: String, over: Written) -> Result<Baseline, Error> {
        let folder = self.folder()?;
        if !folder.writable {
            let message = format!("workspace {} is read-only", self.workspace);
            return Err(self.describe(Error::new(Reason::WorkspaceDenied, message)));
        }
        let path = self.path.clone();
        let written = blocking(move || write(&folder, &path, text.as_bytes(), &over)).await;
        match written.map_err(|error| self.io("write", &error))? {
            Save::Done(baseline) => Ok(baseline),
            Save::Diverged { expected, found } => {
                let message = format!("{} was changed on disk since this session read it", self.path);
                let digest = |baseline: Option<Baseline>| baseline.map(|baseline| baseline.digest);
                Err(self
                    .describe(Error::new(Reason::DiskDiverged, message))
                    .detail("expected_digest", digest(expected))
                    .detail("found_digest", digest(found)))
            }
        }
    }

    fn io(&self, doing: &str, error: &std::io::Error) -> Error {
        // cap-std answers an attempt to leave the folder with PermissionDenied and this text.
        let reason =
            if error.to_string().contains("outside of the filesystem") { Reason::PathEscape } else { Reason::Io };
        self.describe(Error::new(reason, format!("cannot {doing} {}: {error}", self.path)))
    }
}

/// What became of a save.
enum Save {
    Done(Baseline),
    Diverged { expected: Option<Baseline>, found: Option<Baseline> },
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

fn baseline(bytes: &[u8]) -> Baseline {
    Baseline { digest: blake3::hash(bytes).to_hex().to_string(), bytes: bytes.len() as u64 }
}

fn open(workspace: &Workspace) -> std::io::Result<Dir> {
    Dir::open_ambient_dir(&workspace.dir, ambient_authority())
}

/// At most one byte more than `max`.
fn read(workspace: &Workspace, path: &str, max: u64) -> std::io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    let file = match open(workspace)?.open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn write(workspace: &Workspace, path: &str, bytes: &[u8], over: &Written) -> std::io::Result<Save> {
    let root = open(workspace)?;
    if let Written::Only(expected) = over {
        let found = read(workspace, path, u64::MAX - 1)?.map(|bytes| baseline(&bytes));
        // An earlier copy of the same request may have written the file, and not its frame.
        if found != *expected && found != Some(baseline(bytes)) {
            return Ok(Save::Diverged { expected: expected.clone(), found });
        }
    }
    let path = Path::new(path);
    let name = path.file_name().ok_or_else(|| std::io::Error::other("the path has no file name"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = match parent {
        Some(parent) => {
            root.create_dir_all(parent)?;
            root.open_dir(parent)?
        }
        None => root,
    };
    let temporary = format!(".holdfast-{}", uuid::Uuid::now_v7());
    let written = replace(&folder, &temporary, Path::new(name), bytes);
    if written.is_err() {
        // What is left of a failed save is nobody's file; that it cannot be removed either changes nothing for the caller.
        folder.remove_file(&temporary).ok();
    }
    written.map(|()| Save::Done(baseline(bytes)))
}

fn replace(folder: &Dir, temporary: &str, name: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = folder.open_with(temporary, OpenOptions::new().write(true).create_new(true))?;
    file.write_all(bytes)?;
    if let Ok(old) = folder.metadata(name) {
        file.set_permissions(old.permissions())?;
    }
    file.sync_all()?;
    folder.rename(temporary, folder, name)?;
    // The rename itself is durable only once the folder is.
    folder.open(".")?.sync_all()
}
