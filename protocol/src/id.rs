//! Names and numbers that identify things. Each is a separate type, so that none is mistaken for another.
//!
//! Invariant: a value of these types is valid; `parse` is the only way in from outside.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::error::{Error, Reason};

/// Namespaces that are reserved for Holdfast itself.
///
/// `sys` is the fleet's. `log` would collide with the log subjects `<root>.log.<ns>.<id>`: a `session.open` in a
/// namespace of that name would be stored as a log frame. The others are second tokens of requests and signals: a
/// permission like `<root>.*.doc.>` would also reach the logs of a namespace `doc`.
pub const RESERVED_NAMESPACES: [&str; 8] = ["sys", "log", "signal", "session", "lock", "doc", "admin", "worker"];

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:literal, $allowed:expr, $pattern:literal, $reason:expr, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks `text`.
            ///
            /// # Errors
            /// `invalid_params` with the reason that fits, naming the rule.
            pub fn parse(text: &str) -> Result<Self, Error> {
                let allowed: fn(u8) -> bool = $allowed;
                if text.is_empty() || text.len() > $max || !text.bytes().all(allowed) {
                    return Err(Error::invalid($reason, format!(concat!($what, ", not {:?}"), shorten(text))));
                }
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "minLength": 1, "maxLength": $max, "pattern": $pattern })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(|error| serde::de::Error::custom(error.message))
            }
        }
    };
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

fn is_namespace_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

text_id!(
    /// A namespace, `[a-z0-9_-]{1,32}`. [`Namespace::parse_open`] also refuses the reserved ones.
    Namespace, 32, is_namespace_byte, "^[a-z0-9_-]+$", Reason::BadValue, "a namespace is 1 to 32 of a-z, 0-9, _ and -"
);
text_id!(
    /// A session id, `[A-Za-z0-9_-]{1,64}`.
    SessionId, 64, is_token_byte, "^[A-Za-z0-9_-]+$", Reason::InvalidSessionId, "a session id is 1 to 64 of A-Z, a-z, 0-9, _ and -"
);
text_id!(
    /// A worker's name, `[A-Za-z0-9_-]{1,64}`: it is one token of a subject and a key of the bucket `workers`.
    WorkerName, 64, is_token_byte, "^[A-Za-z0-9_-]+$", Reason::BadValue, "a worker's name is 1 to 64 of A-Z, a-z, 0-9, _ and -"
);
text_id!(
    /// A workspace's name, `[A-Za-z0-9_-]{1,64}`.
    WorkspaceName, 64, is_token_byte, "^[A-Za-z0-9_-]+$", Reason::BadValue, "a workspace's name is 1 to 64 of A-Z, a-z, 0-9, _ and -"
);

text_id!(
    /// The name of a kind of session, `[a-z0-9_-]{1,32}`; `document` is built in.
    KindName, 32, is_namespace_byte, "^[a-z0-9_-]+$", Reason::BadValue, "a kind of session is 1 to 32 of a-z, 0-9, _ and -"
);

impl KindName {
    /// The built-in kind, and the default.
    pub const DOCUMENT: &'static str = "document";
}

impl Default for KindName {
    fn default() -> Self {
        Self(Self::DOCUMENT.into())
    }
}

impl Borrow<str> for KindName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Namespace {
    /// Checks a namespace that a client named.
    ///
    /// # Errors
    /// `invalid_params` / `bad_value` when it is malformed or reserved.
    pub fn parse_open(text: &str) -> Result<Self, Error> {
        let namespace = Self::parse(text)?;
        if namespace.is_reserved() {
            return Err(Error::invalid(Reason::BadValue, format!("the namespace {text:?} is reserved")));
        }
        Ok(namespace)
    }

    /// Whether it is reserved. Records from before it was reserved are still read.
    pub fn is_reserved(&self) -> bool {
        RESERVED_NAMESPACES.contains(&self.as_str())
    }
}

/// A session within the whole cluster: namespace and id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// The namespace.
    pub namespace: Namespace,
    /// The id within it.
    pub id: SessionId,
}

impl SessionKey {
    /// The pair of both.
    pub fn new(namespace: Namespace, id: SessionId) -> Self {
        Self { namespace, id }
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.id)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The KV revision of a session's record, which is the fencing token of its owner and of its lock. 0: no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One start of a worker process (UUIDv7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Boot(pub Uuid);

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One process of a worker: the worker's name and which of its starts it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// The worker's name.
    pub worker: WorkerName,
    /// The start of the process.
    pub boot: Boot,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (boot {})", self.worker, self.boot)
    }
}

/// One assignment of a session to a worker (UUIDv7): a session that moves and comes back has another activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Activation(pub Uuid);

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The idempotency key of a request: the caller's (at most 64 characters), or one that a coordinator made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// Checks a caller's key.
    ///
    /// # Errors
    /// `invalid_params` / `bad_value` when it is empty, longer than 64 characters or has control characters.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() || text.chars().count() > 64 || text.chars().any(char::is_control) {
            return Err(Error::invalid(Reason::BadValue, "request_id must be 1 to 64 printable characters"));
        }
        Ok(Self(text.into()))
    }

    /// A key for a request without one.
    pub fn made(uuid: Uuid) -> Self {
        Self(uuid.to_string().into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
