//! Takes back grants whose reply had no responder; the lock then goes to the next waiter.
//!
//! A grant is published with a reply subject of this coordinator. If the grant has no responder, nats-server says so
//! there with status 503, one round trip later. Each of these subjects is known only to the receiver of its grant, so
//! no client can have another client's grant taken back.
//!
//! Deliberately absent: requesters behind a service import. There the server itself is the responder, so a requester
//! that is gone cannot be detected; see `Asker::is_imported`. Their grants are published without a reply
//! subject: they end by the `ttl_ms` that a waiter must give there.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{StatusCode, Subject};
use futures_util::StreamExt;
use holdfast_protocol::{Error, SessionKey};
use holdfast_records::{Change, Known, NotDone, Wrote, change};
use holdfast_rules::{Decision, expire};
use holdfast_store::chance;
use holdfast_store::mutant::{self, Mutant};
use holdfast_store::wire::Subscription;
use moka::policy::EvictionPolicy;

use crate::context::Context;
use crate::error::{self, StartError};
use crate::operation::Operation;
use crate::writer::Writer;

/// How long a grant is remembered. The server's 503 arrives within a round trip; this only bounds memory.
const REMEMBERED: Duration = Duration::from_secs(30);
/// How many grants are remembered.
const MOST: u64 = 65_536;
/// How many times taking a grant back is attempted while storage is not available.
const TRIES: u32 = 60;
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// One grant of a lock.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    /// The session.
    pub(crate) key: SessionKey,
    /// Identifies the grant: no two grants on one id have the same fence, even after the session was closed.
    pub(crate) fence: u64,
}

/// The grants that were published a moment ago.
pub(crate) struct Grants {
    /// The prefix of their reply subjects.
    prefix: String,
    recent: moka::sync::Cache<String, Granted>,
}

impl Grants {
    pub(crate) fn new(inbox: &str) -> Self {
        let recent = moka::sync::Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(MOST)
            .time_to_live(REMEMBERED)
            .build();
        Self { prefix: format!("{inbox}."), recent }
    }

    /// Remembers the grant. Returns the reply subject to publish it with.
    pub(crate) fn expect(&self, granted: Granted) -> Subject {
        let name = chance::secret_id().simple().to_string();
        let subject = format!("{}{name}", self.prefix).into();
        self.recent.insert(name, granted);
        subject
    }

    fn unheard(&self, subject: &str) -> Option<Granted> {
        self.recent.remove(subject.strip_prefix(&self.prefix)?)
    }
}

/// Subscribes to the server's 503 messages about grants.
///
/// # Errors
/// [`StartError`] when the connection takes no subscriptions.
pub(crate) async fn subscribe(context: &Context) -> Result<Subscription, StartError> {
    let subject = format!("{}*", context.grants.prefix);
    context
        .wire
        .subscribe(subject.clone().into(), None)
        .await
        .map_err(|source| StartError::Subscribe { subject, source })
}

/// Takes grants back as their 503 messages arrive, until the subscription ends.
pub(crate) async fn watch(context: Arc<Context>, mut words: Subscription) {
    while let Some(word) = words.next().await {
        if word.status != Some(StatusCode::NO_RESPONDERS) || mutant::is(Mutant::GrantToWhoIsGone) {
            continue;
        }
        if let Some(granted) = context.grants.unheard(&word.subject) {
            let task = take_back(context.clone(), granted);
            context.tasks.spawn(context.abort.clone().run_until_cancelled_owned(task));
        }
    }
}

async fn take_back(context: Arc<Context>, granted: Granted) {
    let Granted { key, fence } = &granted;
    for _ in 0..TRIES {
        match try_take_back(&context, key, *fence).await {
            Ok(Wrote::Nothing) => return,
            Ok(_) => {
                tracing::info!(%key, fence, "a grant had no responder; the lock is free again");
                return;
            }
            Err(not_done) => {
                let error = error::of_not_done(not_done, key);
                tracing::debug!(%key, %error, "a grant without a responder was not taken back yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    tracing::warn!(%key, fence, "a grant without a responder was not taken back");
}

pub(crate) async fn try_take_back(context: &Context, key: &SessionKey, fence: u64) -> Result<Wrote, NotDone<Error>> {
    let operation = Operation::own(context.config.request_timeout).urgent();
    let done = change(&mut Writer::new(context, key, &operation), &TakingBack { fence }).await?;
    Ok(done.wrote)
}

/// Frees the lock, if it is still the one that was granted with this fence.
struct TakingBack {
    fence: u64,
}

impl Change<Writer<'_>> for TakingBack {
    type Reply = ();

    async fn decide(&self, _: &Writer<'_>, known: &Known) -> Result<Decision<()>, Error> {
        Ok(match expire::take_back(&known.record, self.fence) {
            Some(next) => Decision::Commit { next: Box::new(next), reply: () },
            None => Decision::Unchanged(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_word_about_a_grant_counts_once_and_only_under_its_own_subject() {
        let grants = Grants::new("_INBOX.x");
        let granted = |fence| Granted { key: fixture::key("s1"), fence };
        let (one, two) = (grants.expect(granted(1)), grants.expect(granted(2)));
        assert!(grants.unheard("_INBOX.x.guessed").is_none() && grants.unheard("_INBOX.y.").is_none());
        assert_eq!(grants.unheard(&two).unwrap().fence, 2);
        assert!(grants.unheard(&two).is_none());
        assert_eq!(grants.unheard(&one).unwrap().fence, 1);
    }
}
