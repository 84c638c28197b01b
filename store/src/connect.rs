//! Connects to NATS, with the settings of the `nats` CLI.
//!
//! Invariant: a connected client reconnects by itself for as long as its process lives. Only the first connection may
//! fail, because a wrong address or credential should be reported at once. No password is ever part of an error or a
//! log line: user and password are taken out of an address before anything else is done with it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, Event, ServerAddr};

mod context;

pub use context::context_path;

/// The default address.
pub const DEFAULT_URL: &str = "nats://127.0.0.1:4222";

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The address and the credentials to connect with.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// Server addresses, comma separated; [`DEFAULT_URL`] when empty. They may have a user and a password.
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
    /// The first tokens of the subjects for replies; `_INBOX` when empty.
    pub inbox_prefix: Option<String>,
    /// Name of this connection, as `nats server report connections` shows it.
    pub name: Option<String>,
    /// Is told every error that the server reports, such as a permissions violation; without it they are logged.
    pub on_error: Option<ErrorHook>,
}

/// A function that is told what the server reports.
#[derive(Clone)]
pub struct ErrorHook(pub Arc<dyn Fn(&str) + Send + Sync>);

impl fmt::Debug for ErrorHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErrorHook")
    }
}

/// A secret text, which `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    /// The settings contradict each other, or an address is malformed.
    #[error("{0}")]
    Settings(String),
    /// The server wants other credentials.
    #[error("the server at {url} does not accept {who}: {why}")]
    Denied {
        /// Where, without a password.
        url: String,
        /// The user, or what was given in place of one.
        who: String,
        /// What it said.
        why: String,
    },
    /// No server answered.
    #[error("cannot connect to NATS at {url}: {why}")]
    Refused {
        /// Where, without a password.
        url: String,
        /// What it said.
        why: String,
    },
}

impl ConnectError {
    /// Whether waiting may help: the server may start, or its name may become known.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl ConnectOptions {
    /// Options with this address.
    pub fn to(url: impl Into<String>) -> Self {
        Self { url: Some(url.into()), ..Self::default() }
    }

    /// Whether they say who connects.
    pub fn has_credentials(&self) -> bool {
        let files = [&self.creds, &self.nkey, &self.tls_cert];
        files.iter().any(|file| file.is_some())
            || self.user.is_some()
            || self.token.is_some()
            || self.url.as_deref().is_some_and(|url| url.contains('@'))
    }

    /// As [`ConnectOptions::without_secrets_in_url`], and leaves a missing address missing.
    ///
    /// # Errors
    /// [`ConnectError::Settings`] for a malformed address.
    pub fn without_secrets_in_url_if_any(self) -> Result<Self, ConnectError> {
        if self.url.is_some() { self.without_secrets_in_url() } else { Ok(self) }
    }

