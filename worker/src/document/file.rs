//! The file of a document, beneath the folder of its workspace.
//!
//! Invariant: nothing outside of the folder is read or written, whatever links are in it. A save is atomic, and goes over
//! nothing but what the session knows, unless it is told to.
//! Deliberately absent: hard links, which cannot be told from files, and file systems that fold case: there two names may be
//! sessions of one file, and the second save finds it diverged.

mod attributes;
mod beneath;
mod failpoint;
mod save;
mod temporary;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::sync::Arc;

use holdfast_protocol::document::body_too_large;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::OpEvent;
use holdfast_protocol::path::CanonicalPath;
use holdfast_protocol::{Error, Limits, SessionKey, SessionRecord};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::frontmatter;
use crate::watch::Watched;
use crate::workspace::{Mount, is_displaced};
use beneath::Real;
#[cfg(feature = "failpoints")]
pub use failpoint::STEPS;
use save::{Order, Protected, Save};
pub(super) use save::{Placed, Prepared};

/// A file as it was last read or written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    /// blake3, hex.
    pub(super) digest: String,
    /// Size.
    pub(super) bytes: u64,
    /// When the file was changed last then, by the clock of its file system. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mtime: Option<String>,
}

impl Baseline {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { digest: blake3::hash(bytes).to_hex().to_string(), bytes: bytes.len() as u64, mtime: None }
    }
}

/// A file that is there.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// `None`: it is larger than any document's file.
    pub(super) digest: Option<String>,
    pub(super) bytes: u64,
    pub(super) mtime: Option<String>,
    /// Who owns it.
    pub(super) uid: u32,
}

/// What stands where the file should be.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Nothing,
    File(Seen),
    /// A symbolic link, there or in place of a folder, which is nothing that this session wrote.
    Link,
    /// A folder, a pipe, a device.
    Irregular,
    /// Something that this worker may not read.
    Unreadable,
}

impl Found {
    pub(super) fn digest(&self) -> Option<&str> {
        match self {
            Self::File(seen) => seen.digest.as_deref(),
            Self::Nothing | Self::Link | Self::Irregular | Self::Unreadable => None,
        }
    }
}

/// A file's content.
pub(super) struct Content {
    pub(super) front: String,
    pub(super) fields: Map<String, Value>,
    pub(super) body: String,
    pub(super) baseline: Baseline,
}

/// What a save may write over.
pub(super) enum Over {
    Anything,
    /// Only what the session knows.
    Known(Known),
}

/// What a session knows of its file.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Digest of what was last read or written; `None`: there was none.
    pub(super) baseline: Option<String>,
    /// Digests of saves that may have come as far as the file, and not as far as the log.
    pub(super) begun: Vec<String>,
}

impl Over {
    fn allows(&self, found: &Found) -> bool {
        match self {
            Self::Anything => true,
            Self::Known(known) => known.has(found),
        }
    }
}

impl Known {
    /// Whether `found` is of this session's own making, or as it read it.
    pub(super) fn has(&self, found: &Found) -> bool {
        match found {
            Found::Nothing => self.baseline.is_none(),
            Found::File(Seen { digest: Some(digest), .. }) => {
                self.begun.contains(digest) || self.baseline.as_ref() == Some(digest)
            }
            Found::File(_) | Found::Link | Found::Irregular | Found::Unreadable => false,
        }
    }
}

/// What became of writing, or of its first half.
pub(super) enum Written<T> {
    Done(T),
    Diverged(Found),
}

/// What became of the last step.
pub(super) enum Finished {
    Known(Written<Placed>),
    /// It was made, and may not last.
    Unsure(Error),
}

/// Where a document's file is.
pub(super) struct File {
    session: SessionKey,
    workspace: String,
    path: String,
    mount: Option<Arc<Mount>>,
    /// Has the session told when something happens to the file.
    watched: Option<Arc<Watched>>,
}

impl File {
    pub(super) fn of(record: &SessionRecord, mount: Option<Arc<Mount>>) -> Option<Self> {
        let (workspace, path) = (record.workspace.as_ref()?.to_string(), record.path.as_ref()?.to_string());
        let session = record.key();
        let watched = mount
            .as_ref()
            .and_then(|mount| mount.watch.as_ref()?.register(mount.real_name(), &path, &session))
            .map(Arc::new);
        Some(Self { session, workspace, path, mount, watched })
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
        OpEvent { kind, revision: after, previous_revision: before, changed, actor, path, error: None }
    }

