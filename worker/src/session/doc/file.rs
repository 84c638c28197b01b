//! The file of a document, and what becomes of its errors: the one place where those of `files` are the contract's.
//!
//! Invariant: the session learns of a change of its file, since it is watched before it is read.
//! Deliberately absent: how a file is opened, saved and watched; that is `files`.

use std::io::ErrorKind;
use std::sync::Arc;

use holdfast_files::{
    self as files, Baseline, Expected, FileError, Found, Mount, Order, Over, Placed, Prepared, Real, Tag, Watched,
    real_path, save,
};
use holdfast_frontmatter::split;
use holdfast_protocol::document::body_too_large;
use holdfast_protocol::error::Reason;
use holdfast_protocol::path::{CanonicalPath, TEMPORARY_PREFIX};
use holdfast_protocol::{Error, Limits, Namespace, SessionId, SessionKey, SessionRecord};
use serde_json::{Map, Value};

use super::disk::Standpoint;
use super::front;
use crate::machine::Unfinished;

/// A file's content.
pub(super) struct Content {
    pub(super) front: String,
    pub(super) fields: Map<String, Value>,
    pub(super) body: String,
    pub(super) baseline: Baseline,
}

/// Where a document's file is.
pub(super) struct File {
    session: SessionKey,
    workspace: String,
    path: String,
    mount: Option<Arc<Mount>>,
    /// Notifies the session of changes of the file.
    watched: Option<Arc<Watched>>,
}

