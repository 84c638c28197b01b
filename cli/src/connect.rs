//! The options for connecting, as in the `nats` CLI, and those that all of Holdfast's requests share.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use holdfast_client::Client;
use holdfast_client::protocol::Namespace;
use holdfast_client::protocol::subject::Root;
use holdfast_store::connect::{ConnectOptions, Password, connect};

use crate::exit::Failure;

/// The least time for a request, so that a connection in the last moment is still used.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// Options of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// NATS server addresses, comma separated [default: nats://127.0.0.1:4222]
    #[arg(long, global = true, env = "NATS_URL", value_name = "URL")]
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
    /// Context of the nats CLI, by name or path: the settings that are not given otherwise
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
    /// waits on purpose, as with --wait-ms, is added
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

impl Connection {
    /// Connects with these options.
    pub(crate) async fn connect(&self, name: &str) -> Result<async_nats::Client, Failure> {
        let options = self.options(name).map_err(Failure::Connect)?;
        connect(&options).await.map_err(|error| Failure::Connect(error.into()))
    }

    /// A client with these options. Connecting and the request share the time of `--timeout`.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let begun = Instant::now();
        let connected = tokio::time::timeout(self.timeout, self.connect("holdfast command")).await;
        let nats = connected.map_err(|_| {
            let server = self.nats.as_deref().unwrap_or("NATS");
            Failure::Connect(anyhow::anyhow!("{server} did not answer within {:?}", self.timeout))
        })??;
        let client = Client::new(nats).below(self.root.clone()).in_namespace(self.namespace.clone());
        Ok(client.patience(self.timeout.saturating_sub(begun.elapsed()).max(LEAST_PATIENCE)))
    }

    fn options(&self, name: &str) -> anyhow::Result<ConnectOptions> {
        let (user, token) = match (&self.user, &self.password) {
            (Some(token), None) => (None, Some(Password(token.clone()))),
            (user, _) => (user.clone(), None),
        };
        let given = ConnectOptions {
            url: self.nats.clone(),
            creds: self.creds.clone(),
            nkey: self.nkey.clone(),
            tls_ca: self.tlsca.clone(),
            tls_cert: self.tlscert.clone(),
            tls_key: self.tlskey.clone(),
            user,
            password: self.password.clone(),
            token,
            name: Some(name.to_owned()),
        };
        match &self.context {
            Some(context) => given.with_context(context).with_context(|| format!("cannot use the context {context:?}")),
            None => Ok(given),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for text in ["0", "0s", "-5s", "soon", ""] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
