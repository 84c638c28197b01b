//! Context files of the `nats` CLI: where to connect, and as whom.
//!
//! Members that Holdfast does not use are ignored. Source: the settings of `natscontext` in jsm.go.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConnectError, ConnectOptions, Password};

/// A context file.
#[derive(Default, Deserialize)]
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
    inbox_prefix: String,
}

impl ConnectOptions {
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
        let file = |value: String| text(value).map(|value| expanded(&value));
        // Who connects comes from one place: given credentials are not mixed with those of the context.
        if !self.has_credentials() {
            self.creds = file(context.creds);
            self.nkey = file(context.nkey);
            self.tls_cert = file(context.cert);
            self.tls_key = self.tls_key.or(file(context.key));
            self.user = text(context.user);
            self.password = self.password.or(text(context.password).map(Password));
            self.token = text(context.token).map(Password);
        }
        self.url = self.url.or(text(context.url));
        self.tls_ca = self.tls_ca.or(file(context.ca));
        self.inbox_prefix = self.inbox_prefix.or(text(context.inbox_prefix));
        Ok(self)
    }
}

/// The file of a context.
pub fn context_path(name: &str) -> PathBuf {
    if name.contains('/') {
        return expanded(name);
    }
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|folder| !folder.is_empty())
        .map_or_else(|| home().join(".config"), PathBuf::from);
    base.join("nats").join("context").join(format!("{name}.json"))
}

fn home() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default())
}

/// A path that may begin with `~/`.
fn expanded(path: &str) -> PathBuf {
    path.strip_prefix("~/").map_or_else(|| Path::new(path).to_owned(), |rest| home().join(rest))
}
