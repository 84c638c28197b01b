//! `holdfast credentials`: the passwords and contexts of an installation that compose, systemd or Kubernetes runs.
//!
//! They are the files that `holdfast up` makes for itself (`connect/found.rs`), so that other commands in this folder
//! connect in the same way. Deliberately absent: printing a password.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use holdfast_deploy::{Credentials as Passwords, Role};
use holdfast_store::connect::DEFAULT_URL;

use crate::connect::{Connection, found};
use crate::exit::Failure;
use crate::output;

/// Where to put them.
#[derive(Args, Debug)]
pub(crate) struct Credentials {
    /// Folder for the files; passwords that are there already stay as they are
    #[arg(long, default_value = found::DEFAULT_DATA, value_name = "DIR")]
    data: PathBuf,
}

impl Credentials {
    /// Makes the files that are missing, and writes the contexts for the address of `connection`.
    pub(crate) fn run(&self, connection: &Connection) -> Result<(), Failure> {
        let url = connection.nats.as_deref().unwrap_or(DEFAULT_URL);
        if url.contains('@') {
            return Err(Failure::Usage(
                "give --nats without user and password: the contexts get those made here".into(),
            ));
        }
        let file = self.data.join("credentials.env");
        let passwords = Passwords::load_or_create(&file)
            .with_context(|| format!("cannot make or read the passwords in {}", file.display()))?;
        found::write(&self.data, url, Some(&passwords))
            .with_context(|| format!("cannot write the contexts below {}", self.data.display()))?;
        let contexts: Vec<_> = Role::ALL.iter().map(|role| format!("{}.json", role.user())).collect();
        output::text(&format!(
            "passwords  {}  (for nats-server; keep it secret)\ncontexts   {}/{{{}}}  (for {url})\n",
            file.display(),
            found::contexts_of(&self.data).display(),
            contexts.join(","),
        ))
        .map_err(Failure::Output)
    }
}
