//! `lock.*`: acquire, validate, renew, release, and a held lock as a thing.
//!
//! Invariant: a token is shown to Holdfast and to whoever asks for its text, and never to a log: `Debug` hides it.

use std::fmt;
use std::time::Duration;

use holdfast_protocol::reply::{Grant, Released, Renewed, Validated};
use holdfast_protocol::subject::Verb;
use serde::Serialize;

use crate::client::SessionClient;
use crate::error::Error;
use crate::request::{Ask, Call};

/// The proof of holding a lock.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// A token that was kept as text.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The text, to be kept where no stranger reads it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// `lock.acquire`: takes the lock, waits for it, or asks for the same grant again.
#[derive(Clone, Debug, Serialize)]
pub struct Acquire {
    /// The holder's name. A name is no proof: the token is.
    pub owner: String,
    /// The token that the caller believes is current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_token: Option<Token>,
    /// Ask for a new token in place of `expected_token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate: Option<bool>,
    /// How long it lives without renewal, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// How long to wait while another holds it, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

impl Acquire {
    /// The lock, in the name of `owner`, until it is released.
    pub fn by(owner: impl Into<String>) -> Self {
        Self { owner: owner.into(), expected_token: None, rotate: None, ttl_ms: None, wait_ms: None }
    }

    /// It is lost when not renewed for this long.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl_ms = Some(millis(ttl));
        self
    }

    /// Wait up to this long while another holds it.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait_ms = Some(millis(wait));
        self
    }

    /// The same grant again, for whoever still has its token.
    #[must_use]
    pub fn again(mut self, token: &Token) -> Self {
        self.expected_token = Some(token.clone());
        self
    }

    /// A new token in place of `token`, which is void from then on.
    #[must_use]
    pub fn rotating(mut self, token: &Token) -> Self {
        self.rotate = Some(true);
        self.again(token)
    }
}

impl Ask for Acquire {
    const VERB: Verb = Verb::LockAcquire;
    type Reply = Grant;

    fn may_take(&self) -> Duration {
        Duration::from_millis(self.wait_ms.unwrap_or(0))
    }
}

macro_rules! shows_token {
    ($(#[$doc:meta])* $name:ident, $verb:ident, $reply:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Serialize)]
        pub struct $name {
            /// The token.
            pub token: Token,
        }

        impl Ask for $name {
            const VERB: Verb = Verb::$verb;
            type Reply = $reply;
        }
    };
}

shows_token!(
    /// `lock.validate`: whether a token is the current one.
    Validate, LockValidate, Validated
);
shows_token!(
    /// `lock.renew`: restarts the lock's lease.
    Renew, LockRenew, Renewed
);
shows_token!(
    /// `lock.release`: gives the lock back.
    Release, LockRelease, Released
);

/// A lock that was granted. Dropping it releases nothing: a release can fail, so it is asked for; a lock with a ttl runs
/// out by itself.
#[derive(Clone, Debug)]
pub struct HeldLock {
    session: SessionClient,
    token: Token,
    owner: String,
    lock_revision: u64,
    ttl: Option<Duration>,
}

impl HeldLock {
    fn of(session: SessionClient, grant: Grant) -> Self {
        Self {
            session,
            token: Token(grant.lock_token),
            owner: grant.owner,
            lock_revision: grant.lock_revision,
            ttl: grant.ttl_ms.map(Duration::from_millis),
        }
    }

    /// The proof, to be shown with every change.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// In whose name it is held.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The lock revision that granted it.
    pub fn lock_revision(&self) -> u64 {
        self.lock_revision
    }

    /// How long it lives without renewal; `None`: until it is released.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// Whether it still is held, as the record says it.
    pub fn validate(&self) -> Call<Validate> {
        self.session.validate(&self.token)
    }

    /// Restarts its lease. An edit with its token does that too.
    pub fn renew(&self) -> Call<Renew> {
        self.session.renew(&self.token)
    }

    /// Gives it back.
    pub fn release(&self) -> Call<Release> {
        self.session.release(&self.token)
    }
}

impl SessionClient {
    /// Takes the lock, and keeps the grant as a [`HeldLock`].
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use holdfast_client::{Acquire, Error, SessionClient};
    /// # async fn example(session: SessionClient) -> Result<(), Error> {
    /// match session.lock(Acquire::by("ann").ttl(Duration::from_secs(30))).await {
    ///     Ok(lock) => {
    ///         lock.renew().await?;
    ///         lock.release().await?;
    ///     }
    ///     Err(Error::Conflict(held)) => eprintln!("{} holds it", held.details["owner"]),
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Conflict`] with `lock_held` or `stale_token`, and as every call.
    pub async fn lock(&self, acquire: Acquire) -> Result<HeldLock, Error> {
        let grant = self.acquire(acquire).await?;
        Ok(self.held(grant))
    }

    /// A grant as a thing, however it was come by.
    pub fn held(&self, grant: Grant) -> HeldLock {
        HeldLock::of(self.clone(), grant)
    }

    /// Takes the lock.
    pub fn acquire(&self, acquire: Acquire) -> Call<Acquire> {
        self.call(acquire)
    }

    /// Whether `token` is the current one.
    pub fn validate(&self, token: &Token) -> Call<Validate> {
        self.call(Validate { token: token.clone() })
    }

    /// Restarts the lock's lease.
    pub fn renew(&self, token: &Token) -> Call<Renew> {
        self.call(Renew { token: token.clone() })
    }

    /// Gives the lock back.
    pub fn release(&self, token: &Token) -> Call<Release> {
        self.call(Release { token: token.clone() })
    }
}

/// Whole milliseconds; more than the contract allows is for the coordinator to refuse.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_in_any_debug_text() {
        let token = Token::new("very-secret");
        let asked = format!("{:?} {:?}", Acquire::by("a").rotating(&token), Release { token: token.clone() });
        assert!(!asked.contains("very-secret"), "{asked}");
        assert_eq!(token.reveal(), "very-secret");
    }
}
