//! The bodies of requests, and how bytes from outside become one of them.
//!
//! Invariant: whatever arrives, `parse` answers with a checked request or with a clear error of the contract: it does not
//! panic and does not recurse without bound (serde_json stops at 128 levels). Unknown members are refused by name.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::document::{Content, Splice};
use crate::error::{Error, Reason};
use crate::id::{RequestId, SessionId, WorkerName, WorkspaceName};
use crate::limits::Limits;
use crate::path::CanonicalPath;
use crate::record::{LockMode, OnIdle, State};

/// A parsed body.
pub trait Request: DeserializeOwned {
    /// The caller's idempotency key, unchecked.
    fn request_id(&self) -> Option<&str>;
    /// Who asks, for the audit trail.
    fn actor(&self) -> Option<&str>;
    /// Checks what a type cannot say.
    ///
    /// # Errors
    /// `invalid_params` or `too_large` for the first member that is out of bounds.
    fn check(&self, limits: &Limits) -> Result<(), Error>;
}

macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* } $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
            /// Idempotency key.
            #[serde(default)]
            pub request_id: Option<String>,
            /// Who asks, for the audit trail.
            #[serde(default)]
            pub actor: Option<String>,
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                // A body may have a token or somebody's text, and neither belongs into a log line.
                f.debug_struct(stringify!($name)).field("request_id", &self.request_id).finish_non_exhaustive()
            }
        }

        impl Request for $name {
            fn request_id(&self) -> Option<&str> {
                self.request_id.as_deref()
            }

            fn actor(&self) -> Option<&str> {
                self.actor.as_deref()
            }

            fn check(&self, limits: &Limits) -> Result<(), Error> {
                let check: fn(&Self, &Limits) -> Result<(), Error> = $check;
                check(self, limits)
            }
        }
    };
}

/// How `session.open` treats existence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Create on demand.
    #[default]
    Ensure,
    /// Refuse an existing one.
    Create,
    /// Refuse a missing one.
    Attach,
}

/// How current a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// What the owner's agent has.
    #[default]
    Local,
    /// What the owner's agent has while it provably is the owner.
    Linearizable,
}

/// Settings that an opener may give; the rest are the defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenConfig {
    /// How long without activity counts as idle, milliseconds.
    #[serde(default)]
    pub idle_timeout_ms: Option<u64>,
    /// What then happens.
    #[serde(default, deserialize_with = "word")]
    pub on_idle: Option<OnIdle>,
    /// Whether changes need the lock.
    #[serde(default, deserialize_with = "word")]
    pub lock: Option<LockMode>,
}

request!(
    /// `session.open`
    Open {
        /// The session's id; excludes `path`.
        #[serde(default)] id: Option<String>,
        /// The file's path; excludes `id`.
        #[serde(default)] path: Option<String>,
        /// The file's workspace, `main` when left out.
        #[serde(default)] workspace: Option<String>,
        /// How to treat existence.
        #[serde(default, deserialize_with = "word")] mode: Option<Mode>,
        /// Settings.
        #[serde(default, deserialize_with = "object")] config: Option<OpenConfig>,
        /// What a new session begins with.
        #[serde(default, deserialize_with = "object")] content: Option<Content>,
    }
    |open, limits| {
        open.target(limits)?;
        let config = open.config.clone().unwrap_or_default();
        within("config.idle_timeout_ms", config.idle_timeout_ms, limits.idle_timeout_ms)?;
        open.content.as_ref().map_or(Ok(()), |content| content.check(limits))
    }
);

/// What `session.open` is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenTarget {
    /// The client's own id.
    Id(SessionId),
    /// The session of a file.
    File(WorkspaceName, CanonicalPath),
    /// A new session, whose id the coordinator makes.
    Fresh,
}

impl Open {
    /// What it is about.
    ///
    /// # Errors
    /// `invalid_params` when id, path or workspace are malformed or exclude each other.
    pub fn target(&self, limits: &Limits) -> Result<OpenTarget, Error> {
        match (&self.id, &self.path) {
            (Some(_), Some(_)) => Err(Error::invalid(Reason::BadValue, "path and id exclude each other")),
            (None, Some(path)) => {
                let workspace = WorkspaceName::parse(self.workspace.as_deref().unwrap_or("main"))?;
                Ok(OpenTarget::File(workspace, CanonicalPath::parse(path, limits.path_chars)?))
            }
            (_, None) if self.workspace.is_some() => Err(Error::invalid(Reason::BadValue, "workspace goes with path")),
            (Some(id), None) => Ok(OpenTarget::Id(SessionId::parse(id)?)),
            (None, None) if self.mode == Some(Mode::Attach) => {
                Err(Error::invalid(Reason::MissingField, "attach needs an id or a path"))
            }
            (None, None) => Ok(OpenTarget::Fresh),
        }
    }
}

