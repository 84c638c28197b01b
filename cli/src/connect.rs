//! The options for connecting, as in the `nats` CLI, and those that all of Holdfast's requests share.
//!
//! Where to connect, and as whom, comes from the first of these that says it:
//! 1. options of the command line;
//! 2. a context that the command line names, if it does;
//! 3. otherwise environment variables, then the context of `NATS_CONTEXT`;
//! 4. what `holdfast up` wrote for this folder (`found`), if nothing above says who connects, and the address is the
//!    same
//!    or not given.

pub(crate) mod found;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use holdfast_client::protocol::Namespace;
use holdfast_client::protocol::subject::Root;
use holdfast_client::{Client, Denials};
use holdfast_deploy::Role;
use holdfast_store::connect::{ConnectError, ConnectOptions, DEFAULT_URL, ErrorHook, Password, connect, context_path};
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;
use found::Found;

/// The least time for a request, so that a connection in the last moment is still used.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);
/// How often a part that waits for NATS tries again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How often it says that it waits.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Options of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// NATS server addresses, comma separated [default: what `holdfast up` uses in this folder, or
    /// nats://127.0.0.1:4222]
    #[arg(long, global = true, env = "NATS_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) nats: Option<String>,
    /// User credentials file
    #[arg(long, global = true, env = "NATS_CREDS", value_name = "FILE")]
    creds: Option<PathBuf>,
    /// File with an NKey seed
    #[arg(long, global = true, env = "NATS_NKEY", value_name = "FILE")]
    nkey: Option<PathBuf>,
    /// Certificates of the authorities to trust
    #[arg(long, global = true, env = "NATS_CA", value_name = "FILE")]
    tlsca: Option<PathBuf>,
    /// Client certificate
    #[arg(long, global = true, env = "NATS_CERT", value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, global = true, env = "NATS_KEY", value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// User, or a token when there is no password
    #[arg(long, global = true, env = "NATS_USER", hide_env_values = true, value_name = "USER")]
    user: Option<String>,
    /// Password
    #[arg(
        long,
        global = true,
        env = "NATS_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        value_parser = |text: &str| Ok::<_, Infallible>(Password(text.to_owned()))
    )]
    password: Option<Password>,
    /// First tokens of the subjects for replies, where the user may not use every one [default: _INBOX]
    #[arg(long, global = true, env = "NATS_INBOX_PREFIX", value_name = "PREFIX")]
    inbox_prefix: Option<String>,
    /// Context of the nats CLI, or of `holdfast up` in this folder, by name or path: its settings instead of the
    /// environment's
    #[arg(long, global = true, env = "NATS_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// First token of all subjects
    #[arg(long, global = true, default_value = "hf", value_parser = Root::parse)]
    pub(crate) root: Root,
    /// Namespace of the sessions
    #[arg(
        long,
        short,
        global = true,
        default_value = "default",
        value_parser = Namespace::parse_open
    )]
    pub(crate) namespace: Namespace,
    /// How long a request may take with all its retries, like 500ms or 1m; a plain number is seconds. The time that it
    /// waits on purpose, as with --wait, is added
    #[arg(long, global = true, default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// Parses a duration: `5s`, `500ms`, `1m`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    let spoken = || text.parse::<jiff::SignedDuration>().ok().and_then(|spoken| spoken.try_into().ok());
    seconds
        .or_else(spoken)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "a duration is like 5s, 500ms or 1m".to_owned())
}

/// Where the settings of a connection came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Options or environment variables.
    Given,
    /// This context file, perhaps with options.
    Context(PathBuf),
    /// This context file, which `holdfast up` wrote.
    Up(PathBuf),
    /// Nothing says where or as whom.
    Default,
}