    /// Takes user and password out of the addresses. Addresses without them get those of the first one that has them.
    ///
    /// # Errors
    /// [`ConnectError::Settings`] for a malformed address.
    pub fn without_secrets_in_url(mut self) -> Result<Self, ConnectError> {
        let given = self.url.take().unwrap_or_else(|| DEFAULT_URL.to_owned());
        let mut addresses = Vec::new();
        for text in given.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let malformed = |why: &dyn fmt::Display| {
                let shown = text.rsplit('@').next().unwrap_or_default();
                ConnectError::Settings(format!("{shown:?} is not the address of a NATS server: {why}"))
            };
            let mut url = text.parse::<ServerAddr>().map_err(|error| malformed(&error))?.into_inner();
            if url.host_str().is_none_or(str::is_empty) {
                return Err(malformed(&"it has no host"));
            }
            let (user, password) = (decoded(url.username()), url.password().map(decoded));
            if !user.is_empty() {
                url.set_username("")
                    .and_then(|()| url.set_password(None))
                    .map_err(|()| malformed(&"it has no host"))?;
                if self.user.is_none() && self.token.is_none() {
                    match password {
                        Some(password) => (self.user, self.password) = (Some(user), Some(Password(password))),
                        None => self.token = Some(Password(user)),
                    }
                }
            }
            addresses.push(url.as_str().trim_end_matches('/').to_owned());
        }
        if addresses.is_empty() {
            return Err(ConnectError::Settings("the address of the NATS server is empty".to_owned()));
        }
        self.url = Some(addresses.join(","));
        Ok(self)
    }

    /// Who connects, for people; never a secret.
    pub fn who(&self) -> String {
        let file = |kind: &str, path: &Path| format!("{kind} {}", path.display());
        match (&self.user, &self.creds, &self.nkey, &self.tls_cert) {
            (Some(user), ..) => format!("user {user:?}"),
            (_, Some(path), ..) => file("the credentials of", path),
            (_, _, Some(path), _) => file("the NKey of", path),
            _ if self.token.is_some() => "the token".to_owned(),
            (.., Some(path)) => file("the certificate", path),
            _ => "a connection without credentials".to_owned(),
        }
    }

    async fn settings(&self) -> Result<async_nats::ConnectOptions, ConnectError> {
        let mut settings = async_nats::ConnectOptions::new()
            .name(self.name.as_deref().unwrap_or("holdfast"))
            .ping_interval(Duration::from_secs(5))
            .connection_timeout(CONNECT_TIMEOUT)
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_delay);
        if let Some(prefix) = &self.inbox_prefix {
            settings = settings.custom_inbox_prefix(prefix);
        }
        if let Some(path) = &self.creds {
            settings = settings.credentials_file(path).await.map_err(|error| unreadable(path, &error))?;
        }
        if let Some(path) = &self.nkey {
            let seed = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
            settings = settings.nkey(seed.trim().to_owned());
        }
        match (&self.user, &self.password) {
            (Some(user), Some(password)) => {
                settings = settings.user_and_password(user.clone(), password.0.clone());
            }
            (None, Some(_)) => return Err(ConnectError::Settings("a password needs a user: give --user".to_owned())),
            _ => {}
        }
        if let Some(token) = &self.token {
            settings = settings.token(token.0.clone());
        }
        if let Some(ca) = &self.tls_ca {
            readable(ca)?;
            settings = settings.add_root_certificates(ca.clone()).require_tls(true);
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                readable(cert)?;
                readable(key)?;
                settings = settings.add_client_certificate(cert.clone(), key.clone());
            }
            (Some(_), None) => {
                return Err(ConnectError::Settings("a client certificate needs its key: give --tlskey".to_owned()));
            }
            (None, Some(_)) => {
                return Err(ConnectError::Settings("a client key needs its certificate: give --tlscert".to_owned()));
            }
            (None, None) => {}
        }
        Ok(settings)
    }
}

/// Percent-decodes a part of an address; text that is not encoded stays as it is.
fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConnectError {
    ConnectError::File { path: path.to_owned(), why: error.to_string() }
}

fn readable(path: &Path) -> Result<(), ConnectError> {
    std::fs::File::open(path).map(drop).map_err(|error| unreadable(path, &error))
}

/// Connects, and keeps reconnecting from then on.
///
/// # Errors
/// [`ConnectError`] when the first connection fails.
pub async fn connect(options: &ConnectOptions) -> Result<Client, ConnectError> {
    let options = options.clone().without_secrets_in_url()?;
    let url = options.url.clone().unwrap_or_default();
    // The callback cannot name the one server of several: it must not hold the client, which would never close then.
    let (hook, at) = (options.on_error.clone(), url.clone());
    let settings = options.settings().await?.event_callback(move |event| {
        tell(&event, &at, hook.as_ref());
        std::future::ready(())
    });
    let addresses: Vec<&str> = url.split(',').collect();
    let client = settings.connect(addresses).await.map_err(|error| match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            ConnectError::Denied { url: url.clone(), who: options.who(), why: error.kind().to_string() }
        }
        ConnectErrorKind::Tls => untrusted(&url, &error),
        _ if is_about_certificates(&error) => untrusted(&url, &error),
        _ => ConnectError::Refused { url: url.clone(), why: error.to_string() },
    })?;
    tracing::info!(server = server_of(&client), user = options.who(), "connected to NATS");
    Ok(client)
}