request!(
    /// A request without members of its own.
    Empty {} |_, _| Ok(())
);

request!(
    /// `session.list`
    List {
        /// Page size, 1 to 1000; 100 when left out.
        #[serde(default)] limit: Option<u64>,
        /// `next` of the page before.
        #[serde(default)] after: Option<String>,
        /// Only sessions in this state.
        #[serde(default, deserialize_with = "word")] state: Option<State>,
        /// Only sessions on this worker.
        #[serde(default)] worker: Option<WorkerName>,
    }
    |list, _| within("limit", list.limit, (1, 1000))
);

request!(
    /// `session.close`
    Close {
        /// The lock's token, when it is held.
        #[serde(default)] token: Option<String>,
        /// Give unsaved changes up.
        #[serde(default)] discard: Option<bool>,
    }
    |close, _| token_shape("token", close.token.as_deref())
);

request!(
    /// `lock.acquire`
    Acquire {
        /// The holder's name.
        owner: String,
        /// The token that the caller believes is current.
        #[serde(default)] expected_token: Option<String>,
        /// Ask for a new token in place of `expected_token`.
        #[serde(default)] rotate: Option<bool>,
        /// How long it lives without renewal.
        #[serde(default)] ttl_ms: Option<u64>,
        /// How long to wait while another holds it.
        #[serde(default)] wait_ms: Option<u64>,
    }
    |acquire, limits| {
        text("owner", Some(&acquire.owner), limits)?;
        token_shape("expected_token", acquire.expected_token.as_deref())?;
        within("ttl_ms", acquire.ttl_ms, limits.ttl_ms)?;
        within("wait_ms", acquire.wait_ms, (0, limits.wait_ms))
    }
);

request!(
    /// `lock.validate`, `lock.renew` and `lock.release`
    ShowToken {
        /// The token.
        token: String,
    }
    |show, _| token_shape("token", Some(&show.token))
);

request!(
    /// `doc.get`
    DocGet {
        /// How current the answer must be.
        #[serde(default, deserialize_with = "word")] consistency: Option<Consistency>,
    }
    |_, _| Ok(())
);

request!(
    /// `doc.edit`
    Edit {
        /// The lock's token.
        #[serde(default)] token: Option<String>,
        /// The revision that the change is meant for.
        #[serde(default)] expected_revision: Option<u64>,
        /// A whole new text; excludes `splices`.
        #[serde(default)] body: Option<String>,
        /// Changes of the text, each on the result of the one before.
        #[serde(default, deserialize_with = "objects")] splices: Option<Vec<Splice>>,
        /// JSON merge patch (RFC 7396) of the fields.
        #[serde(default)] fields: Option<Map<String, Value>>,
    }
    |edit, limits| {
        token_shape("token", edit.token.as_deref())?;
        if edit.body.is_some() && edit.splices.is_some() {
            return Err(Error::invalid(Reason::BadValue, "body and splices exclude each other"));
        }
        if edit.body.is_none() && edit.splices.is_none() && edit.fields.is_none() {
            return Err(Error::invalid(Reason::MissingField, "an edit needs body, splices or fields"));
        }
        if edit.body.as_ref().is_some_and(|body| body.len() > limits.body_bytes) {
            return Err(crate::document::body_too_large(limits));
        }
        Ok(())
    }
);

request!(
    /// `doc.load`
    Load {
        /// The lock's token.
        #[serde(default)] token: Option<String>,
        /// Give unsaved changes up.
        #[serde(default)] discard: Option<bool>,
    }
    |load, _| token_shape("token", load.token.as_deref())
);

request!(
    /// `doc.save`
    Save {
        /// The lock's token.
        #[serde(default)] token: Option<String>,
        /// Write over what somebody else wrote.
        #[serde(default)] overwrite: Option<bool>,
    }
    |save, _| token_shape("token", save.token.as_deref())
);

request!(
    /// `doc.undo` and `doc.redo`
    Undo {
        /// The lock's token.
        #[serde(default)] token: Option<String>,
        /// The revision that the change is meant for.
        #[serde(default)] expected_revision: Option<u64>,
    }
    |undo, _| token_shape("token", undo.token.as_deref())
);

