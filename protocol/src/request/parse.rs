//! Parses bytes into a checked request, or the contract's refusal.

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Request, bounds, read};
use crate::error::{Error, Reason};
use crate::id::RequestId;
use crate::limits::Limits;

/// How much of a body is searched for its `request_id` and `actor`: as much as a request may have.
const PEEK_BYTES: usize = 1024 * 1024;
/// The longest `actor` and `reason` that are taken from a body that is not parsed, characters.
const TEXT_CHARS: usize = 256;

/// Parses a body into a checked request. An empty body counts as `{}`.
///
/// # Errors
/// `invalid_params` or `too_large`; its `request_id` is the caller's if that could be read.
pub fn parse<R: Request>(payload: &[u8], limits: &Limits) -> Result<R, Error> {
    let request: R = from_json(payload, limits)
        .map_err(|error| Error { request_id: peek_request_id(payload).unwrap_or_default(), ..error })?;
    let checked = match request.request_id() {
        Some(id) => RequestId::parse(id).map(|_| ()).map_err(|error| error.detail("field", "request_id")),
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

/// Checks whether a body is small enough to be parsed.
///
/// # Errors
/// `too_large` / `request_too_large`. It has no `request_id`, because the body is not read.
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
    check_size(payload, limits)?;
    let bad_json = |why: String| Error::invalid(Reason::BadJson, format!("the request is not JSON: {why}"));
    let text = std::str::from_utf8(payload).map_err(|error| bad_json(error.to_string()))?;
    let text = if text.trim_ascii().is_empty() { "{}" } else { text };
    if text.trim_ascii_start().starts_with('{') {
        return read::read(text, limits).map_err(|fault| fault.error(limits));
    }
    Err(match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Error::invalid(Reason::BadValue, "the request must be a JSON object"),
        Err(error) => bad_json(error.to_string()),
    })
}

/// Three members of a body that is not parsed.
#[derive(Debug, Default)]
pub struct Peeked {
    /// The caller's `request_id`.
    pub request_id: Option<String>,
    /// Who asks.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// Reads only these members of a body, from no more of it than a request may have. An invalid one counts as left out.
/// Members before the first JSON error count.
pub fn peek(payload: &[u8]) -> Peeked {
    let mut members = PeekedMembers::default();
    // The parser reports errors after these members.
    drop(serde_json::Deserializer::from_slice(&payload[..payload.len().min(PEEK_BYTES)]).deserialize_map(&mut members));
    let text = |member: Option<&RawValue>| serde_json::from_str::<String>(member?.get()).ok();
    let is_text = |text: &String| !text.is_empty() && text.chars().nth(TEXT_CHARS).is_none();
    Peeked {
        request_id: text(members.request_id).filter(|id| RequestId::parse(id).is_ok()),
        actor: text(members.actor).filter(is_text),
        reason: text(members.reason).filter(is_text),
    }
}

#[derive(Default)]
struct PeekedMembers<'de> {
    request_id: Option<&'de RawValue>,
    actor: Option<&'de RawValue>,
    reason: Option<&'de RawValue>,
}

impl<'de> Visitor<'de> for &mut PeekedMembers<'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        while let Some(name) = access.next_key::<String>()? {
            let member = match name.as_str() {
                "request_id" => &mut self.request_id,
                "actor" => &mut self.actor,
                "reason" => &mut self.reason,
                _ => {
                    access.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let is_second = member.is_some();
            let text: &RawValue = access.next_value()?;
            // A duplicate is refused by the parser, so neither value counts.
            *member = if is_second { Some(RawValue::NULL) } else { Some(text) };
        }
        Ok(())
    }
}

/// The caller's `request_id` of a body that is not parsed.
pub fn peek_request_id(payload: &[u8]) -> Option<String> {
    peek(payload).request_id
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
            let Peeked { request_id, actor, .. } = peek(json.as_bytes());
            (request_id, actor)
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(read(r#"{"request_id": "r", "actor": "a", "body": []}"#), (text("r"), text("a")));
        assert_eq!(read(r#"{"request_id": "r", "actor": 7}"#), (text("r"), None));
        assert_eq!(read(r#"{"request_id": "", "actor": "a"}"#), (None, text("a")));
        assert_eq!(peek(br#"{"owner": "o", "reason": "stuck"}"#).reason, text("stuck"));
        for nothing in ["", "{", r#"{"request_id": null}"#] {
            assert_eq!(read(nothing), (None, None), "{nothing}");
        }
    }
}
