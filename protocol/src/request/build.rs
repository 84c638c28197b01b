//! Requests as a client builds them: the ones that are common in a word, all others by their members and `Default`.
//!
//! Deliberately absent: checks. What is out of bounds is for the coordinator to refuse, in one place.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Acquire, Consistency, DocGet, Edit, Open};
use crate::document::Splice;
use crate::id::SessionId;
use crate::token::Token;

/// Whole milliseconds; more than the contract allows is for the coordinator to refuse.
fn millis(duration: Duration) -> Option<u64> {
    Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

impl Open {
    /// The session `id`. Without id and path, as by `default()`, it is a new session, whose id the coordinator makes.
    pub fn id(id: &SessionId) -> Self {
        Self { id: Some(id.to_string()), ..Self::default() }
    }

    /// The session of the file `path`, in the workspace `main` unless said.
    pub fn file(path: impl Into<String>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }
}

impl Acquire {
    /// The lock, in the name of `owner`, until it is released. A name is no proof: the token is.
    pub fn by(owner: impl Into<String>) -> Self {
        Self { owner: owner.into(), ..Self::default() }
    }

    /// It is lost when not renewed for this long.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl_ms: millis(ttl), ..self }
    }

    /// Wait up to this long while another holds it.
    #[must_use]
    pub fn wait(self, wait: Duration) -> Self {
        Self { wait_ms: millis(wait), ..self }
    }

    /// The same grant again, for whoever still has its token.
    #[must_use]
    pub fn again(self, token: &Token) -> Self {
        Self { expected_token: Some(token.clone()), ..self }
    }

    /// A new token in place of `token`, which is void from then on.
    #[must_use]
    pub fn rotating(self, token: &Token) -> Self {
        Self { rotate: Some(true), ..self.again(token) }
    }
}

impl DocGet {
    /// What the owner's agent has while it provably is the owner: one round trip to storage more.
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

    /// Shows the token of the held lock.
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
