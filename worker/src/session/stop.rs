//! Why an agent does not go on with what it was doing.

use holdfast_protocol::Error;
use holdfast_store::StoreError;

use super::End;
use super::record::storage_unavailable;

/// Why an agent stops at what it was doing.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The agent ends.
    End(End),
    /// The storage did not do its part. The agent goes on.
    Storage(StoreError),
    /// The request is refused. The agent goes on.
    Refused(Error),
}

impl Stop {
    /// What to tell whoever waits.
    ///
    /// # Errors
    /// The end of the agent.
    pub(crate) fn refusal(self) -> Result<Error, End> {
        match self {
            Self::End(end) => Err(end),
            Self::Storage(error) => Ok(storage_unavailable(&error)),
            Self::Refused(error) => Ok(error),
        }
    }
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Storage(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}
