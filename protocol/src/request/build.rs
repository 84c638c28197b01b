//! Builders of requests for clients: functions for the common ones. Others are built from their members and `Default`.
//!
//! Deliberately absent: checks. The coordinator refuses what is out of bounds, in one place.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Acquire, Consistency, DocGet, Edit, Open};
use crate::document::Splice;
use crate::id::SessionId;
use crate::token::Token;

/// Whole milliseconds. The coordinator refuses more than the contract allows.
fn millis(duration: Duration) -> Option<u64> {
    Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

impl Open {
    /// The session `id`. `default()`, without id and path, is a new session with an id that the coordinator makes.
    pub fn id(id: &SessionId) -> Self {
        Self { id: Some(id.to_string()), ..Self::default() }
    }

    /// The session of the file `path`, in the workspace `main` unless another is set.
    pub fn file(path: impl Into<String>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }
}

impl Acquire {
    /// The lock in the name of `owner`, until it is released. The name proves nothing; the token does.
    pub fn by(owner: impl Into<String>) -> Self {
        Self { owner: owner.into(), ..Self::default() }
    }

    /// The lock expires when it is not renewed for this long.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl_ms: millis(ttl), ..self }
    }

    /// Waits up to this long while another client holds the lock.
    #[must_use]
    pub fn wait(self, wait: Duration) -> Self {
        Self { wait_ms: millis(wait), ..self }
    }

    /// The same grant again, for the holder of its token.
    #[must_use]
    pub fn again(self, token: &Token) -> Self {
        Self { expected_token: Some(token.clone()), ..self }
    }

    /// A new token in place of `token`, which is invalid from then on.
    #[must_use]
    pub fn rotating(self, token: &Token) -> Self {
        Self { rotate: Some(true), ..self.again(token) }
    }
}

impl DocGet {
    /// The state of the owner's agent after it has proved that it is the owner; costs a round trip to storage.
    pub fn linearizable() -> Self {
        Self { consistency: Some(Consistency::Linearizable), ..Self::default() }
    }
}

impl Edit {
    /// A whole new text.
    pub fn body(body: impl Into<String>) -> Self {
        Self { body: Some(body.into()), ..Self::default() }
    }

    /// Changes of the text, each on the result of the one before.
    pub fn splices(splices: Vec<Splice>) -> Self {
        Self { splices: Some(splices), ..Self::default() }
    }

    /// A JSON merge patch of the fields alone.
    pub fn fields(patch: Map<String, Value>) -> Self {
        Self { fields: Some(patch), ..Self::default() }
    }

    /// Adds the token of the held lock.
    #[must_use]
    pub fn token(self, token: &Token) -> Self {
        Self { token: Some(token.clone()), ..self }
    }

    /// Only if the document still is at this revision.
    #[must_use]
    pub fn expecting(self, revision: u64) -> Self {
        Self { expected_revision: Some(revision), ..self }
    }
}
