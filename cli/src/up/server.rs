//! The nats-server of `holdfast up`: its settings, its login, and the contexts for other commands.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;
use holdfast_deploy::{Conf, Credentials, Finder, Role, Server, ServerOptions, StartError};
use holdfast_store::connect::{ConnectOptions, Password};

use crate::connect::found;
use crate::exit::Failure;
use crate::output;

/// The folder of JetStream's data for clients without an account, which earlier versions of Holdfast used.
const NO_ACCOUNT: &str = "$G";
/// The account of `nats.conf` that has the streams.
const ACCOUNT: &str = "HOLDFAST";

/// A running nats-server, and its passwords unless it has no login.
pub(super) struct OwnServer {
    pub(super) server: Server,
    pub(super) credentials: Option<Credentials>,
}

/// How to run it.
pub(super) struct Wanted<'a> {
    pub(super) port: u16,
    pub(super) data: &'a Path,
    pub(super) root: &'a str,
    /// Without a login.
    pub(super) insecure: bool,
}

impl OwnServer {
    /// Starts it, and writes the contexts.
    pub(super) async fn start(wanted: &Wanted<'_>) -> Result<Self, Failure> {
        let binary = Finder::from_env().find(&output::note).await.context("there is no nats-server to run")?;
        prepare_data(wanted.data).with_context(|| format!("cannot prepare {}", wanted.data.display()))?;
        let credentials = match wanted.insecure {
            true => None,
            false => Some(credentials(wanted.data)?),
        };
        let nats = wanted.data.join("nats");
        prepare(&nats).with_context(|| format!("cannot prepare {}", nats.display()))?;
        let options = ServerOptions {
            port: Some(wanted.port),
            conf: if wanted.insecure { Conf::insecure() } else { Conf::accounts(wanted.root) },
            variables: credentials.as_ref().map(Credentials::variables).unwrap_or_default(),
            ..ServerOptions::new(binary.path, nats, "holdfast")
        };
        let server = Server::start(options).await.map_err(explain)?;
        found::write(wanted.data, &server.url(), credentials.as_ref())
            .with_context(|| format!("cannot write the contexts below {}", wanted.data.display()))?;
        Ok(Self { server, credentials })
    }

    /// How a part of `role` connects to it.
    pub(super) fn options(&self, role: Role) -> ConnectOptions {
        let plain = ConnectOptions::to(self.server.url());
        let Some(credentials) = &self.credentials else { return plain };
        ConnectOptions {
            user: Some(role.user().to_owned()),
            password: Some(Password(credentials.password(role).to_owned())),
            inbox_prefix: Some(role.inbox_prefix()),
            ..plain
        }
    }
}

fn credentials(data: &Path) -> Result<Credentials, Failure> {
    let file = data.join("credentials.env");
    let read = Credentials::load_or_create(&file);
    Ok(read.with_context(|| format!("cannot use the passwords in {}", file.display()))?)
}

/// Makes the data folder, for this user only and for no git repository. One that exists keeps its mode. The folder of
/// the contexts is closed in either case.
fn prepare_data(data: &Path) -> io::Result<()> {
    if !data.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    }
    let ignore = data.join(".gitignore");
    if !ignore.exists() {
        fs::write(ignore, "# Passwords, and what nats-server stores.\n*\n")?;
    }
    let config = data.join("config");
    fs::create_dir_all(&config)?;
    fs::set_permissions(config, fs::Permissions::from_mode(0o700))
}

/// Closes the folder to other users, because the stored secret is in it. Moves the streams of an earlier version, whose
/// clients had no account, to the account that has them now.
fn prepare(nats: &Path) -> io::Result<()> {
    fs::create_dir_all(nats)?;
    fs::set_permissions(nats, fs::Permissions::from_mode(0o700))?;
    let streams = nats.join("jetstream");
    let (before, now) = (streams.join(NO_ACCOUNT), streams.join(ACCOUNT));
    if before.join("streams").is_dir() && !now.exists() {
        fs::rename(before, now)?;
        output::note("the streams of an earlier version were moved to the account HOLDFAST");
    }
    Ok(())
}

/// Why nats-server did not start, and what to do about it.
fn explain(error: StartError) -> Failure {
    let advice = match &error {
        StartError::PortTaken { port } => format!(
            "; choose another one with --port, or use the server that listens there with --nats nats://127.0.0.1:{port}"
        ),
        StartError::DataInUse { .. } => {
            "; another `holdfast up` has it: use that one, or choose another folder with --data (and \
             another port with --port)"
                .to_owned()
        }
        _ => String::new(),
    };
    Failure::Other(anyhow::anyhow!("{:#}{advice}", anyhow::Error::new(error)))
}