    pub(super) fn missing(&self) -> Error {
        self.describe(Error::new(Reason::NoFile, format!("{} is not in workspace {}", self.path, self.workspace)))
    }

    /// Names the file in `error`.
    pub(super) fn describe(&self, error: Error) -> Error {
        error.detail("path", self.path.as_str()).detail("workspace", self.workspace.as_str())
    }

    fn mount(&self) -> Result<Arc<Mount>, Error> {
        self.mount.clone().ok_or_else(|| {
            self.describe(Error::new(Reason::NoWorkspace, format!("this worker has no workspace {}", self.workspace)))
        })
    }

    /// The mount of a workspace that may be written.
    ///
    /// # Errors
    /// `no_workspace`, `workspace_denied`.
    pub(super) fn writable(&self) -> Result<Arc<Mount>, Error> {
        let mount = self.mount()?;
        if mount.writable {
            return Ok(mount);
        }
        let message = format!("workspace {} is read-only", self.workspace);
        Err(self.describe(Error::new(Reason::WorkspaceDenied, message)))
    }

    /// Does `work` with the file, of which the session is told from now on: else a change in between would be missed.
    async fn watching<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let watched = self.watched.clone();
        let begin = move || watched.iter().for_each(|watched| watched.begin());
        blocking(move || {
            begin();
            work()
        })
        .await
    }

    /// The file's content; `None` where there is no file.
    ///
    /// # Errors
    /// `no_workspace`, `io`, `not_utf8`, `path_escape`, `bad_frontmatter`, `body_too_large`, `fields_too_large`.
    pub(super) async fn read(&self, limits: &Limits) -> Result<Option<Content>, Error> {
        let (mount, path, max) = (self.mount()?, self.path.clone(), bytes_max(limits));
        let read = self.watching(move || save::read(&mount, &path, max)).await;
        let Some((bytes, metadata)) = read.map_err(|error| self.io("read", &error))? else { return Ok(None) };
        if bytes.len() as u64 > max {
            return Err(self.describe(body_too_large(limits)));
        }
        let baseline = Baseline { mtime: save::mtime(&metadata), ..Baseline::of(&bytes) };
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            self.describe(Error::new(Reason::NotUtf8, format!("{} is not UTF-8 at byte {at}", self.path)))
        })?;
        let parts = frontmatter::split(&text);
        if parts.body.len() > limits.body_bytes {
            return Err(self.describe(body_too_large(limits)));
        }
        let fields = frontmatter::read(parts.front, limits).map_err(|error| self.describe(error))?;
        Ok(Some(Content { front: parts.front.to_owned(), fields, body: parts.body.to_owned(), baseline }))
    }

    /// What stands there now.
    ///
    /// # Errors
    /// `no_workspace`, `io`.
    pub(super) async fn look(&self, limits: &Limits) -> Result<Found, Error> {
        let (mount, path, max) = (self.mount()?, self.path.clone(), bytes_max(limits));
        match self.watching(move || save::look(&mount, &path, max)).await {
            Err(error) if beneath::is_linked(&error) => Ok(Found::Link),
            looked => looked.map_err(|error| self.io("read", &error)),
        }
    }

    /// Removes what a crash left of saves of this session, which knows this much of its file, and makes durable what they came
    /// to.
    ///
    /// # Errors
    /// `no_workspace`, `workspace_denied`, `io`, `path_escape`.
    pub(super) async fn tidy(&self, known: Known, limits: &Limits) -> Result<(), Error> {
        let (mount, session, path) = (self.writable()?, self.session.clone(), self.path.clone());
        let max = bytes_max(limits);
        let tidied = blocking(move || save::tidy(&mount, &session, &path, &known, max)).await;
        tidied.map_err(|error| self.io("clean up beside", &error))
    }

    /// Writes a file beside the real one, which is not touched yet; its folders are made. `baseline` is of `text`.
    ///
    /// # Errors
    /// `no_workspace`, `workspace_denied`, `io`, `path_escape`.
    pub(super) async fn prepare(
        &self,
        text: String,
        baseline: Baseline,
        over: Over,
        limits: &Limits,
    ) -> Result<Written<Prepared>, Error> {
        let mount = self.writable()?;
        let (session, path) = (self.session.clone(), self.path.clone());
        let is_asked_to = matches!(over, Over::Anything);
        let order = Order { session, path, text, baseline, over, max: bytes_max(limits) };
        match blocking(move || save::prepare(&mount, order)).await {
            // A folder further up is one now, and what it leads to is another session's.
            Err(error) if beneath::is_linked(&error) && !is_asked_to && !self.leaves() => {
                Ok(Written::Diverged(Found::Link))
            }
            prepared => self.written("write", prepared),
        }
    }

    /// Puts it in the file's place.
    ///
    /// # Errors
    /// `io`, `path_escape`.
    pub(super) async fn finish(&self, prepared: Prepared) -> Result<Finished, Error> {
        // Its folder was made by now.
        match self.watching(move || prepared.finish()).await {
            Ok(Save::Unsure(error)) => Ok(Finished::Unsure(self.io("write", &error))),
            finished => self.written("write", finished).map(Finished::Known),
        }
    }

    fn written<T>(&self, doing: &str, saved: std::io::Result<Save<T>>) -> Result<Written<T>, Error> {
        match saved.map_err(|error| self.io(doing, &error))? {
            Save::Done(done) => Ok(Written::Done(done)),
            Save::Diverged(found) => Ok(Written::Diverged(found)),
            Save::Protected(protected) => Err(self.protected(&protected)),
            Save::Unsure(error) => Err(self.io(doing, &error)),
        }
    }

    fn io(&self, doing: &str, error: &std::io::Error) -> Error {
        if is_displaced(error) {
            return self.describe(displaced(error));
        }
        if beneath::is_linked(error) && self.leaves() {
            return self.describe(escape(&self.path));
        }
        self.describe(Error::new(Reason::Io, format!("cannot {doing} {}: {error}", self.path)))
    }

    /// The refusal to replace a file that this worker may not write.
    fn protected(&self, Protected { mode, uid, error }: &Protected) -> Error {
        let message = format!("{} is not written: its mode is {mode:04o}, its owner is uid {uid}: {error}", self.path);
        // What its attributes forbid, such as that it is immutable, they forbid to a replacement too.
        let is_of_rights = error.kind() == ErrorKind::PermissionDenied && error.raw_os_error() != Some(EPERM);
        self.describe(Error::new(Reason::Io, message))
            .advise(if is_of_rights { &["save_overwrite"] } else { &[] })
            .detail("mode", format!("{mode:04o}"))
            .detail("uid", *uid)
    }

    /// Whether links lead out of the workspace by now.
    fn leaves(&self) -> bool {
        let real = self.mount().map(|mount| beneath::real_path(&mount, &self.path));
        matches!(real, Ok(Ok(Real::Outside)))
    }
}