impl File {
    pub(super) fn of(record: &SessionRecord, mount: Option<Arc<Mount>>) -> Option<Self> {
        let (workspace, path) = (record.workspace.as_ref()?.to_string(), record.path.as_ref()?.to_string());
        let session = record.key();
        let watched = mount
            .as_ref()
            .and_then(|mount| mount.watch.as_ref()?.register(mount.real_name(), &path, &tag(&session)))
            .map(Arc::new);
        Some(Self { session, workspace, path, mount, watched })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn session(&self) -> &SessionId {
        &self.session.id
    }

    pub(super) fn workspace(&self) -> &str {
        &self.workspace
    }

    pub(super) fn missing(&self) -> Error {
        self.describe(Error::new(Reason::NoFile, format!("{} is not in workspace {}", self.path, self.workspace)))
    }

    /// Names the session and its file in `error`.
    pub(super) fn describe(&self, error: Error) -> Error {
        error
            .detail("session_id", self.session.id.as_str())
            .detail("path", self.path.as_str())
            .detail("workspace", self.workspace.as_str())
    }

    fn mount(&self) -> Result<Arc<Mount>, Error> {
        self.mount.clone().ok_or_else(|| {
            self.describe(Error::new(
                Reason::NoWorkspace,
                format!("this worker does not have workspace {}", self.workspace),
            ))
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

    /// Starts the watch of the file, then does `work` with it, so that no change between the two is missed.
    async fn watching<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> files::Result<T> + Send + 'static,
    ) -> files::Result<T> {
        let watched = self.watched.clone();
        blocking(move || {
            watched.iter().for_each(|watched| watched.begin());
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
        let Some((bytes, metadata)) = read.map_err(|error| self.refusal("read", error, None))? else { return Ok(None) };
        if bytes.len() as u64 > max {
            return Err(self.describe(body_too_large(limits)));
        }
        let baseline = Baseline { mtime: save::mtime(&metadata), ..Baseline::of(&bytes) };
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            self.describe(Error::new(Reason::NotUtf8, format!("{} is not UTF-8 at byte {at}", self.path)))
        })?;
        let parts = split(&text);
        if parts.body.len() > limits.body_bytes {
            return Err(self.describe(body_too_large(limits)));
        }
        let fields = front::read(parts.front, limits).map_err(|error| self.describe(error))?;
        Ok(Some(Content { front: parts.front.to_owned(), fields, body: parts.body.to_owned(), baseline }))
    }

    /// What is at the file's path now.
    ///
    /// # Errors
    /// `no_workspace`, `io`.
    pub(super) async fn look(&self, limits: &Limits) -> Result<Found, Error> {
        let (mount, path, max) = (self.mount()?, self.path.clone(), bytes_max(limits));
        match self.watching(move || save::look(&mount, &path, max)).await {
            Err(FileError::Linked(_)) => Ok(Found::Link),
            looked => looked.map_err(|error| self.refusal("read", error, None)),
        }
    }

    /// Removes temporary files that a crash left of saves of this session, and makes the folder durable. `known` is
    /// what the session knows of its file.
    ///
    /// # Errors
    /// `no_workspace`, `workspace_denied`, `io`, `path_escape`.
    pub(super) async fn tidy(&self, known: Expected, limits: &Limits) -> Result<(), Error> {
        let (mount, path, max) = (self.writable()?, self.path.clone(), bytes_max(limits));
        let tag = tag(&self.session);
        let tidied = blocking(move || save::tidy(&mount, &tag, &path, &known, max)).await;
        tidied.map_err(|error| self.refusal("clean up beside", error, None))
    }

    /// Writes a file beside the real one, which is not touched yet; its folders are made. `baseline` is of `text`.
    ///
    /// # Errors
    /// `no_workspace`, `workspace_denied`, `io`, `path_escape`, `disk_diverged`.
    pub(super) async fn prepare(
        &self,
        text: String,
        baseline: Baseline,
        over: Over,
        known: &Standpoint,
        limits: &Limits,
    ) -> Result<Prepared, Error> {
        let mount = self.writable()?;
        let is_asked_to = matches!(over, Over::Anything);
        let order =
            Order { tag: tag(&self.session), path: self.path.clone(), text, baseline, over, max: bytes_max(limits) };
        blocking(move || save::prepare(&mount, order)).await.map_err(|error| match error {
            // One of the path's folders is a link now: what is behind it belongs to another session.
            FileError::Linked(_) if !is_asked_to && !self.leaves() => known.diverged(self, &Found::Link),
            error => self.refusal("write", error, Some(known)),
        })
    }

    /// Puts it in the file's place.
    ///
    /// # Errors
    /// `io`, `path_escape`, `disk_diverged`.
    pub(super) async fn finish(&self, prepared: Prepared, known: &Standpoint) -> Result<Placed, Unfinished> {
        // The folder may not have existed before, so the watch is started again.
        self.watching(move || prepared.finish()).await.map_err(|error| match error {
            FileError::Unsure(error) => Unfinished::Unsure(self.refusal("write", *error, None)),
            error => Unfinished::Refused(self.refusal("write", error, Some(known))),
        })
    }

    /// Does long work of the processor on a thread that may block.
    ///
    /// # Errors
    /// Those of `work`, and `io` where the process ends.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let done = blocking(move || Ok(work())).await;
        done.map_err(|error| self.refusal("write", error, None))?.map_err(|error| self.describe(error))
    }

    /// The contract's error for one of the file's. `known` is for saves, which alone compare.
    fn refusal(&self, doing: &str, error: FileError, known: Option<&Standpoint>) -> Error {
        match (error, known) {
            (FileError::Diverged(found), Some(known)) => known.diverged(self, &found),
            (FileError::Protected { mode, uid, source }, _) => self.protected(mode, uid, &source),
            (error @ FileError::Displaced(_), _) => self.describe(displaced(&error)),
            (FileError::Linked(_), _) if self.leaves() => self.describe(escape(&self.path)),
            (error, _) => self.describe(Error::new(Reason::Io, format!("cannot {doing} {}: {error}", self.path))),
        }
    }

    /// The refusal to replace a file that this worker may not write.
    fn protected(&self, mode: u32, uid: u32, error: &std::io::Error) -> Error {
        let message = format!("{} is not written: its mode is {mode:04o}, its owner is uid {uid}: {error}", self.path);
        // An immutable file cannot be replaced either.
        let is_of_rights = error.kind() == ErrorKind::PermissionDenied && error.raw_os_error() != Some(EPERM);
        self.describe(Error::new(Reason::Io, message))
            .advise(if is_of_rights { &["save_overwrite"] } else { &[] })
            .detail("mode", format!("{mode:04o}"))
            .detail("uid", uid)
    }

    /// Whether links at the path lead out of the workspace now.
    fn leaves(&self) -> bool {
        let real = self.mount().map(|mount| real_path(&mount, &self.path));
        matches!(real, Ok(Ok(Real::Outside)))
    }
}

/// The kernel's error for a file whose attributes forbid writing; for a file whose mode forbids it, the error is
/// `EACCES`.
const EPERM: i32 = rustix::io::Errno::PERM.raw_os_error();

/// The tag of a session's temporary files and watches.
fn tag(session: &SessionKey) -> Tag {
    format!("{TEMPORARY_PREFIX}{session}").into()
}

/// The session of a tag.
pub(crate) fn session_of(tag: &str) -> Option<SessionKey> {
    let (namespace, id) = tag.strip_prefix(TEMPORARY_PREFIX)?.split_once('.')?;
    Some(SessionKey::new(Namespace::parse(namespace).ok()?, SessionId::parse(id).ok()?))
}

/// How many bytes the file of a document may have.
fn bytes_max(limits: &Limits) -> u64 {
    (limits.body_bytes + front::text_bytes(limits)) as u64
}

/// The refusal where the workspace's folder was moved or unmounted.
fn displaced(error: &FileError) -> Error {
    Error::new(Reason::NoWorkspace, format!("{error}; put it back, or start the worker again"))
}

fn escape(path: &str) -> Error {
    Error::new(Reason::PathEscape, format!("a symbolic link leads {path} out of its workspace"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> files::Result<T> + Send + 'static) -> files::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// The real path of `path`, with all symbolic links followed.
///
/// # Errors
/// `path_escape`, `invalid_path`, `no_workspace`, `io`.
pub(crate) async fn resolve(mount: Arc<Mount>, path: &CanonicalPath, limits: &Limits) -> Result<CanonicalPath, Error> {
    let name = path.to_string();
    let real = blocking(move || real_path(&mount, &name)).await;
    let nameless = || Error::new(Reason::InvalidPath, format!("the real path of {path} is not a valid path"));
    let refused = |error: FileError| match error {
        FileError::Displaced(_) => displaced(&error),
        FileError::Io(error) if error.kind() == ErrorKind::InvalidFilename => {
            Error::new(Reason::InvalidPath, format!("no file can be called {path}: {error}"))
        }
        error => Error::new(Reason::Io, format!("cannot follow {path}: {error}")),
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
