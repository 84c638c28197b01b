//! Takes a lock for a program that runs under it, and releases it.

use std::time::Duration;

use holdfast_client::protocol::reply::Grant;
use holdfast_client::protocol::request::Acquire;
use holdfast_client::signals::Group;
use holdfast_client::{Error, SessionClient};
use tokio::time::Instant;

use super::keep::Keeper;
use crate::ask::Asker;
use crate::exit::Failure;
use crate::output::{self, plain};

/// The longest wait of one request, in milliseconds; the contract's limit.
const LONGEST_WAIT_MS: u64 = 60_000;

/// How to hold a lock.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    /// The holder's name; `None`: one that says where to look.
    pub(crate) owner: Option<String>,
    pub(crate) ttl_ms: u64,
    pub(crate) wait_ms: u64,
    /// How long before the end of the ttl the loss must be known; a third of the ttl at most.
    pub(crate) grace: Duration,
}

/// What became of a lock that is not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// It is free, or ends by its ttl.
    Done,
    /// It was not ours any more.
    TooLate,
}

impl Holding {
    /// Takes the lock. Its signals are followed from before the request, so that none is missed.
    pub(crate) async fn take(self, asker: &Asker, session: &SessionClient) -> Result<Keeper, Failure> {
        let follower = session.follow(Some(Group::Lock)).await.map_err(|error| Failure::Connect(error.into()))?;
        let ttl = Duration::from_millis(self.ttl_ms);
        let (grant, mut sent) = self.acquire(asker, session).await?;
        // The lease began when the wait was over, and nobody here knows when that was. A renewal makes it known.
        if sent.elapsed() > ttl / 10 {
            sent = Instant::now();
            session.renew(&grant.lock_token).within(ttl / 3).await?;
        }
        Ok(Keeper { session: session.clone(), grant, follower, ttl, grace: self.grace.min(ttl / 3), sent })
    }

    /// The grant, and when the request for it was sent.
    async fn acquire(&self, asker: &Asker, session: &SessionClient) -> Result<(Grant, Instant), Failure> {
        let owner = self.owner.clone().unwrap_or_else(|| this_process(asker.actor()));
        let until = Instant::now() + Duration::from_millis(self.wait_ms);
        loop {
            let left = until.saturating_duration_since(Instant::now()).as_millis();
            let wait_ms = u64::try_from(left).unwrap_or(u64::MAX).min(LONGEST_WAIT_MS);
            let wait_ms = (wait_ms > 0).then_some(wait_ms);
            let acquire = Acquire { owner: owner.clone(), ttl_ms: Some(self.ttl_ms), wait_ms, ..Acquire::default() };
            let sent = Instant::now();
            match asker.acting(session.acquire(acquire)).send().await {
                Ok(grant) => return Ok((grant, sent)),
                // The wait is longer than one request may wait.
                Err(Error::Conflict(_)) if wait_ms == Some(LONGEST_WAIT_MS) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Releases the lock. Says so if that fails.
pub(crate) async fn release(asker: &Asker, session: &SessionClient, grant: &Grant) -> Release {
    let Err(error) = asker.acting(session.release(&grant.lock_token)).send().await else { return Release::Done };
    let (id, why) = (session.id(), plain(&error.to_string()));
    if matches!(error, Error::Conflict(_)) {
        output::note(&format!("holdfast: the lock of session {id} was lost before its release: {why}"));
        return Release::TooLate;
    }
    let left = grant.ttl_ms.unwrap_or_default();
    output::note(&format!("holdfast: the lock of session {id} is not released, and ends within {left} ms: {why}"));
    Release::Done
}

/// A holder's name that says where to look: `ann@host/4711`.
fn this_process(user: Option<&str>) -> String {
    let host = rustix::system::uname();
    format!("{}@{}/{}", user.unwrap_or("holdfast"), host.nodename().to_string_lossy(), std::process::id())
}