/// What the kernel says of a file whose attributes forbid it; of one whose mode does, it says `EACCES`.
const EPERM: i32 = rustix::io::Errno::PERM.raw_os_error();

/// How many bytes the file of a document may have.
fn bytes_max(limits: &Limits) -> u64 {
    (limits.body_bytes + frontmatter::text_limit(limits)) as u64
}

/// A worker that lost a workspace's folder has the workspace no more.
fn displaced(error: &std::io::Error) -> Error {
    Error::new(Reason::NoWorkspace, format!("{error}; put it back, or start the worker again"))
}

fn escape(path: &str) -> Error {
    Error::new(Reason::PathEscape, format!("{path} leaves its workspace by a symbolic link"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// The real path of `path`: what it leads to when symbolic links are followed.
///
/// # Errors
/// `path_escape`, `invalid_path`, `no_workspace`, `io`.
pub(crate) async fn resolve(mount: Arc<Mount>, path: &CanonicalPath, limits: &Limits) -> Result<CanonicalPath, Error> {
    let name = path.to_string();
    let real = blocking(move || beneath::real_path(&mount, &name)).await;
    let nameless = || Error::new(Reason::InvalidPath, format!("{path} leads to something that no path can name"));
    let refused = |error: std::io::Error| match error.kind() {
        _ if is_displaced(&error) => displaced(&error),
        ErrorKind::InvalidFilename => Error::new(Reason::InvalidPath, format!("no file can be called {path}: {error}")),
        _ => Error::new(Reason::Io, format!("cannot follow {path}: {error}")),
    };
    match real.map_err(refused)? {
        Real::Outside => Err(escape(path.as_str())),
        Real::Nameless => Err(nameless()),
        Real::Path(real) => match CanonicalPath::parse(&real, limits.path_chars) {
            Ok(canonical) if canonical.as_str() == real => Ok(canonical),
            _ => Err(nameless()),
        },
    }
}
