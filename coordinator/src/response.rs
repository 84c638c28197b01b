//! The response to a client: a body and, for an error, the micro service's headers.
//!
//! Invariant: every error has a `request_id`, and each of its headers is one line.

use async_nats::Message;
use async_nats::header::{HeaderMap, HeaderValue};
use bytes::Bytes;
use holdfast_protocol::error::ErrorReply;
use holdfast_protocol::{Error, Reason, RequestId, request};
use serde::Serialize;

use crate::grants::Granted;
use crate::micro::{ERROR_HEADER, NUMBER_HEADER};

/// How many characters of an error's message the header has at most. The body has the whole message.
const HEADER_CHARS: usize = 500;

/// A response.
pub(crate) struct Response {
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) body: Bytes,
    /// `number:message` of an error, for the statistics.
    pub(crate) fault: Option<String>,
    /// The reason of an error.
    pub(crate) refused: Option<Reason>,
    /// The grant that is taken back if the reply subject has no responder.
    pub(crate) granted: Option<Granted>,
    /// Why the act of an operator, which took effect, is not in its stream.
    pub(crate) unkept: Option<String>,
}

impl Response {
    /// A response that this coordinator makes.
    pub(crate) fn of(reply: &impl Serialize) -> Result<Self, Error> {
        match serde_json::to_vec(reply) {
            Ok(body) => {
                let body = body.into();
                Ok(Self { headers: None, body, fault: None, refused: None, granted: None, unkept: None })
            }
            Err(error) => Err(crate::error::bug(&format!("a reply cannot be written: {error}"))),
        }
    }

    /// The same, for the audit line: why the act is not in its stream.
    #[must_use]
    pub(crate) fn unkept(self, why: Option<String>) -> Self {
        Self { unkept: why, ..self }
    }

    /// The reply of an agent, unchanged.
    pub(crate) fn relayed(message: Message) -> Self {
        let fault = message.headers.as_ref().and_then(fault_of);
        let refused = fault.as_ref().map(|_| reason_of(&message.payload));
        Self { headers: message.headers, body: message.payload, fault, refused, granted: None, unkept: None }
    }

    /// An error response to a request with the body `payload`; `made` is its idempotency key if the body has none.
    pub(crate) fn error(mut error: Error, payload: &[u8], made: &RequestId) -> Self {
        if error.request_id.is_empty() {
            error.request_id = request::peek_request_id(payload).unwrap_or_else(|| made.as_str().to_owned());
        }
        if error.reason == Reason::AckTimeout {
            let request_id = error.request_id.clone();
            error = error.detail("request_id", request_id);
        }
        let mut headers = HeaderMap::new();
        headers.insert(ERROR_HEADER, one_line(&error.message));
        headers.insert(NUMBER_HEADER, HeaderValue::from(error.code.number()));
        let (fault, refused) = (fault_of(&headers), Some(error.reason));
        let body = error.to_json().into();
        Self { fault, refused, headers: Some(headers), body, granted: None, unkept: None }
    }
}

/// The reason in an agent's error.
fn reason_of(body: &[u8]) -> Reason {
    serde_json::from_slice::<ErrorReply>(body).map_or(Reason::Bug, |reply| reply.error.reason)
}

fn fault_of(headers: &HeaderMap) -> Option<String> {
    let number = headers.get_last(NUMBER_HEADER)?;
    let message = headers.get_last(ERROR_HEADER).map(HeaderValue::as_str).unwrap_or_default();
    Some(format!("{number}:{message}"))
}

fn one_line(message: &str) -> String {
    message.chars().map(|char| if char.is_control() { ' ' } else { char }).take(HEADER_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_a_body_two_headers_of_one_line_and_the_callers_request_id() {
        let refused = || Error::new(Reason::LockHeld, "locked\r\nby somebody\n");
        let made = RequestId::parse("made").unwrap();
        let answer = Response::error(refused(), br#"{"owner":"a","request_id":"r1"}"#, &made);
        let headers = answer.headers.unwrap();
        assert_eq!(headers.get(ERROR_HEADER).unwrap().as_str(), "locked  by somebody ");
        assert_eq!(headers.get(NUMBER_HEADER).unwrap().as_str(), "409");
        assert_eq!(answer.fault.unwrap(), "409:locked  by somebody ");
        let body: ErrorReply = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body.error.request_id, "r1");

        let body: ErrorReply = serde_json::from_slice(&Response::error(refused(), b"\xff[", &made).body).unwrap();
        assert_eq!(body.error.request_id, "made");
        let unknown = Response::error(Error::new(Reason::AckTimeout, ""), b"{}", &made);
        let body: ErrorReply = serde_json::from_slice(&unknown.body).unwrap();
        assert_eq!(body.error.details["request_id"], "made");
    }

    #[test]
    fn an_agents_reply_is_passed_on_as_it_is() {
        let mut headers = HeaderMap::new();
        headers.insert(ERROR_HEADER, "no");
        headers.insert(NUMBER_HEADER, "404");
        let message = Message {
            subject: "inbox".into(),
            reply: None,
            payload: Bytes::from_static(b"{}"),
            headers: Some(headers.clone()),
            status: None,
            description: None,
            length: 0,
        };
        let answer = Response::relayed(message);
        assert_eq!((answer.headers, &answer.body[..]), (Some(headers), &b"{}"[..]));
        assert_eq!((answer.fault.as_deref(), answer.refused), (Some("404:no"), Some(Reason::Bug)));
    }
}
