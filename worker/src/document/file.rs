//! The file of a document, beneath the folder of its workspace.
//!
//! Invariant: nothing outside of the folder is read or written, whatever links are in it. A save is atomic, and goes over
//! nothing but what the session knows, unless it is told to.
//! Deliberately absent: hard links, which cannot be told from files, and file systems that fold case or normalise names:
//! there two names may be sessions of one file, and the second save finds it diverged.

mod beneath;
mod failpoint;
mod save;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use holdfast_protocol::document::body_too_large;
use holdfast_protocol::error::Reason;
use holdfast_protocol::frame::OpEvent;
use holdfast_protocol::path::CanonicalPath;
use holdfast_protocol::{Error, Limits, SessionId, SessionRecord};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::frontmatter;
use crate::config::Workspace;
use beneath::Real;
#[cfg(feature = "failpoints")]
pub use failpoint::STEPS;
use save::Save;

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
    pub(super) fn of(bytes: &[u8], mtime: Option<String>) -> Self {
        Self { digest: blake3::hash(bytes).to_hex().to_string(), bytes: bytes.len() as u64, mtime }
    }
}

/// A file that is there.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) digest: String,
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
    /// A symbolic link, which is nothing that this session wrote.
    Link,
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
    /// As it was last read or written; `None`: there was none.
    pub(super) baseline: Option<Baseline>,
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
            Found::File(seen) => {
                self.begun.contains(&seen.digest)
                    || self.baseline.as_ref().is_some_and(|baseline| baseline.digest == seen.digest)
            }
            Found::Link => false,
        }
    }
}

/// What became of writing.
pub(super) enum Written {
    Done(Baseline),
    Diverged(Found),
}

/// Where a document's file is.
pub(super) struct File {
    session: SessionId,
    workspace: String,
    path: String,
    folder: Option<Arc<Workspace>>,
}

impl File {
    pub(super) fn of(record: &SessionRecord, folder: Option<Arc<Workspace>>) -> Option<Self> {
        let (workspace, path) = (record.workspace.as_ref()?.to_string(), record.path.as_ref()?.to_string());
        Some(Self { session: record.id.clone(), workspace, path, folder })
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

    /// Names the file in `error`.
    pub(super) fn describe(&self, error: Error) -> Error {
        error.detail("path", self.path.as_str()).detail("workspace", self.workspace.as_str())
    }

    fn folder(&self) -> Result<Arc<Workspace>, Error> {
        self.folder.clone().ok_or_else(|| {
            self.describe(Error::new(Reason::NoWorkspace, format!("this worker has no workspace {}", self.workspace)))
        })
    }

    /// The folder of a workspace that may be written.
    ///
    /// # Errors
    /// `no_workspace`, `workspace_denied`.
    pub(super) fn writable(&self) -> Result<Arc<Workspace>, Error> {
        let folder = self.folder()?;
        if folder.writable {
            return Ok(folder);
        }
        let message = format!("workspace {} is read-only", self.workspace);
        Err(self.describe(Error::new(Reason::WorkspaceDenied, message)))
    }

    /// The file's content; `None` where there is no file.
    ///
    /// # Errors
    /// `no_workspace`, `io`, `not_utf8`, `path_escape`, `bad_frontmatter`, `body_too_large`, `fields_too_large`.
    pub(super) async fn read(&self, limits: &Limits) -> Result<Option<Content>, Error> {
        let (folder, path) = (self.folder()?, self.path.clone());
        let max = (limits.body_bytes + frontmatter::text_limit(limits)) as u64;
        let read = blocking(move || save::read(&folder, &path, max)).await;
        let Some((bytes, metadata)) = read.map_err(|error| self.io("read", &error))? else { return Ok(None) };
        if bytes.len() as u64 > max {
            return Err(self.describe(body_too_large(limits)));
        }
        let baseline = Baseline::of(&bytes, save::mtime(&metadata));
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
    /// `no_workspace`, `io`, `path_escape`.
    pub(super) async fn look(&self) -> Result<Found, Error> {
        let (folder, path) = (self.folder()?, self.path.clone());
        blocking(move || save::look(&folder, &path)).await.map_err(|error| self.io("read", &error))
    }

    /// Removes what a crash left of saves of this session.
    ///
    /// # Errors
    /// `no_workspace`, `workspace_denied`, `io`, `path_escape`.
    pub(super) async fn sweep(&self) -> Result<(), Error> {
        let (folder, session, path) = (self.writable()?, self.session.clone(), self.path.clone());
        let swept = blocking(move || save::sweep(&folder, &session, &path)).await;
        swept.map_err(|error| self.io("clean up beside", &error))
    }

    /// Writes the file, its folders included.
    ///
    /// # Errors
    /// `no_workspace`, `workspace_denied`, `io`, `path_escape`.
    pub(super) async fn write(&self, text: String, over: Over) -> Result<Written, Error> {
        let (folder, session, path) = (self.writable()?, self.session.clone(), self.path.clone());
        let saved = blocking(move || save::save(&folder, &session, &path, text.as_bytes(), &over)).await;
        match saved.map_err(|error| self.io("write", &error))? {
            Save::Done(baseline) => Ok(Written::Done(baseline)),
            Save::Diverged(found) => Ok(Written::Diverged(found)),
        }
    }

    fn io(&self, doing: &str, error: &std::io::Error) -> Error {
        let outside = || self.folder().is_ok_and(|folder| leaves(&folder, &self.path));
        if beneath::is_linked(error) && outside() {
            return self.describe(escape(&self.path));
        }
        self.describe(Error::new(Reason::Io, format!("cannot {doing} {}: {error}", self.path)))
    }
}

fn leaves(folder: &Workspace, path: &str) -> bool {
    matches!(beneath::real_path(folder, path), Ok(Real::Outside))
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
/// `path_escape`, `invalid_path`, `io`.
pub(crate) async fn resolve(folder: Workspace, path: &CanonicalPath, limits: &Limits) -> Result<CanonicalPath, Error> {
    let name = path.to_string();
    let real = blocking(move || beneath::real_path(&folder, &name)).await;
    let nameless = || Error::new(Reason::InvalidPath, format!("{path} leads to something that no path can name"));
    match real.map_err(|error| Error::new(Reason::Io, format!("cannot follow {path}: {error}")))? {
        Real::Outside => Err(escape(path.as_str())),
        Real::Nameless => Err(nameless()),
        Real::Path(real) => match CanonicalPath::parse(&real, limits.path_chars) {
            Ok(canonical) if canonical.as_str() == real => Ok(canonical),
            _ => Err(nameless()),
        },
    }
}
