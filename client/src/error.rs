//! Why a request failed, sorted by what the caller can do next.
//!
//! Invariant: every failure has the contract's shape, even one that no coordinator wrote, so a program reads one shape
//! only. *Conflict* and *unknown outcome* are never the same variant.

use holdfast_protocol::error::ErrorReply;
use holdfast_protocol::{Code, Reason, RequestId};

use holdfast_protocol::Error as Contract;

/// A failed request.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Another change was first: read who made it and when, and decide.
    #[error("{0}")]
    Conflict(Box<Contract>),
    /// The request cannot succeed as it is: correct it, or create what it needs.
    #[error("{0}")]
    Refused(Box<Contract>),
    /// Nothing was changed, and no part could answer within the deadline: try again later.
    #[error("{0}")]
    Unavailable(Box<Contract>),
    /// The change may or may not have taken effect: ask again with the same `request_id`, or read.
    #[error("{0}")]
    Unknown(Box<Contract>),
}

impl Error {
    /// The contract's error.
    pub fn contract(&self) -> &Contract {
        match self {
            Self::Conflict(error) | Self::Refused(error) | Self::Unavailable(error) | Self::Unknown(error) => error,
        }
    }

    /// Whether a retry of the same request may succeed.
    pub(crate) fn may_pass(&self) -> bool {
        // The part that refused knows whether waiting helps.
        matches!(self, Self::Unavailable(_) | Self::Unknown(_)) && self.contract().retryable
    }

    /// Parses an error reply.
    pub(crate) fn of_reply(body: &[u8], headline: &str, request_id: &RequestId) -> Self {
        match serde_json::from_slice::<ErrorReply>(body) {
            Ok(reply) => reply.error.into(),
            // A coordinator of another version may use unknown reasons; then only its headline can be reported.
            Err(problem) => garbled(headline, &problem, request_id),
        }
    }

    /// A reply without the contract's shape. The request may have taken effect.
    pub(crate) fn of_garbled(problem: &serde_json::Error, request_id: &RequestId) -> Self {
        garbled("the reply cannot be read", problem, request_id)
    }

    /// No responder: no coordinator runs. Nothing was changed.
    pub(crate) fn of_silence(subject: &str, request_id: &RequestId) -> Self {
        let mut error = Contract::new(Reason::StorageUnavailable, format!("no coordinator listens on {subject}"));
        error.actions = vec!["start_coordinator".to_owned()];
        error.for_request(request_id).into()
    }

    /// The request may have been sent, and no answer came. Only for a read is it certain that nothing was changed.
    pub(crate) fn of_no_answer(why: &str, is_read: bool, request_id: &RequestId) -> Self {
        let reason = if is_read { Reason::StorageUnavailable } else { Reason::AckTimeout };
        let error = Contract::new(reason, format!("no answer came: {why}")).for_request(request_id);
        error.detail("request_id", request_id.as_str()).into()
    }

    /// The message is larger than NATS allows; it was not sent.
    pub(crate) fn of_size(why: &str, request_id: &RequestId) -> Self {
        Contract::new(Reason::RequestTooLarge, why.to_owned()).for_request(request_id).into()
    }
}

fn garbled(headline: &str, problem: &serde_json::Error, request_id: &RequestId) -> Error {
    Contract::new(Reason::Bug, format!("{headline} ({problem})")).for_request(request_id).into()
}

impl From<Contract> for Error {
    fn from(error: Contract) -> Self {
        let class = match error.code {
            Code::Conflict => Self::Conflict,
            Code::Busy | Code::Unavailable => Self::Unavailable,
            Code::UnknownOutcome => Self::Unknown,
            Code::InvalidParams
            | Code::Forbidden
            | Code::NotFound
            | Code::TooLarge
            | Code::Filesystem
            | Code::Internal => Self::Refused,
        };
        class(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_class() {
        for reason in Reason::ALL {
            let error = Error::from(Contract::new(*reason, "x"));
            assert_eq!(matches!(error, Error::Conflict(_)), reason.code() == Code::Conflict, "{reason}");
            // `lock_held` is retryable for the caller who waits, not for a client that would only ask in a loop.
            assert_eq!(error.may_pass(), reason.retryable() && *reason != Reason::LockHeld, "{reason}");
        }
    }

    #[test]
    fn an_answer_that_says_it_is_final_is_not_asked_for_again() {
        let error = Error::from(Contract::new(Reason::NoLiveWorker, "no other worker").not_retryable());
        assert!(matches!(error, Error::Unavailable(_)) && !error.may_pass());
    }

    #[test]
    fn an_unreadable_error_keeps_its_headline() {
        let id = RequestId::parse("r1").unwrap();
        let body = br#"{"error":{"code":"from_the_future"}}"#;
        let error = Error::of_reply(body, "session s1 is in another time", &id);
        assert!(error.contract().message.starts_with("session s1 is in another time"));
        assert_eq!(error.contract().request_id, "r1");
    }
}
