//! The settings of a nats-server: the files `nats.conf` and `deploy/nats/*.conf` of the repository.
//!
//! Invariant: every setting stands in one of those files only. A server gets them in the same places beside each other,
//! so that their includes work, with the names of its own root.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The settings without a login.
pub const SERVER_CONF: &str = include_str!("../nats/server.conf");
/// What each role may publish and subscribe to.
const PERMISSIONS_CONF: &str = include_str!("../nats/permissions.conf");
/// An account for each kind of role.
const ACCOUNTS_CONF: &str = include_str!("../../nats.conf");
/// All roles in one account.
const ONE_ACCOUNT_CONF: &str = include_str!("../nats/one-account.conf");
/// The same, for one of several servers of a cluster.
const CLUSTER_CONF: &str = include_str!("../nats/cluster.conf");
/// No login, in the same account as with a login.
const INSECURE_CONF: &str = include_str!("../nats/insecure.conf");

/// The root that the files are written for.
const DEFAULT_ROOT: &str = "hf";

/// The settings of one server.
#[derive(Clone, Debug)]
pub struct Conf {
    /// The file that the server is started with, below its folder.
    main: &'static str,
    /// Every file: its place below the server's folder, and its text.
    files: Vec<(&'static str, Cow<'static, str>)>,
}

impl Conf {
    /// Accounts that keep clients and operators apart from what is stored: `nats.conf`.
    pub fn accounts(root: &str) -> Self {
        Self::with_includes("nats.conf", ACCOUNTS_CONF).below(root)
    }

    /// One account with a user for each role: `deploy/nats/one-account.conf`.
    pub fn one_account(root: &str) -> Self {
        Self::with_includes("deploy/nats/one-account.conf", ONE_ACCOUNT_CONF).below(root)
    }

    /// One of several servers with the accounts of `nats.conf`: `deploy/nats/cluster.conf`.
    pub fn cluster(root: &str) -> Self {
        let mut conf = Self::accounts(root);
        conf.main = "deploy/nats/cluster.conf";
        conf.files.push((conf.main, Cow::Borrowed(CLUSTER_CONF)));
        conf
    }

    /// No login: `deploy/nats/insecure.conf`.
    pub fn insecure() -> Self {
        Self::with_includes("deploy/nats/insecure.conf", INSECURE_CONF)
    }

    /// The settings only: `deploy/nats/server.conf`.
    pub fn no_login() -> Self {
        Self::text(SERVER_CONF)
    }

    /// A single file.
    pub fn text(text: impl Into<Cow<'static, str>>) -> Self {
        Self { main: "nats.conf", files: vec![("nats.conf", text.into())] }
    }

    /// The same with every text changed by `change`, for a server that is set up wrongly.
    #[must_use]
    pub fn changed(mut self, change: impl Fn(&str) -> String) -> Self {
        for (_, text) in &mut self.files {
            *text = Cow::Owned(change(text));
        }
        self
    }

    fn with_includes(main: &'static str, text: &'static str) -> Self {
        let files = [
            (main, text),
            ("deploy/nats/server.conf", SERVER_CONF),
            ("deploy/nats/permissions.conf", PERMISSIONS_CONF),
        ];
        Self { main, files: files.map(|(place, text)| (place, Cow::Borrowed(text))).to_vec() }
    }

    /// The same for an installation below `root`.
    fn below(self, root: &str) -> Self {
        if root == DEFAULT_ROOT { self } else { self.changed(|text| renamed(text, root)) }
    }

    /// The file that the server in `folder` is started with.
    pub(crate) fn main_in(&self, folder: &Path) -> PathBuf {
        folder.join(self.main)
    }

    /// Writes the files below `folder`.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        for (place, text) in &self.files {
            let file = folder.join(place);
            fs::create_dir_all(file.parent().unwrap_or(folder))?;
            fs::write(file, text.as_ref())?;
        }
        Ok(())
    }
}

impl<T: Into<Cow<'static, str>>> From<T> for Conf {
    fn from(text: T) -> Self {
        Self::text(text)
    }
}

/// `text` with the subjects, buckets and streams of `root`. `protocol`'s `subject::Root` makes the same names.
fn renamed(text: &str, root: &str) -> String {
    let names = [
        ("\"hf.", format!("\"{root}.")),
        ("KV_sessions", format!("KV_{root}_sessions")),
        ("KV_workers", format!("KV_{root}_workers")),
        ("KV_secrets", format!("KV_{root}_secrets")),
        ("$KV.sessions", format!("$KV.{root}_sessions")),
        ("$KV.workers", format!("$KV.{root}_workers")),
        ("$KV.secrets", format!("$KV.{root}_secrets")),
        ("HF_SIGNALS", format!("{root}_HF_SIGNALS")),
        ("HF_AUDIT", format!("{root}_HF_AUDIT")),
    ];
    names.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_root_leaves_no_name_of_the_default_root() {
        for conf in [Conf::accounts("acme"), Conf::one_account("acme")] {
            for (place, text) in conf.files {
                let settings = text.lines().filter(|line| !line.trim_start().starts_with('#'));
                for line in settings {
                    for name in ["\"hf.", "KV_sessions", "$KV.sessions", "\"HF_", ".HF_SIGNALS", ".HF_AUDIT"] {
                        assert!(!line.contains(name), "{place}: {line}");
                    }
                }
            }
        }
        assert!(renamed("{ stream: \"hf.*.signal.>\" }", "acme").contains("\"acme.*.signal.>\""));
    }

    #[test]
    fn every_included_file_is_written() {
        let folder = tempfile::tempdir().unwrap();
        for conf in [Conf::accounts("hf"), Conf::one_account("hf"), Conf::cluster("hf"), Conf::insecure()] {
            conf.write(folder.path()).unwrap();
            let main = conf.main_in(folder.path());
            let text = fs::read_to_string(&main).unwrap();
            let includes: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix("include "))
                .map(|file| file.trim_matches('"'))
                .collect();
            assert!(!includes.is_empty(), "{}", main.display());
            for include in includes {
                assert!(main.parent().unwrap().join(include).exists(), "{include} of {}", main.display());
            }
        }
    }
}
