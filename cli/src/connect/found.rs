//! What `holdfast up` or `holdfast credentials` wrote for other commands of the same user in the same folder: a context
//! file for each role.
//!
//! ```text
//! DATA/credentials.env                  the passwords, for nats-server and for people (mode 0600)
//! DATA/config/nats/context/ops.json     a context for the nats CLI (XDG_CONFIG_HOME=DATA/config) and for holdfast
//! ```
//!
//! DATA is `.holdfast` in the folder where `up` was started. If `up` uses another data folder, it notes that folder in
//! the user's state folder, under the name of the folder where it was started.
//!
//! Invariant: only files of this user are used. Otherwise whoever can write to a folder could send the commands of all
//! who work in it to a server of their own.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use holdfast_deploy::{Credentials, Existing, Role, write_private};
use holdfast_store::connect::ConnectOptions;
use serde_json::json;

/// The default data folder of `up`.
pub(crate) const DEFAULT_DATA: &str = ".holdfast";

/// The contexts of an `up` that was started in this folder.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    contexts: PathBuf,
    url: String,
}

impl Found {
    /// Looks in the current folder.
    pub(crate) fn here() -> Option<Self> {
        let here = env::current_dir().ok()?;
        Self::in_data(&here.join(DEFAULT_DATA)).or_else(|| Self::in_data(&noted(&here)?))
    }

    pub(super) fn in_data(data: &Path) -> Option<Self> {
        let contexts = contexts_of(data);
        let file = contexts.join("ops.json");
        let is_ours =
            |path: &Path| fs::metadata(path).is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw());
        if !is_ours(&file) || !is_ours(data) {
            return None;
        }
        let url = ConnectOptions::default().with_context(&file.to_string_lossy()).ok()?.url?;
        Some(Self { contexts, url })
    }

    /// The context file of a role.
    pub(crate) fn of(&self, role: Role) -> PathBuf {
        self.contexts.join(format!("{}.json", role.user()))
    }

    /// The context file of this name, if `up` wrote one.
    pub(crate) fn named(&self, name: &str) -> Option<PathBuf> {
        Role::ALL.into_iter().find(|role| role.user() == name).map(|role| self.of(role))
    }

    /// Whether `url` is the address of this `up`'s server.
    pub(crate) fn is_at(&self, url: &str) -> bool {
        let plain =
            |url: &str| url.trim_start_matches("nats://").trim_end_matches('/').replace("localhost", "127.0.0.1");
        plain(url) == plain(&self.url)
    }
}

/// The folder of the contexts in a data folder.
pub(crate) fn contexts_of(data: &Path) -> PathBuf {
    data.join("config").join("nats").join("context")
}

/// Writes the contexts, and notes where they are. `credentials` are `None` where the server has no login.
pub(crate) fn write(data: &Path, url: &str, credentials: Option<&Credentials>) -> io::Result<()> {
    write_contexts(data, url, credentials)?;
    note(&fs::canonicalize(data)?)
}

/// Writes the contexts.
pub(super) fn write_contexts(data: &Path, url: &str, credentials: Option<&Credentials>) -> io::Result<()> {
    for role in Role::ALL {
        let mut context = json!({"description": format!("Holdfast: {}", role.user()), "url": url});
        if let Some(credentials) = credentials {
            context["user"] = json!(role.user());
            context["password"] = json!(credentials.password(role));
            context["inbox_prefix"] = json!(role.inbox_prefix());
        }
        let file = contexts_of(data).join(format!("{}.json", role.user()));
        write_private(&file, format!("{context:#}\n").as_bytes(), Existing::Replace)?;
    }
    Ok(())
}

/// Notes where the data is, for commands that are started in this folder.
fn note(data: &Path) -> io::Result<()> {
    let here = env::current_dir()?;
    let Some(file) = note_of(&here) else { return Ok(()) };
    if data == here.join(DEFAULT_DATA) {
        // An earlier `up` may have used another folder.
        return match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    write_private(&file, data.as_os_str().as_encoded_bytes(), Existing::Replace)
}

fn noted(here: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(note_of(here)?).ok()?;
    Some(PathBuf::from(text.trim_end()))
}

/// The note about `here`: a file in the user's state folder, named after the folder with `/` written as `%`.
fn note_of(here: &Path) -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local").join("state")))?;
    let name = here.to_str()?.replace('%', "%%").replace('/', "%");
    // Longer names are not possible in most file systems.
    (name.len() <= 255).then(|| state.join("holdfast").join("up").join(name))
}
