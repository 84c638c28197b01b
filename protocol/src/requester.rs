//! Who sent a request, as nats-server tells it in the header `Nats-Request-Info`.
//!
//! nats-server adds the header to each request that comes over a service import, and overwrites what the sender put
//! there. Within one account it passes on what the sender wrote. So the header proves nothing unless every client of
//! the coordinator's own account is trusted; whoever sets up the accounts says so (`trust_request_info`).
//!
//! Invariant: a proven actor is whole or missing, never cut, because a name that is cut may be somebody else's.

use serde::{Deserialize, Serialize};

/// The header.
pub const REQUEST_INFO_HEADER: &str = "Nats-Request-Info";

/// How many bytes of the header are read at most. It may have a whole JWT.
const HEADER_BYTES: usize = 64 * 1024;
/// The longest name of an account and of a user, characters.
const NAME_CHARS: usize = 128;
/// What nats-server says of a client without a login.
const NOBODY: &str = "N/A";

/// What the header says of the client that sent a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requester {
    /// `ACCOUNT/user`. The user is a name, or the public key of an NKey or a JWT. `None` when the import does not share
    /// it, or a name is not fit for a record.
    pub actor: Option<String>,
    /// The client's connection, as one word. Each connection of an installation has another one.
    pub connection: Option<String>,
}

/// The members of the header that are read.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Info {
    acc: String,
    user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
}

impl Requester {
    /// Reads the header. What cannot be read is left out.
    pub fn read(header: &str) -> Self {
        if header.len() > HEADER_BYTES {
            return Self::default();
        }
        let Info { acc, user, server, id } = serde_json::from_str(header).unwrap_or_default();
        let is_known = is_name(&acc) && !acc.contains('/') && is_name(&user) && user != NOBODY;
        let connection = id.filter(|_| is_name(&server)).map(|id| format!("{server}:{id}"));
        Self { actor: is_known.then(|| format!("{acc}/{user}")), connection }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(NAME_CHARS).is_none() && !text.chars().any(char::is_control)
}

/// The header for a request that a part of Holdfast sends in the place of `actor`, `ACCOUNT/user`.
pub fn header_of(actor: &str) -> Option<String> {
    let (acc, user) = actor.split_once('/')?;
    serde_json::to_string(&Info { acc: acc.to_owned(), user: user.to_owned(), ..Info::default() }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(header: &str) -> Option<String> {
        Requester::read(header).actor
    }

    /// As nats-server 2.15.1 writes it for an import with `share: true`.
    const SHARED: &str = r#"{"start":"2026-11-27T07:00:00Z","host":"127.0.0.1","id":7,"acc":"OPS","user":"ops",
        "name":"x","lang":"rust","ver":"0.51.0","rtt":400000,"server":"n1","kind":"Client","client_type":"nats"}"#;

    #[test]
    fn account_and_user_are_read_and_written() {
        let read = Requester::read(SHARED);
        assert_eq!((read.actor.as_deref(), read.connection.as_deref()), (Some("OPS/ops"), Some("n1:7")));
        let header = header_of("OPS/team/ops \"x\"").unwrap();
        assert_eq!(
            Requester::read(&header),
            Requester { actor: Some("OPS/team/ops \"x\"".to_owned()), connection: None }
        );
    }

    #[test]
    fn what_is_not_shared_or_not_fit_for_a_record_is_left_out() {
        for header in [
            "",
            "nonsense",
            "[]",
            r#"{"acc":"OPS","rtt":1}"#,
            r#"{"acc":"OPS","user":""}"#,
            r#"{"acc":"OPS","user":"N/A"}"#,
            r#"{"acc":"O/PS","user":"ops"}"#,
            r#"{"acc":"OPS","user":"o\nps"}"#,
            r#"{"acc":"OPS","user":"a","user":"b"}"#,
            r#"{"acc":7,"user":"ops"}"#,
        ] {
            assert_eq!(actor(header), None, "{header}");
        }
        let long = |user: usize| actor(&format!(r#"{{"acc":"A","user":"{}"}}"#, "é".repeat(user)));
        assert!(long(128).is_some() && long(129).is_none(), "it is never cut");
        assert_eq!(Requester::read(&format!("{SHARED}{}", " ".repeat(HEADER_BYTES))), Requester::default());
    }
}