request!(
    /// `admin.takeover`
    Takeover {
        /// The new holder's name.
        owner: String,
        /// Why.
        reason: String,
        /// How long it lives without renewal.
        #[serde(default)] ttl_ms: Option<u64>,
        /// The lock revision that the operator saw.
        #[serde(default)] expected_lock_revision: Option<u64>,
    }
    |takeover, limits| {
        text("owner", Some(&takeover.owner), limits)?;
        text("reason", Some(&takeover.reason), limits)?;
        within("ttl_ms", takeover.ttl_ms, limits.ttl_ms)
    }
);

request!(
    /// `admin.unlock`
    Unlock {
        /// Why.
        reason: String,
        /// The lock revision that the operator saw.
        #[serde(default)] expected_lock_revision: Option<u64>,
    }
    |unlock, limits| text("reason", Some(&unlock.reason), limits)
);

request!(
    /// `admin.move`
    Move {
        /// Where to; any other worker when left out.
        #[serde(default)] worker: Option<WorkerName>,
        /// Why.
        reason: String,
    }
    |request, limits| text("reason", Some(&request.reason), limits)
);

request!(
    /// `admin.reclaim`
    Reclaim {
        /// Idle for at least this long.
        max_idle_ms: u64,
    }
    |_, _| Ok(())
);

request!(
    /// `worker.drain` and `worker.undrain`
    Drain {
        /// Why.
        reason: String,
    }
    |drain, limits| text("reason", Some(&drain.reason), limits)
);

/// Makes a checked request of a body. An empty body counts as `{}`.
///
/// # Errors
/// `invalid_params` or `too_large`; its `request_id` is the caller's where that could be read.
pub fn parse<R: Request>(payload: &[u8], limits: &Limits) -> Result<R, Error> {
    let request: R = from_json(payload, limits)?;
    let checked = match request.request_id() {
        Some(id) => RequestId::parse(id).map(|_| ()),
        None => Ok(()),
    };
    checked.and_then(|()| text("actor", request.actor(), limits)).and_then(|()| request.check(limits)).map_err(
        |mut error| {
            error.request_id = request.request_id().unwrap_or_default().chars().take(64).collect();
            error
        },
    )?;
    Ok(request)
}

fn from_json<R: Request>(payload: &[u8], limits: &Limits) -> Result<R, Error> {
    if payload.len() > limits.request_bytes {
        return Err(Error::new(
            Reason::RequestTooLarge,
            format!("the request has {} bytes, and at most {} are allowed", payload.len(), limits.request_bytes),
        )
        .detail("bytes", payload.len())
        .detail("limit", limits.request_bytes))
        .map_err(|error| Error { request_id: peek_request_id(payload).unwrap_or_default(), ..error });
    }
    let json = if payload.trim_ascii().is_empty() { b"{}" } else { payload };
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(match serde_json::from_slice::<serde::de::IgnoredAny>(json) {
            Ok(_) => Error::invalid(Reason::BadValue, "the request must be a JSON object"),
            Err(error) => Error::invalid(Reason::BadJson, format!("the request is not JSON: {error}")),
        });
    }
    serde_json::from_slice(json).map_err(|error| {
        let mut refusal = refusal(&error, json);
        refusal.request_id = peek_request_id(json).unwrap_or_default();
        refusal
    })
}

/// The caller's `request_id` of a body that is otherwise not read.
pub fn peek_request_id(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Peek {
        request_id: Option<String>,
    }
    let id = serde_json::from_slice::<Peek>(payload).ok()?.request_id?;
    RequestId::parse(&id).ok().map(|id| id.to_string())
}

/// serde_json tells kinds of data errors apart only in its messages; a test pins them.
fn refusal(error: &serde_json::Error, json: &[u8]) -> Error {
    let message = error.to_string();
    // A caller's own name may have backticks in it; what follows it has words of ours.
    let quoted = || {
        let name = message.split_once('`').map_or("", |(_, rest)| rest);
        let end = name.rfind("`, expected ").or_else(|| name.find('`'));
        end.map_or(name, |end| &name[..end]).to_owned()
    };
    // It says "syntax" also where a number stands in place of a word.
    let is_json =
        || message.starts_with("expected value") && serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok();
    if !error.is_data() && !is_json() {
        Error::invalid(Reason::BadJson, format!("the request is not JSON: {message}"))
    } else if message.starts_with("unknown field") {
        let field = quoted();
        Error::invalid(Reason::UnknownField, message).detail("field", field)
    } else if message.starts_with("missing field") {
        let field = quoted();
        Error::invalid(Reason::MissingField, message).detail("field", field)
    } else {
        Error::invalid(Reason::BadValue, message)
    }
}