impl Connection {
    /// Drops what only the environment says if the command line names a context. `matches` is the whole command line.
    pub(crate) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        let said = |option: &str| matches.value_source(option) == Some(ValueSource::CommandLine);
        if !said("context") {
            return;
        }
        keep_if(&mut self.nats, said("nats"));
        keep_if(&mut self.creds, said("creds"));
        keep_if(&mut self.nkey, said("nkey"));
        keep_if(&mut self.tlsca, said("tlsca"));
        keep_if(&mut self.tlscert, said("tlscert"));
        keep_if(&mut self.tlskey, said("tlskey"));
        keep_if(&mut self.user, said("user"));
        keep_if(&mut self.password, said("password"));
        keep_if(&mut self.inbox_prefix, said("inbox_prefix"));
    }

    /// Connects with these options. `role` is whom `holdfast up` lets this command connect as.
    pub(crate) async fn connect(&self, name: &str, role: Role) -> Result<async_nats::Client, Failure> {
        let (options, origin) = self.settings(role)?;
        connect(&ConnectOptions { name: Some(name.to_owned()), ..options })
            .await
            .map_err(|error| failed(error, &origin))
    }

    /// As [`Connection::connect`], and waits until a server is there. It says every 10 seconds that it waits.
    pub(crate) async fn connect_when_there(
        &self,
        name: &str,
        role: Role,
        stop: &CancellationToken,
    ) -> Result<async_nats::Client, Failure> {
        let (options, origin) = self.settings(role)?;
        let options = ConnectOptions { name: Some(name.to_owned()), ..options };
        let mut said: Option<Instant> = None;
        loop {
            let error = match connect(&options).await {
                Ok(client) => return Ok(client),
                Err(error) if error.may_pass() => error,
                Err(error) => return Err(failed(error, &origin)),
            };
            if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                tracing::warn!("waiting for NATS: {error}");
                said = Some(Instant::now());
            }
            tokio::select! {
                () = tokio::time::sleep(TRY_AGAIN) => {}
                () = stop.cancelled() => return Err(Failure::Interrupted),
            }
        }
    }

    /// A client with these options. Connecting and the request share the time of `--timeout`.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        Ok(self.client_and_nats().await?.0)
    }

    /// A client, and its connection for what is no request of the contract.
    pub(crate) async fn client_and_nats(&self) -> Result<(Client, async_nats::Client), Failure> {
        let begun = Instant::now();
        let (nats, denials) = self.of_a_command().await?;
        let client = Client::new(nats.clone()).noticing(denials);
        let client = client.below(self.root.clone()).in_namespace(self.namespace.clone());
        Ok((client.patience(self.timeout.saturating_sub(begun.elapsed()).max(LEAST_PATIENCE)), nats))
    }

    /// A connection for an operator's or a program's command, and what NATS denies it.
    pub(crate) async fn of_a_command(&self) -> Result<(async_nats::Client, Denials), Failure> {
        let (mut options, origin) = self.settings(Role::Ops)?;
        let denials = Denials::default();
        let noted = denials.clone();
        options.name = Some("holdfast command".to_owned());
        options.on_error = Some(ErrorHook(Arc::new(move |error| noted.note(error))));
        let connected = tokio::time::timeout(self.timeout, connect(&options)).await;
        let nats = connected
            .map_err(|_| {
                let server = options.url.as_deref().unwrap_or(DEFAULT_URL);
                Failure::Connect(anyhow::anyhow!("{server} did not answer within {:?}", self.timeout))
            })?
            .map_err(|error| failed(error, &origin))?;
        Ok((nats, denials))
    }

    /// The settings, and where they come from.
    pub(crate) fn settings(&self, role: Role) -> Result<(ConnectOptions, Origin), Failure> {
        self.settings_with(role, Found::here().as_ref())
    }

    fn settings_with(&self, role: Role, found: Option<&Found>) -> Result<(ConnectOptions, Origin), Failure> {
        let given = self.given().without_secrets_in_url_if_any().map_err(usage)?;
        if let Some(name) = &self.context {
            let path = found.and_then(|found| found.named(name)).unwrap_or_else(|| context_path(name));
            let filled = given.with_context(&path.to_string_lossy());
            let filled = filled.map_err(|error| Failure::Usage(format!("cannot use the context {name:?}: {error}")))?;
            return Ok((filled, Origin::Context(path)));
        }
        if !given.has_credentials()
            && let Some(found) = found
            && given.url.as_deref().is_none_or(|url| found.is_at(url))
        {
            let path = found.of(role);
            let filled = given.with_context(&path.to_string_lossy());
            return filled.map(|filled| (filled, Origin::Up(path))).map_err(usage);
        }
        let origin = if given.url.is_some() || given.has_credentials() { Origin::Given } else { Origin::Default };
        Ok((given, origin))
    }

    fn given(&self) -> ConnectOptions {
        let (user, token) = match (&self.user, &self.password) {
            (Some(token), None) => (None, Some(Password(token.clone()))),
            (user, _) => (user.clone(), None),
        };
        ConnectOptions {
            url: self.nats.clone(),
            creds: self.creds.clone(),
            nkey: self.nkey.clone(),
            tls_ca: self.tlsca.clone(),
            tls_cert: self.tlscert.clone(),
            tls_key: self.tlskey.clone(),
            user,
            password: self.password.clone(),
            token,
            inbox_prefix: self.inbox_prefix.clone(),
            name: None,
            on_error: None,
        }
    }
}

fn keep_if<T>(value: &mut Option<T>, keep: bool) {
    if !keep {
        *value = None;
    }
}

fn usage(error: ConnectError) -> Failure {
    Failure::Usage(error.to_string())
}

/// Why the connection failed, and what helps.
pub(crate) fn failed(error: ConnectError, origin: &Origin) -> Failure {
    match (&error, origin) {
        (ConnectError::Denied { .. }, Origin::Default | Origin::Given) => Failure::Usage(format!(
            "{error}; give --user and --password, --creds, --nkey or --context, or run this in the folder where `holdfast \
             up` runs"
        )),
        (ConnectError::Denied { .. }, Origin::Context(path) | Origin::Up(path)) => {
            Failure::Usage(format!("{error}; the credentials are those of {}", path.display()))
        }
        (ConnectError::Refused { .. }, Origin::Up(path)) => Failure::Connect(anyhow::anyhow!(
            "{error}; the address is that of {}, which `holdfast up` wrote: does it run?",
            path.display()
        )),
        (ConnectError::Refused { .. }, _) => Failure::Connect(error.into()),
        _ => usage(error),
    }
}

#[cfg(test)]
mod tests;
