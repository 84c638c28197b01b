//! The contract's error for a failure of the storage: one wording for coordinators and workers.

use holdfast_protocol::Error;
use holdfast_protocol::error::Reason;

use crate::StoreError;

/// When to ask again while the storage is not available.
const AWAY_MS: u64 = 500;
/// When to ask again for the outcome of a write.
const UNKNOWN_MS: u64 = 250;

impl StoreError {
    /// The contract's error. A caller that can decide again does so on *moved*, and does not report it.
    pub fn to_error(&self) -> Error {
        match self {
            Self::Unknown(why) => {
                let message = format!("the change may or may not be there ({why}); ask again with the same request_id");
                Error::new(Reason::AckTimeout, message).retry_after_ms(Some(UNKNOWN_MS))
            }
            Self::Moved { .. } | Self::Unavailable(_) => {
                Error::new(Reason::StorageUnavailable, self.to_string()).retry_after_ms(Some(AWAY_MS))
            }
            // The same write again would be refused again.
            Self::Refused(_) => Error::new(Reason::Bug, self.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::Revision;
    use holdfast_protocol::error::Code;

    use super::*;

    #[test]
    fn each_fault_says_whether_asking_again_can_help() {
        let told = |fault: StoreError| {
            let error = fault.to_error();
            (error.code, error.retryable, error.retry_after_ms.is_some())
        };
        assert_eq!(told(StoreError::Unknown("lost".to_owned())), (Code::UnknownOutcome, true, true));
        assert_eq!(told(StoreError::Unavailable("away".to_owned())), (Code::Unavailable, true, true));
        assert_eq!(told(StoreError::Moved { expected: Revision(1) }), (Code::Unavailable, true, true));
        assert_eq!(told(StoreError::Refused("too large".to_owned())), (Code::Internal, false, false));
    }
}