/// Whether the two sides did not accept each other's certificates. tokio-rustls reports all of TLS as invalid data.
fn is_about_certificates(error: &async_nats::ConnectError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn untrusted(url: &str, error: &async_nats::ConnectError) -> ConnectError {
    ConnectError::Settings(format!(
        "no TLS with NATS at {url}: {error}; give the certificate of the server's authority with --tlsca, and your own with \
         --tlscert and --tlskey if the server asks for it"
    ))
}

/// The server that a client is connected to, or was last, as in `n1 (10.0.0.7:4222)`.
pub fn server_of(client: &Client) -> String {
    let info = client.server_info();
    format!("{} ({}:{})", info.server_name, info.host, info.port)
}

/// How often [`tell_reconnects`] looks.
const LOOK: Duration = Duration::from_secs(1);

/// Logs to which server `client` is connected each time that its connection was made anew. Never returns.
///
/// It looks at the client, because the library's events do not say which server it was, and a callback that holds the
/// client would keep it open for ever.
pub async fn tell_reconnects(client: &Client) {
    let statistics = client.statistics();
    let connects = || statistics.connects.load(Ordering::Relaxed);
    let mut told = connects();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = connects();
        if now != told && client.connection_state() == State::Connected {
            told = now;
            tracing::info!(server = server_of(client), "connected to NATS again");
        }
    }
}

fn tell(event: &Event, servers: &str, hook: Option<&ErrorHook>) {
    match event {
        // The first connection has a line of its own.
        Event::Connected => tracing::debug!(servers, "a connection to NATS is made"),
        Event::SlowConsumer(_) => tracing::error!(servers, "messages were lost: {event}"),
        Event::Closed => tracing::debug!(servers, "the connection to NATS is closed"),
        Event::ServerError(error) => match hook {
            Some(ErrorHook(hook)) => hook(&error.to_string()),
            None => tracing::warn!(servers, "NATS reports: {error}"),
        },
        event => tracing::warn!(servers, "the connection to NATS: {event}"),
    }
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

    fn split(url: &str) -> ConnectOptions {
        ConnectOptions::to(url).without_secrets_in_url().unwrap()
    }

    #[test]
    fn user_and_password_are_taken_out_of_the_address() {
        let options = split("nats://ann:s%40cret@db:4333, other:4222");
        assert_eq!(options.url.as_deref(), Some("nats://db:4333,nats://other:4222"));
        assert_eq!(options.user.as_deref(), Some("ann"));
        assert_eq!(options.password, Some(Password("s@cret".to_owned())));
        let options = split("nats://only-a-token@db");
        assert_eq!((options.url.as_deref(), options.user), (Some("nats://db"), None));
        assert_eq!(options.token, Some(Password("only-a-token".to_owned())));
        assert_eq!(split("nats://[::1]:4222").url.as_deref(), Some("nats://[::1]:4222"));
    }

    #[test]
    fn a_given_user_wins_over_the_one_in_the_address() {
        let given = ConnectOptions { user: Some("bob".to_owned()), ..ConnectOptions::to("nats://ann:x@db") };
        let options = given.without_secrets_in_url().unwrap();
        assert_eq!((options.user.as_deref(), options.password), (Some("bob"), None));
    }

    #[test]
    fn a_malformed_address_is_named_without_its_password() {
        for url in ["nats://ann:secret@:4222", "http://ann:secret@db", "nats://ann:secret@db:99999999", " , "] {
            let error = ConnectOptions::to(url).without_secrets_in_url().unwrap_err();
            assert!(!error.to_string().contains("secret") && !error.may_pass(), "{error}");
        }
    }

    #[tokio::test]
    async fn contradicting_settings_are_named() {
        let half = |options: ConnectOptions| async move { options.settings().await.unwrap_err().to_string() };
        let file = Some(PathBuf::from("/nowhere/file"));
        let cert = half(ConnectOptions { tls_cert: file.clone(), ..ConnectOptions::default() }).await;
        assert_eq!(cert, "a client certificate needs its key: give --tlskey");
        let password = Some(Password("x".to_owned()));
        let lonely = half(ConnectOptions { password, ..ConnectOptions::default() }).await;
        assert_eq!(lonely, "a password needs a user: give --user");
        let missing = half(ConnectOptions { tls_ca: file, ..ConnectOptions::default() }).await;
        assert!(missing.starts_with("cannot read /nowhere/file"), "{missing}");
    }

    #[test]
    fn every_server_is_tried_at_once_and_then_with_growing_pauses() {
        let pauses: Vec<u128> = (1..=12).map(|attempt| reconnect_delay(attempt).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 0, 0, 0, 50, 100, 200, 400, 800, 800, 800]);
        assert_eq!(reconnect_delay(usize::MAX), RECONNECT_MAX);
    }
}
