//! The file of a document, beneath the folder of its workspace.
//!
//! Invariant: nothing outside of the folder is read or written, whatever links are in it. A save is atomic. Without
//! `overwrite` it replaces only what the session knows and may write.
//! Deliberately absent: detection of hard links and of file systems that ignore case. There two paths can be two
//! sessions of one file, and the second save is `disk_diverged`.

use std::io::ErrorKind;
use std::sync::Arc;

use holdfast_protocol::document::body_too_large;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::OpEvent;
use holdfast_protocol::path::CanonicalPath;
use holdfast_protocol::{Error, Limits, SessionKey, SessionRecord};
use serde_json::{Map, Value};

use super::front;

use holdfast_files::{
    Baseline, Found, Known, Mount, Order, Over, Placed, Prepared, Protected, Real, Save, Watched, is_displaced,
    is_linked, real_path, save,
};
use holdfast_frontmatter::split;

/// A file's content.
pub(super) struct Content {
    pub(super) front: String,
    pub(super) fields: Map<String, Value>,
    pub(super) body: String,
    pub(super) baseline: Baseline,
}

/// The outcome of a save, or of its first half.
pub(super) enum Written<T> {
    Done(T),
    Diverged(Found),
}

/// The outcome of the last step of a save.
pub(super) enum Finished {
    Known(Written<Placed>),
    /// The file is in its place, and may not be there after a power failure.
    Unsure(Error),
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
            Err(error) if is_linked(&error) => Ok(Found::Link),
            looked => looked.map_err(|error| self.io("read", &error)),
        }
    }

    /// Removes temporary files that a crash left of saves of this session, and makes the folder durable. `known` is
    /// what the session knows of its file.
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
            // One of the path's folders is a link now: what is behind it belongs to another session.
            Err(error) if is_linked(&error) && !is_asked_to && !self.leaves() => Ok(Written::Diverged(Found::Link)),
            prepared => self.written("write", prepared),
        }
    }

    /// Puts it in the file's place.
    ///
    /// # Errors
    /// `io`, `path_escape`.
    pub(super) async fn finish(&self, prepared: Prepared) -> Result<Finished, Error> {
        // The folder exists only now, so the watch is started again.
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
        if is_linked(error) && self.leaves() {
            return self.describe(escape(&self.path));
        }
        self.describe(Error::new(Reason::Io, format!("cannot {doing} {}: {error}", self.path)))
    }

    /// The refusal to replace a file that this worker may not write.
    fn protected(&self, Protected { mode, uid, error }: &Protected) -> Error {
        let message = format!("{} is not written: its mode is {mode:04o}, its owner is uid {uid}: {error}", self.path);
        // An immutable file cannot be replaced either.
        let is_of_rights = error.kind() == ErrorKind::PermissionDenied && error.raw_os_error() != Some(EPERM);
        self.describe(Error::new(Reason::Io, message))
            .advise(if is_of_rights { &["save_overwrite"] } else { &[] })
            .detail("mode", format!("{mode:04o}"))
            .detail("uid", *uid)
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

/// How many bytes the file of a document may have.
fn bytes_max(limits: &Limits) -> u64 {
    (limits.body_bytes + front::text_bytes(limits)) as u64
}

/// The refusal where the workspace's folder was moved or unmounted.
fn displaced(error: &std::io::Error) -> Error {
    Error::new(Reason::NoWorkspace, format!("{error}; put it back, or start the worker again"))
}

fn escape(path: &str) -> Error {
    Error::new(Reason::PathEscape, format!("a symbolic link leads {path} out of its workspace"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
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
