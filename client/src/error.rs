//! Why a request failed, as what the caller can do next.
//!
//! Invariant: every failure has the contract's shape, also one that no coordinator wrote, so that a program has one thing
//! to read; *conflict* and *unknown outcome* are never the same variant.

use holdfast_protocol::error::ErrorReply;
use holdfast_protocol::{Code, Reason, RequestId};

use holdfast_protocol::Error as Contract;

/// A failed request.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Somebody or something else was first: read who and since when, and decide.
    #[error("{0}")]
    Conflict(Box<Contract>),
    /// The request cannot succeed as it is: correct it, or make what it needs.
    #[error("{0}")]
    Refused(Box<Contract>),
    /// Nothing was changed, and nobody could answer within the deadline: try again later.
    #[error("{0}")]
    Unavailable(Box<Contract>),
    /// The change may or may not be there: ask again with the same `request_id`, or read.
    #[error("{0}")]
    Unknown(Box<Contract>),
}

impl Error {
    /// The error as the contract has it.
    pub fn contract(&self) -> &Contract {
        match self {
            Self::Conflict(error) | Self::Refused(error) | Self::Unavailable(error) | Self::Unknown(error) => error,
        }
    }

    /// Whether the same request, sent again unchanged, may do better.
    pub(crate) fn may_pass(&self) -> bool {
        // Whoever refused knows whether waiting helps.
        matches!(self, Self::Unavailable(_) | Self::Unknown(_)) && self.contract().retryable
    }

    /// What an error reply says.
    pub(crate) fn of_reply(body: &[u8], headline: &str, request_id: &RequestId) -> Self {
        match serde_json::from_slice::<ErrorReply>(body) {
            Ok(reply) => reply.error.into(),
            // A coordinator of another version may know reasons that we do not; its headline is all we can tell.
            Err(problem) => garbled(headline, &problem, request_id),
        }
    }

    /// A reply that does not have the shape of the contract. What it answers may well have been done.
    pub(crate) fn of_garbled(problem: &serde_json::Error, request_id: &RequestId) -> Self {
        garbled("the reply cannot be read", problem, request_id)
    }

    /// Nobody listens: no coordinator is there. Nothing was changed.
    pub(crate) fn of_silence(subject: &str, request_id: &RequestId) -> Self {
        let mut error = Contract::new(Reason::StorageUnavailable, format!("no coordinator listens on {subject}"));
        error.actions = vec!["start_coordinator".to_owned()];
        error.for_request(request_id).into()
    }

    /// The request was sent, or may have been, and no answer came. Only a read has certainly done nothing.
    pub(crate) fn of_no_answer(why: &str, is_read: bool, request_id: &RequestId) -> Self {
        let reason = if is_read { Reason::StorageUnavailable } else { Reason::AckTimeout };
        let error = Contract::new(reason, format!("no answer came: {why}")).for_request(request_id);
        error.detail("request_id", request_id.as_str()).into()
    }

    /// NATS does not take messages as large as this; it was not sent.
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