/// A member that is an object. serde would take an array in the order of the fields as well.
fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let members = Option::<Map<String, Value>>::deserialize(deserializer)?;
    members.map(|members| T::deserialize(Value::Object(members)).map_err(D::Error::custom)).transpose()
}

/// A member that is a word. serde would take `{"word": null}` as well.
fn word<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let word = Option::<String>::deserialize(deserializer)?;
    word.map(|word| T::deserialize(Value::String(word)).map_err(D::Error::custom)).transpose()
}

/// A member that is an array of objects.
fn objects<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    let items = Option::<Vec<Map<String, Value>>>::deserialize(deserializer)?;
    let item = |members| T::deserialize(Value::Object(members)).map_err(D::Error::custom);
    items.map(|items| items.into_iter().map(item).collect()).transpose()
}

fn within(name: &str, value: Option<u64>, (low, high): (u64, u64)) -> Result<(), Error> {
    match value {
        Some(value) if value < low || value > high => {
            Err(Error::invalid(Reason::BadValue, format!("{name} must be {low} to {high}, not {value}"))
                .detail("field", name))
        }
        _ => Ok(()),
    }
}

fn text(name: &str, value: Option<&str>, limits: &Limits) -> Result<(), Error> {
    let Some(value) = value else { return Ok(()) };
    let chars = value.chars().count();
    if chars == 0 || chars > limits.text_chars {
        let message = format!("{name} must have 1 to {} characters, not {chars}", limits.text_chars);
        return Err(Error::invalid(Reason::BadValue, message).detail("field", name));
    }
    Ok(())
}

fn token_shape(name: &str, token: Option<&str>) -> Result<(), Error> {
    // Any other text is just a token that is not the current one.
    match token {
        Some(token) if token.is_empty() || token.len() > 256 => {
            Err(Error::invalid(Reason::BadValue, format!("{name} must have 1 to 256 characters")).detail("field", name))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason<R: Request + std::fmt::Debug>(payload: &[u8]) -> Reason {
        parse::<R>(payload, &Limits::default()).unwrap_err().reason
    }

    #[test]
    fn bad_input_of_every_kind_has_its_reason() {
        assert_eq!(reason::<Acquire>(b"{"), Reason::BadJson);
        assert_eq!(reason::<Acquire>(b"nonsense"), Reason::BadJson);
        assert_eq!(reason::<Acquire>(b"[]"), Reason::BadValue);
        assert_eq!(reason::<Acquire>(b"\"owner\""), Reason::BadValue);
        assert_eq!(reason::<Acquire>(b"{\"owner\":\"\xff\"}"), Reason::BadJson);
        assert_eq!(reason::<Acquire>(b"{\"owner\":\"a\"} x"), Reason::BadJson);
        assert_eq!(reason::<Acquire>(b"{\"owner\":\"a\",\"owner\":\"b\"}"), Reason::BadValue);
        assert_eq!(reason::<Acquire>(b"{}"), Reason::MissingField);
        assert_eq!(reason::<Acquire>(b""), Reason::MissingField);
        assert_eq!(reason::<Acquire>(b"{\"owner\":1}"), Reason::BadValue);
        assert_eq!(reason::<Acquire>(b"{\"owner\":\"a\",\"ttl_ms\":999}"), Reason::BadValue);
        assert_eq!(reason::<Acquire>(b"{\"owner\":\"a\",\"ttl_ms\":-1}"), Reason::BadValue);
        assert_eq!(reason::<Acquire>(b"{\"owner\":\"a\",\"ttl\":1000}"), Reason::UnknownField);
        assert_eq!(reason::<Open>(b"{\"config\":{\"lck\":\"required\"}}"), Reason::UnknownField);
        assert_eq!(reason::<Open>(b"{\"id\":\"a.b\"}"), Reason::InvalidSessionId);
        assert_eq!(reason::<Open>(b"{\"id\":\"a\",\"path\":\"b\"}"), Reason::BadValue);
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert_eq!(reason::<Edit>(&[b"{\"fields\":{\"a\":", deep.as_slice(), b"}}"].concat()), Reason::BadJson);
        assert_eq!(reason::<Edit>(&deep), Reason::BadValue);
        assert_eq!(reason::<Edit>(&vec![b' '; 1024 * 1024 + 1]), Reason::RequestTooLarge);
    }

    #[test]
    fn an_unknown_field_is_named_and_the_request_id_kept() {
        let error =
            parse::<Acquire>(b"{\"owner\":\"a\",\"tll_ms\":1,\"request_id\":\"r1\"}", &Limits::default()).unwrap_err();
        assert_eq!(error.details["field"], "tll_ms");
        assert_eq!(error.request_id, "r1");
    }
}
