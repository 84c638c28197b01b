//! Connects to NATS, with the settings of the `nats` CLI.
//!
//! Invariant: a connected client reconnects by itself for as long as its process lives. Only the first connection may
//! fail, because a wrong address or credential should be reported at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// The address and the credentials to connect with.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// Server addresses, comma separated; `nats://127.0.0.1:4222` when empty.
    pub url: Option<String>,
    /// Credentials file.
    pub creds: Option<PathBuf>,
    /// File with an NKey seed.
    pub nkey: Option<PathBuf>,
    /// Root certificates.
    pub tls_ca: Option<PathBuf>,
    /// Client certificate.
    pub tls_cert: Option<PathBuf>,
    /// Client key.
    pub tls_key: Option<PathBuf>,
    /// User.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Password>,
    /// Token of the NATS server (not of a lock).
    pub token: Option<Password>,
    /// Name of this connection, as `nats server report connections` shows it.
    pub name: Option<String>,
}

/// A secret text, which `Debug` does not show.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// Why the first connection failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file named in the settings cannot be used.
    #[error("cannot read {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The server did not accept the connection.
    #[error("cannot connect to NATS at {url}: {why}")]
    Refused {
        /// Where.
        url: String,
        /// What it said.
        why: String,
    },
}

/// A context file of the `nats` CLI; members that Holdfast does not use are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    url: String,
    creds: String,
    nkey: String,
    ca: String,
    cert: String,
    key: String,
    user: String,
    password: String,
    token: String,
}

impl ConnectOptions {
    /// Options with this address.
    pub fn to(url: impl Into<String>) -> Self {
        Self { url: Some(url.into()), ..Self::default() }
    }

    /// Fills unset options from a context of the `nats` CLI: `name` is a file in `$XDG_CONFIG_HOME/nats/context`, or a
    /// path.
    ///
    /// # Errors
    /// [`ConnectError::File`] when the file is missing or not JSON.
    pub fn with_context(mut self, name: &str) -> Result<Self, ConnectError> {
        let path = context_path(name);
        let context: Context = std::fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|json| serde_json::from_slice(&json).map_err(|error| error.to_string()))
            .map_err(|why| ConnectError::File { path, why })?;
        let text = |value: String| (!value.is_empty()).then_some(value);
        let file = |value: String| text(value).map(PathBuf::from);
        self.url = self.url.or(text(context.url));
        self.creds = self.creds.or(file(context.creds));
        self.nkey = self.nkey.or(file(context.nkey));
        self.tls_ca = self.tls_ca.or(file(context.ca));
        self.tls_cert = self.tls_cert.or(file(context.cert));
        self.tls_key = self.tls_key.or(file(context.key));
        self.user = self.user.or(text(context.user));
        self.password = self.password.or(text(context.password).map(Password));
        self.token = self.token.or(text(context.token).map(Password));
        Ok(self)
    }
}

fn context_path(name: &str) -> PathBuf {
    if name.contains('/') {
        return PathBuf::from(name);
    }
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".config"));
    base.join("nats").join("context").join(format!("{name}.json"))
}

/// Connects, and keeps reconnecting from then on.
///
/// # Errors
/// [`ConnectError`] when the first connection fails.
pub async fn connect(options: &ConnectOptions) -> Result<async_nats::Client, ConnectError> {
    let url = options.url.clone().unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let mut settings = async_nats::ConnectOptions::new()
        .name(options.name.as_deref().unwrap_or("holdfast"))
        .ping_interval(Duration::from_secs(5))
        .connection_timeout(Duration::from_secs(5))
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(|event| async move {
            match event {
                async_nats::Event::Connected => tracing::info!("connected to NATS"),
                async_nats::Event::SlowConsumer(_) => tracing::error!("messages were lost: {event}"),
                async_nats::Event::Closed => tracing::debug!("connection to NATS closed"),
                event => tracing::warn!("NATS connection: {event}"),
            }
        });
    if let Some(path) = &options.creds {
        let file = |error: std::io::Error| ConnectError::File { path: path.clone(), why: error.to_string() };
        settings = settings.credentials_file(path).await.map_err(file)?;
    }
    if let Some(path) = &options.nkey {
        let file = |error: std::io::Error| ConnectError::File { path: path.clone(), why: error.to_string() };
        settings = settings.nkey(std::fs::read_to_string(path).map_err(file)?.trim().to_owned());
    }
    if let (Some(user), Some(password)) = (&options.user, &options.password) {
        settings = settings.user_and_password(user.clone(), password.0.clone());
    }
    if let Some(token) = &options.token {
        settings = settings.token(token.0.clone());
    }
    if let Some(ca) = &options.tls_ca {
        settings = settings.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let (Some(cert), Some(key)) = (&options.tls_cert, &options.tls_key) {
        settings = settings.add_client_certificate(cert.clone(), key.clone());
    }
    let addresses: Vec<&str> = url.split(',').map(str::trim).collect();
    settings
        .connect(addresses)
        .await
        .map_err(|error| ConnectError::Refused { url: url.clone(), why: error.to_string() })
}

/// The longest pause between two attempts to reconnect.
pub const RECONNECT_MAX: Duration = Duration::from_millis(800);

/// How many attempts are made without a pause, so that every server of a cluster of five is tried once. A process that
/// paused after trying the dead server would count as gone before it tried a live one.
const FIRST_ROUND: usize = 5;

/// The pause before an attempt: none in the first round, then growing. `attempts` counts from 1 and over all servers.
fn reconnect_delay(attempts: usize) -> Duration {
    match attempts.checked_sub(FIRST_ROUND) {
        None | Some(0) => Duration::ZERO,
        Some(more) => Duration::from_millis(25 << more.min(5)).min(RECONNECT_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_is_tried_at_once_and_then_with_growing_pauses() {
        let pauses: Vec<u128> = (1..=12).map(|attempt| reconnect_delay(attempt).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 0, 0, 0, 50, 100, 200, 400, 800, 800, 800]);
        assert_eq!(reconnect_delay(usize::MAX), RECONNECT_MAX);
    }
}
