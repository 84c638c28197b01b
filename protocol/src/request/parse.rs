//! From bytes to a checked request, or to the contract's refusal.

use serde::Deserialize;
use serde_json::Value;

use super::{Request, bounds};
use crate::error::{Error, Reason};
use crate::id::RequestId;
use crate::limits::Limits;

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
    checked
        .and_then(|()| bounds::text("actor", request.actor(), limits))
        .and_then(|()| request.check(limits))
        .map_err(|mut error| {
            error.request_id = request.request_id().unwrap_or_default().chars().take(64).collect();
            error
        })?;
    Ok(request)
}

/// Whether a body may be read at all.
///
/// # Errors
/// `too_large` / `request_too_large`, without a `request_id`, because that would mean to read it.
pub fn check_size(payload: &[u8], limits: &Limits) -> Result<(), Error> {
    if payload.len() <= limits.request_bytes {
        return Ok(());
    }
    let message = format!("the request has {} bytes, and at most {} are allowed", payload.len(), limits.request_bytes);
    Err(Error::new(Reason::RequestTooLarge, message)
        .detail("bytes", payload.len())
        .detail("limit", limits.request_bytes))
}

fn from_json<R: Request>(payload: &[u8], limits: &Limits) -> Result<R, Error> {
    check_size(payload, limits)
        .map_err(|error| Error { request_id: peek_request_id(payload).unwrap_or_default(), ..error })?;
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

/// What is known of a body that is otherwise not read.
#[derive(Debug, Default)]
pub struct Peeked {
    /// The caller's `request_id`.
    pub request_id: Option<String>,
    /// Who asks.
    pub actor: Option<String>,
}

/// Reads a body for these two members only. What is no `request_id` or no `actor` counts as left out, one by one.
pub fn peek(payload: &[u8]) -> Peeked {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Peek {
        request_id: Value,
        actor: Value,
    }
    let Peek { request_id, actor } = serde_json::from_slice(payload).unwrap_or_default();
    let text = |value: Value| if let Value::String(text) = value { Some(text) } else { None };
    Peeked { request_id: text(request_id).filter(|id| RequestId::parse(id).is_ok()), actor: text(actor) }
}

/// The caller's `request_id` of a body that is otherwise not read.
pub fn peek_request_id(payload: &[u8]) -> Option<String> {
    peek(payload).request_id
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

#[cfg(test)]
mod tests {
    use super::super::{Acquire, Edit, Open};
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

    #[test]
    fn what_is_peeked_at_is_read_one_by_one() {
        let read = |json: &str| {
            let Peeked { request_id, actor } = peek(json.as_bytes());
            (request_id, actor)
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(read(r#"{"request_id": "r", "actor": "a", "body": []}"#), (text("r"), text("a")));
        assert_eq!(read(r#"{"request_id": "r", "actor": 7}"#), (text("r"), None));
        assert_eq!(read(r#"{"request_id": "", "actor": "a"}"#), (None, text("a")));
        for nothing in ["", "{", r#"{"request_id": null}"#] {
            assert_eq!(read(nothing), (None, None), "{nothing}");
        }
    }
}
