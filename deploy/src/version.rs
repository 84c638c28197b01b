//! The nats-server versions that are accepted, and the version of an executable.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

pub use semver::Version;

/// The oldest nats-server that Holdfast works with. Older ones could ignore the condition of a write in a cluster, and
/// all of Holdfast depends on that condition.
pub const MINIMUM: Version = Version::new(2, 14, 4);

/// The nats-server that is installed when there is none.
pub const INSTALLED: Version = Version::new(2, 15, 1);

/// How long an executable may take to print its version.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Why the version of an executable is not known.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// Not there, not executable, or made for another machine.
    #[error("{path} cannot be run")]
    NotRunnable {
        /// The executable.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// It runs, but is something else.
    #[error("{path} does not answer `--version` as a nats-server does, but with {answer:?}")]
    NotNatsServer {
        /// The executable.
        path: PathBuf,
        /// The first line it printed.
        answer: String,
    },
    /// It runs, and does not end.
    #[error("{path} does not answer `--version`")]
    Silent {
        /// The executable.
        path: PathBuf,
    },
}

/// Asks the executable at `path` for its version.
///
/// # Errors
/// [`VersionError`] when it cannot be run, is not a nats-server, or does not answer in 10 seconds.
pub async fn version_of(path: &Path) -> Result<Version, VersionError> {
    let run = Command::new(path).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(ANSWER_DEADLINE, run)
        .await
        .map_err(|_| VersionError::Silent { path: path.into() })?
        .map_err(|source| VersionError::NotRunnable { path: path.into(), source })?;
    let answer = String::from_utf8_lossy(&output.stdout);
    parse(&answer).ok_or_else(|| VersionError::NotNatsServer {
        path: path.into(),
        answer: answer.lines().next().unwrap_or_default().to_owned(),
    })
}

/// Reads what `nats-server --version` prints, as in `nats-server: v2.15.1`.
fn parse(answer: &str) -> Option<Version> {
    let version = answer.trim().strip_prefix("nats-server:")?.trim();
    Version::parse(version.strip_prefix('v').unwrap_or(version)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_a_nats_server_prints() {
        let read = [
            ("nats-server: v2.15.1\n", Some("2.15.1")),
            ("nats-server: v2.9.0", Some("2.9.0")),
            ("nats-server: 2.14.4", Some("2.14.4")),
            ("nats-server: v2.15.0-RC.1\n", Some("2.15.0-RC.1")),
            ("nats-server: v2.15", None),
            ("nats: v0.3.0", None),
            ("", None),
        ];
        for (answer, version) in read {
            let found = parse(answer).map(|version| version.to_string());
            assert_eq!(found.as_deref(), version, "{answer:?}");
        }
    }

    #[test]
    fn what_we_install_is_good_enough_for_ourselves() {
        assert!(INSTALLED >= MINIMUM);
    }

    #[test]
    fn the_minimum_refuses_what_is_older_and_its_own_release_candidates() {
        let enough = |version: &str| Version::parse(version).is_ok_and(|found| found >= MINIMUM);
        assert!(enough("2.14.4") && enough("2.14.10") && enough("2.15.0-RC.1") && enough("3.0.0"));
        assert!(!enough("2.14.3") && !enough("2.14.4-RC.1") && !enough("2.9.99"));
    }
}
