//! `lock.*`: acquire, validate, renew, release, and a handle for a held lock.

use std::time::Duration;

use holdfast_protocol::Token;
use holdfast_protocol::reply::{Grant, Released, Renewed, Validated};
use holdfast_protocol::request::{Acquire, ShowToken};
use holdfast_protocol::subject::Verb;

use crate::call::Call;
use crate::client::SessionClient;
use crate::error::Error;

/// A granted lock. Dropping it does not release the lock, because a release can fail; call [`HeldLock::release`]. A
/// lock with a ttl expires by itself.
#[derive(Clone, Debug)]
pub struct HeldLock {
    session: SessionClient,
    grant: Grant,
}

impl HeldLock {
    /// The proof of holding the lock, sent with every change.
    pub fn token(&self) -> &Token {
        &self.grant.lock_token
    }

    /// The whole grant: owner, lock revision, fence and ttl.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Checks against the record whether it still is held.
    pub fn validate(&self) -> Call<Validated> {
        self.session.validate(self.token())
    }

    /// Restarts its lease. An edit with its token does so too.
    pub fn renew(&self) -> Call<Renewed> {
        self.session.renew(self.token())
    }

    /// Releases it.
    pub fn release(&self) -> Call<Released> {
        self.session.release(self.token())
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
    /// [`Error::Conflict`] with `lock_held` or `stale_token`, and those of every call.
    pub async fn lock(&self, acquire: Acquire) -> Result<HeldLock, Error> {
        let grant = self.acquire(acquire).await?;
        Ok(self.held(grant))
    }

    /// The handle for a grant from any source.
    pub fn held(&self, grant: Grant) -> HeldLock {
        HeldLock { session: self.clone(), grant }
    }

    /// Takes the lock.
    pub fn acquire(&self, acquire: Acquire) -> Call<Grant> {
        let wait = Duration::from_millis(acquire.wait_ms.unwrap_or(0));
        self.call(Verb::LockAcquire, &acquire).waiting(wait)
    }

    /// Whether `token` is the current one.
    pub fn validate(&self, token: &Token) -> Call<Validated> {
        self.show(Verb::LockValidate, token)
    }

    /// Restarts the lock's lease.
    pub fn renew(&self, token: &Token) -> Call<Renewed> {
        self.show(Verb::LockRenew, token)
    }

    /// Releases the lock.
    pub fn release(&self, token: &Token) -> Call<Released> {
        self.show(Verb::LockRelease, token)
    }

    fn show<T>(&self, verb: Verb, token: &Token) -> Call<T> {
        self.call(verb, &ShowToken { token: token.clone(), ..ShowToken::default() })
    }
}
